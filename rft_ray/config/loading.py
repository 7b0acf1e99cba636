"""A YAML file and `--section.key=value` arguments -> one frozen `Config`, or one ConfigError.

Reads the file, applies the arguments over it, validates, and turns pydantic's errors into lines that say which key is
wrong, why, and which known key is nearest.
"""

from __future__ import annotations

import copy
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rft_ray.config import yaml_reader
from rft_ray.config.errors import ConfigError
from rft_ray.config.moved_keys import MOVED, old_keys
from rft_ray.config.schema import Config
from rft_ray.config.section import SECRETS

COMMAND_LINE = "the command line"
PLAIN = {
    "missing": "is missing: add it",
    "model_type": "must be a section, with keys of its own (key: value)",
    "tuple_type": "must be a list",
    "dict_type": "must be a section (key: value)",
    "too_short": "must not be empty",
    "string_type": "must be a text: put it in quotes",
}
"""Kinds of pydantic's errors whose own messages speak of types -> what to say."""
NULL = ("null", "Null", "NULL", "~", "")
"""YAML's words for no value."""
_BRANCH = re.compile(r"literal\[.*\]|constrained-\w+|int|bool")
"""What pydantic adds to the place of a problem where a key has several kinds of value."""


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `section.key=value` overrides (`models.0.source=…` works).

    The value of a text field is taken as it is, or without its quotes where it is all in quotes, and `null` is no text
    where the field may be null; other values are YAML.
    Prints a note to stderr for each old key (`moved_keys.py`). Raises ConfigError with one line per problem, which
    names the file or the command line, and the key.
    """
    where = COMMAND_LINE if path is None else str(path)
    tree = {} if path is None else _read_yaml(Path(path))
    given = [_apply(tree, override) for override in overrides]
    for key in old_keys(tree):
        print(f"{where}: {key} is now {MOVED[key]}: the old key is still read", file=sys.stderr)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [f"{_blamed(where, key, line, given)}: {line}" for key, line in _explanations(error, tree)]
        raise ConfigError("\n".join(lines)) from None


def saved_config(data: bytes, where: str) -> Config:
    """The config that a run saved in its `config.yaml`. Raises ConfigError with one line, which names `where`."""
    tree = saved_tree(data, where)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [line for _, line in _explanations(error, tree)]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml_reader.read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1, 0.3)
        hint = f"; nearest file there: {near[0]}" if near else ""
        raise ConfigError(f"config file {path} does not exist{hint}") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read ({error.strerror}): check path and permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not UTF-8 at byte {error.start + 1}: save it as UTF-8") from None
    except yaml_reader.YamlError as error:
        raise ConfigError(f"{path}:{error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold sections (key: value), but is a {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> str:
    """Set one override in the tree. Returns its key, under its new name where it has moved."""
    key, equals, text = override.removeprefix("--").partition("=")
    if not equals:
        raise ConfigError(f"{override!r}: write --section.key=value")
    value = _value(key, text)
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _descend(node, part, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value
    return MOVED.get(key, key)


def _value(key: str, text: str) -> Any:
    """The value of an override. Raises ConfigError where the text is no YAML and the field is no text field."""
    quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    pattern = _pattern(key)
    is_text = pattern in _text_keys()
    if is_text and not quoted and not (_text_keys()[pattern] and text in NULL):
        return text
    try:
        return yaml_reader.read(text)
    except yaml_reader.YamlError as error:
        if is_text:
            return text
        raise ConfigError(f"{COMMAND_LINE}: --{key}={text}: not a YAML value, at {error}") from None


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
    indices = f"0 to {len(node) - 1}" if node else "none: it is empty"
    raise ConfigError(f"--{key}: {part!r} is no index of this list: write the place of an element, from 0 ({indices})")


def _explanations(error: ValidationError, tree: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, line for the user) of each problem. A key that is missing because it is misspelt is one problem."""
    problems = _without_branches(error.errors())
    unknown = [_dotted(problem) for problem in problems if problem["type"] == "extra_forbidden"]
    meant = {_nearest(key, beside=True) for key in unknown} - {None}
    return [
        (_dotted(problem), _explain(problem))
        for problem in problems
        if not (problem["type"] == "missing" and _pattern(_dotted(problem)) in meant)
        and not (problem["type"] == "too_short" and problem["input"])  # its members are invalid, and named themselves
    ]


