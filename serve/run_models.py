"""What a finished run has to serve: run URL -> the chosen models, their lineage, and the run's own engine settings.

Reads `summary.json`, `config.yaml` and the models' manifests; imports no ray, torch or vllm, so that a wrong name is
refused before anything starts.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rft_ray import config
from rft_ray.store import NotFound, Store, StoreError, open_store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError
from serve.api import schemas


class CatalogError(ValueError):
    """A run or a model that cannot be served. One line: what, where, and what to do."""


class Entry(BaseModel):
    """One model of a run: a trained one as its summary lists it, or a base model (stage `base`).

    Example: Entry(model="tiny-m", stage="rft", fingerprint="5f0c…", base="tiny:tiny-m")
    """

    model_config = ConfigDict(frozen=True)

    model: str
    stage: str
    fingerprint: str
    base: str
    prompted_as: str = ""
    """Of a base model: the fingerprint of a model trained from it, whose chat template it is asked with."""

    @property
    def served_as(self) -> str:
        """The name that clients ask for: `tiny-m-rft`."""
        return f"{self.model}-{self.stage}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the run itself sampled: serving does the same unless told otherwise."""

    engine: config.Engine
    max_tokens: int
    max_model_len: int | None


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
    max_model_len: int | None = None
    """Tokens of prompt and completion together; None: the model's own context."""


COMPARED = ("rft", "sft", "base")
"""In this order: the first served answers requests that name no model."""


class _CorpusCounts(BaseModel):
    gold: int
    paths: int
    by_model: dict[str, int] = {}
    file: str = ""


class _Summary(BaseModel):
    finished: bool = False
    models: list[Entry] = []
    corpus: _CorpusCounts | None = None
    evaluation: dict[str, dict[str, dict[str, schemas.Metric]]] = {}


def choose(run: str, model: str | None, stage: str) -> list[Entry]:
    """The models of a finished run to serve: all of one stage or of `all`, or the one named. Raises CatalogError.

    `compare`: RFT, SFT and base of one model, the one named or else the one that answers best.
    """
    summary = _summary(run)
    if not summary.finished:
        raise CatalogError(f"{run} is not finished: run its pipeline again, it goes on where it stopped")
    if not summary.models:
        raise CatalogError(f"{run}/summary.json lists no models: nothing to serve")
    if stage == "compare" and model is None:
        model = _best(summary)
    wanted = COMPARED if stage == "compare" else (stage,)
    known = [*summary.models, *_bases(summary.models)]
    staged = [
        entry for one in wanted for entry in known if one == entry.stage or (one, entry.prompted_as) == ("all", "")
    ]
    if not staged:
        stages = ", ".join(sorted({entry.stage for entry in known}))
        raise CatalogError(f"{run} has no model of stage {stage!r}; it has: {stages}")
    chosen = [entry for entry in staged if model in (None, entry.model, entry.served_as)]
    if not chosen:
        kind = "" if stage in ("all", "compare") else f"{stage} "
        raise CatalogError(f"{run} has no {kind}model {model!r}; {_nearest(str(model), [e.model for e in staged])}")
    _check_committed(run, chosen)
    return chosen


def _bases(trained: Iterable[Entry]) -> list[Entry]:
    """The base models that a run's models were trained from."""
    first: dict[str, Entry] = {}
    for entry in trained:
        first.setdefault(entry.model, entry)
    return [
        Entry(model=one.model, stage="base", fingerprint="", base=one.base, prompted_as=one.fingerprint)
        for one in first.values()
    ]


def _best(summary: _Summary) -> str:
    """The model whose RFT answers most test problems right; the last listed where the run does not say."""

    def right(model: str) -> float:
        metric = summary.evaluation.get(model, {}).get("rft", {}).get("maj1@1")
        return metric.value if metric else 0.0

    return max(reversed([entry.model for entry in summary.models]), key=right)


def details(run: str, entry: Entry) -> schemas.ModelDetails:
    """Where a model comes from and how good it is, from its manifest and the run's summary. Raises CatalogError."""
    summary, store = _summary(run), _open(run)
    try:
        manifest = committed_model(store, entry.fingerprint) if entry.fingerprint else None
    except (StoreError, ModelError) as error:
        raise CatalogError(_first_line(error)) from None
    recorded = manifest.metadata if manifest else {}
    settings = dict(recorded.get("recipe") or {})
    settings |= {name: recorded[name] for name in ("seed", "template") if name in recorded}
    return schemas.ModelDetails(
        id=entry.served_as,
        created=int(time.time()),
        run=store.url.rstrip("/").rpartition("/")[2],
        stage=entry.stage,
        base=entry.base,
        fingerprint=entry.fingerprint,
        corpus=_corpus(str(recorded.get("data") or ""), summary.corpus),
        settings=settings,
        evaluation=summary.evaluation.get(entry.model, {}).get(entry.stage, {}),
    )


def _corpus(data: str, counts: _CorpusCounts | None) -> schemas.Corpus | None:
    """The corpus file that a manifest names, with its counts where the summary counts the same one."""
    if not data:
        return None
    fingerprint = PurePosixPath(data).stem
    if counts is None or PurePosixPath(counts.file).stem != fingerprint:
        return schemas.Corpus(fingerprint=fingerprint)
    samplers = [
        schemas.Sampler(model=model, paths=paths, share=paths / max(1, counts.paths))
        for model, paths in counts.by_model.items()
    ]
    return schemas.Corpus(fingerprint=fingerprint, gold=counts.gold, paths=counts.paths, samplers=samplers)


def address(run: str) -> str:
    """The run's address for other processes: an absolute path or s3://."""
    return _open(run).url


def settings(run: str) -> Settings:
    """The engine settings and token limit of a run; the defaults where it keeps no config.yaml."""
    try:
        tree = yaml.safe_load(_open(run).read("config.yaml"))
        recorded = config.Config.model_validate(tree)
    except NotFound:
        sampling = config.Sampling()
        return Settings(config.Engine(), sampling.max_new_tokens, sampling.max_model_len)
    except (StoreError, ValidationError, yaml.YAMLError) as error:
        raise CatalogError(f"{run}/config.yaml cannot be used: {_first_line(error)}") from None
    return Settings(recorded.engine, recorded.sampling.max_new_tokens, recorded.sampling.max_model_len)


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
        store = _open(run)
        missing = [one for one in entries if committed_model(store, one.fingerprint or one.prompted_as) is None]
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
