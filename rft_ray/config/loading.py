"""A YAML file and `--section.key=value` arguments -> one frozen `Config`, or one ConfigError.

Reads the file, applies the arguments over it, validates, and turns pydantic's errors into lines that say which key is
wrong, why, and which known key is nearest.
"""

from __future__ import annotations

import copy
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rft_ray.config.moved_keys import MOVED, old_keys
from rft_ray.config.schema import SECRET, BaseModelSpec, Config, ConfigError


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `section.key=value` overrides (values are YAML; `models.0.source=…` works).

    Prints a note to stderr for each old key (`moved_keys.py`). Raises ConfigError with one line per problem, which
    names file and key.
    """
    where = "the command line" if path is None else str(path)
    tree = {} if path is None else _read_yaml(Path(path))
    for override in overrides:
        _apply(tree, override)
    for key in old_keys(tree):
        print(f"{where}: {key} is now {MOVED[key]}: the old key is still read", file=sys.stderr)
    return _validated(tree, where, "\n")


def saved_config(data: bytes, where: str) -> Config:
    """The config that a run saved in its `config.yaml`. Raises ConfigError with one line, which names `where`."""
    return _validated(saved_tree(data, where), where, "; ")


def saved_tree(data: bytes, where: str) -> dict[str, Any]:
    """The sections of a saved config, not validated. Raises ConfigError as `saved_config` does."""
    try:
        tree = yaml.safe_load(data.decode()) or {}
        if isinstance(tree, dict):
            return tree
        why = f"it is a {type(tree).__name__}"
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
    raise ConfigError(f"{where} is damaged ({why}): run the run's command again, which writes it again")


def _validated(tree: dict[str, Any], where: str, separator: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(problem, tree) for problem in error.errors()]
        raise ConfigError(f"{where}: " + separator.join(lines)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1, 0.3)
        hint = f"; nearest file there: {near[0]}" if near else ""
        raise ConfigError(f"config file {path} does not exist{hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold sections (key: value), but is a {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.removeprefix("--").partition("=")
    if not equals:
        raise ConfigError(f"{override!r}: write --section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{key}: {text!r} is not a YAML value: {error}") from None
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _descend(node, part, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _descend(node: Any, part: str, key: str) -> Any:
    """A copy of a section's child, put in its place: a YAML anchor makes two sections share one object."""
    at: Any = _index(node, part, key) if isinstance(node, list) else part
    child = node[at] if isinstance(node, list) else node.get(part)
    if child is not None and not isinstance(child, dict | list):
        raise ConfigError(f"--{key}: {part!r} is a value, not a section")
    node[at] = {} if child is None else copy.copy(child)
    return node[at]


def _index(node: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise ConfigError(f"--{key}: {part!r} is not an index below {len(node)}")


def _explain(problem: Mapping[str, Any], tree: dict[str, Any]) -> str:
    """One error of pydantic as a line for the user."""
    key = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        parent, known = key.rpartition(".")[0], sorted(known_keys())
        pattern = re.sub(r"\.\d+(?=\.|$)", ".*", key)
        near = difflib.get_close_matches(pattern, known, 1, 0.5) or difflib.get_close_matches(
            key.rpartition(".")[2], [k.rpartition(".")[2] for k in known], 1, 0.5
        )
        return f"unknown key {key!r}" + (f"; nearest known key: {near[0]!r}" if near else f" in {parent!r}")
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) and SECRET not in message else ""
    return f"{key}: {message}{shown}"


def known_keys() -> Iterator[str]:
    """Every key of the config, dotted; `*` stands for an index of a list."""

    def walk(section: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            inner = field.annotation
            yield prefix + name
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from walk(inner, f"{prefix}{name}.")
            elif name == "models":
                yield from walk(BaseModelSpec, "models.*.")

    yield from walk(Config, "")
