"""The models of a finished run: run URL -> the models to serve, their lineage, and the run's engine settings.

Reads `summary.json`, `config.yaml` and the models' manifests. Imports no ray, torch or vllm, so that a wrong name is
refused within a second, before Ray starts.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rft_ray import config
from rft_ray.config.errors import InputError
from rft_ray.config.loading import saved_config
from rft_ray.store import NotFound, Store, StoreError, open_run
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError
from serve.api import schemas


class RunModelsError(InputError, ValueError):
    """Raised for a run or a model that cannot be served. The message is one line: what, where, and what to do."""


class RunModel(BaseModel):
    """One model of a run: a trained model of its summary, or a base model (stage `base`).

    Example: RunModel(model="tiny-m", stage="rft", fingerprint="5f0c…", base="tiny:tiny-m")
    """

    model_config = ConfigDict(frozen=True)

    model: str
    stage: str
    fingerprint: str
    base: str
    template_model: str = ""
    """For a base model: the fingerprint of a model trained from it, whose chat template it uses."""

    @property
    def served_as(self) -> str:
        """The model's name in requests: `tiny-m-rft`."""
        return f"{self.model}-{self.stage}"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The run's own sampling settings, which are the defaults of serving."""

    engine: config.Engine
    max_tokens: int
    max_model_len: int | None
    sampled: Mapping[str, float] = field(default_factory=dict)
    """`top_k`, `min_p` and `repetition_penalty` of the run's samples, those that have an effect."""
    reasoning_tags: tuple[str, ...] = ("think",)
    """Tags of reasoning, which is not read."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of one engine, and its limits.

    Example: Resources(gpu=False, cpus=2, replicas=1, max_tokens=256)
    """

    gpu: bool
    cpus: float
    """CPUs that an engine without GPU reserves on its node. It computes with the config's `threads_per_actor`."""
    replicas: int
    """Engines per model."""
    max_tokens: int
    """Most tokens of one completion, on every route."""
    max_model_len: int | None = None
    """Tokens of prompt and completion together; None: the model's own context."""
    sampled: Mapping[str, float] = field(default_factory=dict)
    """As in RunSettings: the defaults of requests that are not greedy."""
    reasoning_tags: tuple[str, ...] = ("think",)
    """As in RunSettings."""


COMPARED = ("rft", "sft", "base")
"""The stages of `compare`, in order: the first one is the default model of requests."""


class _CorpusCounts(BaseModel):
    gold: int
    paths: int
    by_model: dict[str, int] = {}
    file: str = ""


class _Summary(BaseModel):
    finished: bool = False
    models: list[RunModel] = []
    corpus: _CorpusCounts | None = None
    evaluation: dict[str, dict[str, dict[str, schemas.Metric]]] = {}


def choose(run: str, model: str | None, stage: str) -> list[RunModel]:
    """The models of a finished run to serve: all models of a stage, or the named one. Raises RunModelsError.

    `compare`: RFT, SFT and base of one model: the named one, or by default the most accurate one.
    """
    summary = _summary(run)
    if not summary.finished:
        raise RunModelsError(f"{run} is not finished: run its pipeline again, it continues where it stopped")
    if not summary.models:
        raise RunModelsError(f"{run}/summary.json lists no models, so there is nothing to serve")
    if stage == "compare" and model is None:
        model = _best(summary)
    stages = COMPARED if stage == "compare" else (stage,)
    known = [*summary.models, *_bases(summary.models)]
    staged = [
        entry
        for name in stages
        for entry in known
        if name == entry.stage or (name, entry.template_model) == ("all", "")
    ]
    if not staged:
        existing = ", ".join(sorted({entry.stage for entry in known}))
        raise RunModelsError(f"{run} has no model of stage {stage!r}; it has: {existing}")
    chosen = [entry for entry in staged if model in (None, entry.model, entry.served_as)]
    if not chosen:
        kind = "" if stage in ("all", "compare") else f"{stage} "
        raise RunModelsError(f"{run} has no {kind}model {model!r}; {_nearest(str(model), [e.model for e in staged])}")
    _check_committed(run, chosen)
    return chosen


def _bases(trained: Iterable[RunModel]) -> list[RunModel]:
    """The base models that a run's models were trained from."""
    first: dict[str, RunModel] = {}
    for entry in trained:
        first.setdefault(entry.model, entry)
    return [
        RunModel(model=entry.model, stage="base", fingerprint="", base=entry.base, template_model=entry.fingerprint)
        for entry in first.values()
    ]


def _best(summary: _Summary) -> str:
    """The model whose RFT solves most test problems; the last listed one where the run has no evaluation."""

    def accuracy(model: str) -> float:
        metric = summary.evaluation.get(model, {}).get("rft", {}).get("maj1@1")
        return metric.value if metric else 0.0

    return max(reversed([entry.model for entry in summary.models]), key=accuracy)