def _without_branches(problems: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The problems, those of the kinds of value that one key may have (`auto` or a number) as one of that key."""
    known, joined = set(known_keys()), dict[tuple[Any, ...], dict[str, Any]]()
    for problem in problems:
        place = tuple(problem["loc"])
        if place and _BRANCH.fullmatch(str(place[-1])) and _pattern(".".join(map(str, place[:-1]))) in known:
            place = place[:-1]
        before = joined.get(place)
        message = f"{before['msg']}, or: {problem['msg']}" if before else problem["msg"]
        joined[place] = {**(before or problem), "loc": place, "msg": message}
    return list(joined.values())


def _dotted(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _pattern(key: str) -> str:
    """A key with `*` in place of an index, as in `known_keys`."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", key)


def _nearest(key: str, *, beside: bool = False) -> str | None:
    """The known key that is most similar to an unknown one. `beside`: of the same section only."""
    known, parent = sorted(known_keys()), _pattern(key).rpartition(".")[0]
    if beside:
        known = [other for other in known if other.rpartition(".")[0] == parent]
    whole = difflib.get_close_matches(_pattern(key), known, 1, 0.5)
    last = difflib.get_close_matches(key.rpartition(".")[2], [other.rpartition(".")[2] for other in known], 1, 0.5)
    return next(iter(whole or last), None)


def _explain(problem: Mapping[str, Any]) -> str:
    """One error of pydantic as a line for the user."""
    key, kind = _dotted(problem) or "config", problem["type"]
    if kind == "extra_forbidden":
        near = _nearest(key)
        return f"unknown key {key!r}" + (
            f"; nearest known key: {near!r}" if near else f" in {key.rpartition('.')[0]!r}"
        )
    if key == "models" and kind in ("missing", "tuple_type", "too_short"):
        what = {"missing": "is missing", "tuple_type": "must be a list"}.get(kind, "is empty")
        return f"models: {what}: write models: [{{name: a, source: 'hub:owner/name'}}], with at least one base model"
    if kind in PLAIN:
        return f"{key}: {PLAIN[kind]}" + (", or null for no SFT" if key == "sft" else "")
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    secret = any(text in message for text in SECRETS)
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) and not secret else ""
    return f"{key}: {message}{shown}"


def _blamed(where: str, key: str, line: str, given: Sequence[str]) -> str:
    """Where a problem comes from: the file, the command line, or the file with some keys of the command line."""
    if any(f"{key}.".startswith(f"{override}.") for override in given):
        return COMMAND_LINE
    below = [override for override in given if (f"{override}.".startswith(f"{key}.") if key else override in line)]
    return where if where == COMMAND_LINE or not below else f"{where} with --{', --'.join(below)}"


@cache
def _text_keys() -> dict[str, bool]:
    """The known keys whose value is a text -> whether it may be null instead."""
    kinds = {key: get_args(field.annotation) or (field.annotation,) for key, field in known_fields()}
    plain = {key: {str if get_origin(kind) is Annotated else kind for kind in of_key} for key, of_key in kinds.items()}
    return {key: type(None) in of_key for key, of_key in plain.items() if of_key - {type(None)} == {str}}


def known_keys() -> Iterator[str]:
    """Every key of the config, dotted; `*` stands for an index of a list."""
    return (key for key, _ in known_fields())


def known_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every key as in `known_keys`, with its field."""

    def walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
        for name, field in section.model_fields.items():
            key = prefix + (field.alias or name)
            yield key, field
            if inner := section_of(field):
                yield from walk(inner, f"{key}.*." if get_origin(field.annotation) is tuple else f"{key}.")

    return walk(Config, "")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, or may hold; None for a value."""
    kinds = get_args(field.annotation) or (field.annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
