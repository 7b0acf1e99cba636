"""What a finished run has to serve: run URL -> the chosen models and the run's own engine settings.

Reads `summary.json` and `config.yaml` of the run; imports no ray, torch or vllm, so that a wrong name is refused
before anything starts.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rft_ray import config
from rft_ray.models import ModelError, committed_model
from rft_ray.store import NotFound, Store, StoreError, open_store


class CatalogError(ValueError):
    """A run or a model that cannot be served. One line: what, where, and what to do."""


class Entry(BaseModel):
    """One trained model of a run, as its summary lists it.

    Example: Entry(model="tiny-m", stage="rft", fingerprint="5f0c…", base="tiny:tiny-m")
    """

    model_config = ConfigDict(frozen=True)

    model: str
    stage: str
    fingerprint: str
    base: str

    @property
    def served_as(self) -> str:
        """The name that clients ask for: `tiny-m-rft`."""
        return f"{self.model}-{self.stage}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the run itself sampled: serving does the same unless told otherwise."""

    engine: config.Engine
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What one engine gets.

    Example: Resources(gpu=False, cpus=2, replicas=1, max_tokens=256)
    """

    gpu: bool
    cpus: float
    """CPUs that an engine without GPU asks of its node. It computes with the config's `threads_per_actor` anyhow."""
    replicas: int
    """Engines per model."""
    max_tokens: int
    """Tokens of one completion at most, on every route."""


class _Summary(BaseModel):
    finished: bool = False
    models: list[Entry] = []


def choose(run: str, model: str | None, stage: str) -> list[Entry]:
    """The models of a finished run to serve: all of one stage, or the one named. Raises CatalogError."""
    summary = _summary(run)
    if not summary.finished:
        raise CatalogError(f"{run} is not finished: run its pipeline again, it goes on where it stopped")
    if not summary.models:
        raise CatalogError(f"{run}/summary.json lists no models: nothing to serve")
    staged = [entry for entry in summary.models if entry.stage == stage]
    if not staged:
        stages = ", ".join(sorted({entry.stage for entry in summary.models}))
        raise CatalogError(f"{run} has no model of stage {stage!r}; it has: {stages}")
    chosen = [entry for entry in staged if model in (None, entry.model, entry.served_as)]
    if not chosen:
        raise CatalogError(f"{run} has no {stage} model {model!r}; {_nearest(str(model), [e.model for e in staged])}")
    _check_committed(run, chosen)
    return chosen


def address(run: str) -> str:
    """The run's address for other processes: an absolute path or s3://."""
    return _open(run).url


def settings(run: str) -> Settings:
    """The engine settings and token limit of a run; the defaults where it keeps no config.yaml."""
    try:
        tree = yaml.safe_load(_open(run).read("config.yaml"))
        recorded = config.Config.model_validate(tree)
    except NotFound:
        return Settings(config.Engine(), config.Sampling().max_new_tokens)
    except (StoreError, ValidationError, yaml.YAMLError) as error:
        raise CatalogError(f"{run}/config.yaml cannot be used: {_first_line(error)}") from None
    return Settings(recorded.engine, recorded.sampling.max_new_tokens)


def newest(folder: str) -> str:
    """The run under a local folder that finished last, by its summary's time. Raises CatalogError."""
    if "://" in folder:
        raise CatalogError(
            f"--newest looks through a local folder, not {folder}: name the run with --run {folder}/NAME"
        )
    found = sorted(Path(folder).expanduser().glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        try:
            if _summary(str(path.parent)).finished:
                return str(path.parent)
        except CatalogError:
            continue
    names = ", ".join(path.parent.name for path in found)
    raise CatalogError(f"no finished run under {folder}" + (f" (unfinished: {names})" if names else ""))


def _open(run: str) -> Store:
    try:
        return open_store(run)
    except StoreError as error:
        raise CatalogError(_first_line(error)) from None


def _summary(run: str) -> _Summary:
    try:
        tree: Any = json.loads(_open(run).read("summary.json"))
        return _Summary.model_validate(tree)
    except NotFound:
        raise CatalogError(f"{run} has no summary.json: give the folder or s3:// address of a finished run") from None
    except (StoreError, ValueError) as error:
        raise CatalogError(f"{run}/summary.json cannot be used: {_first_line(error)}") from None


def _check_committed(run: str, entries: Iterable[Entry]) -> None:
    try:
        missing = [entry for entry in entries if committed_model(_open(run), entry.fingerprint) is None]
    except (StoreError, ModelError) as error:
        raise CatalogError(_first_line(error)) from None
    if missing:
        raise CatalogError(f"{run} lists {missing[0].served_as}, but its files are not there: run its pipeline again")


def _nearest(name: str, names: Iterable[str]) -> str:
    known = sorted(set(names))
    near = difflib.get_close_matches(name, known, 3, 0.5)
    return f"nearest: {', '.join(near)}" if near else f"it has: {', '.join(known)}"


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]