def details(run: str, entry: RunModel) -> schemas.ModelDetails:
    """A model's lineage and evaluation, from its manifest and the run's summary. Raises RunModelsError."""
    summary, store = _summary(run), _open(run)
    try:
        manifest = committed_model(store, entry.fingerprint) if entry.fingerprint else None
    except (StoreError, ModelError) as error:
        raise RunModelsError(_first_line(error)) from None
    recorded = manifest.metadata if manifest else {}
    recipe = dict(recorded.get("recipe") or {})
    recipe |= {name: recorded[name] for name in ("seed", "template") if name in recorded}
    return schemas.ModelDetails(
        id=entry.served_as,
        created=int(time.time()),
        run=store.url.rstrip("/").rpartition("/")[2],
        stage=entry.stage,
        base=entry.base,
        fingerprint=entry.fingerprint,
        max_model_len=_context(run, store, entry),
        corpus=_corpus(str(recorded.get("data") or ""), summary.corpus),
        settings=recipe,
        evaluation=summary.evaluation.get(entry.model, {}).get(entry.stage, {}),
    )


def _context(run: str, store: Store, entry: RunModel) -> int | None:
    """Tokens of a model's context: the run's own setting, otherwise that of the model's config.json."""
    if (configured := settings(run).max_model_len) is not None:
        return configured
    try:
        manifest = committed_model(store, entry.fingerprint or entry.template_model)
        tree: Any = json.loads(store.read(f"{manifest.folder}/config.json")) if manifest else {}
    except (StoreError, ModelError, ValueError) as error:
        raise RunModelsError(_first_line(error)) from None
    length = tree.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _corpus(data: str, counts: _CorpusCounts | None) -> schemas.Corpus | None:
    """The corpus that a manifest names, with the summary's counts where they are of the same corpus."""
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


def settings(run: str) -> RunSettings:
    """The engine settings and token limit of a run; the defaults where it has no config.yaml."""
    try:
        recorded = saved_config(_open(run).read("config.yaml"), f"{run}/config.yaml")
    except NotFound:
        sampling = config.Sampling()
        return RunSettings(config.Engine(), sampling.max_new_tokens, sampling.max_model_len)
    except config.ConfigError as error:
        raise RunModelsError(str(error)) from None
    except StoreError as error:
        raise RunModelsError(f"{run}/config.yaml cannot be used: {_first_line(error)}") from None
    sampling = recorded.sampling
    return RunSettings(
        recorded.engine,
        sampling.max_new_tokens,
        sampling.max_model_len,
        sampling.beyond_openai,
        recorded.corpus.reasoning_tags,
    )


def newest(folder: str) -> str:
    """The last finished run under a local folder, by its summary's time. Raises RunModelsError."""
    if "://" in folder:
        raise RunModelsError(f"--newest needs a local folder, not {folder}: name the run with --run {folder}/NAME")
    summaries = sorted(Path(folder).expanduser().glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(summaries):
        try:
            if _summary(str(path.parent)).finished:
                return str(path.parent)
        except RunModelsError:
            continue
    names = ", ".join(path.parent.name for path in summaries)
    raise RunModelsError(f"there is no finished run under {folder}" + (f" (unfinished: {names})" if names else ""))


def _open(run: str) -> Store:
    try:
        return open_run(run)
    except StoreError as error:
        raise RunModelsError(_first_line(error)) from None


def _summary(run: str) -> _Summary:
    store = _open(run)
    try:
        tree: Any = json.loads(store.read("summary.json"))
        job = tree.get("job") if isinstance(tree, dict) else None
        if not job:
            return _Summary.model_validate(tree)
    except NotFound:
        raise RunModelsError(f"{run} has no summary.json: give the folder or s3:// address of a finished run") from None
    except (StoreError, ValueError) as error:
        raise RunModelsError(f"{run}/summary.json cannot be used: {_first_line(error)}") from None
    raise RunModelsError(f"{run} is of `rft-ray {job}`, which trains no models: name the folder of a run")


def _check_committed(run: str, entries: Iterable[RunModel]) -> None:
    try:
        store = _open(run)
        missing = [
            entry for entry in entries if committed_model(store, entry.fingerprint or entry.template_model) is None
        ]
    except (StoreError, ModelError) as error:
        raise RunModelsError(_first_line(error)) from None
    if missing:
        raise RunModelsError(
            f"{run} lists {missing[0].served_as}, but the model's files are missing: run its pipeline again"
        )


def _nearest(name: str, names: Iterable[str]) -> str:
    known = sorted(set(names))
    near = difflib.get_close_matches(name, known, 3, 0.5)
    return f"nearest: {', '.join(near)}" if near else f"it has: {', '.join(known)}"


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]
