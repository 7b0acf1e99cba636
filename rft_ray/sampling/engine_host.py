"""The life of one engine in a process: opened for a model, swapped to the next one, watched, and ended when it fails.

In: a model, and requests to it from several threads at once. Out: checked answers, and what their randomness came from.
An engine that dies or hangs is not used again: its process ends, and Ray starts another one.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol

from rft_ray import config
from rft_ray.config.endpoint import ENDPOINT
from rft_ray.data.base_weights import fetch_base
from rft_ray.plan.jobs import ModelRef
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.runtime.actor_pool import in_one_line
from rft_ray.sampling import places
from rft_ray.sampling.engine import (
    Answered,
    Engine,
    EngineDied,
    Misbehaved,
    Request,
    Unavailable,
    check_answers,
    engine_seed,
    may_start_later,
    out_of_memory,
)
from rft_ray.sampling.engine_load import EngineLoads
from rft_ray.sampling.group_lock import GroupLock
from rft_ray.sampling.loading import moved
from rft_ray.sampling.openai_engine import OpenAIEngine
from rft_ray.sampling.scripted_engine import ScriptedEngine
from rft_ray.sampling.supervisor_client import SupervisorClient
from rft_ray.sampling.tracker import label_of
from rft_ray.sampling.vllm_engine import VllmEngine
from rft_ray.sampling.watchdog import Watchdog
from rft_ray.store import Store
from rft_ray.store.models.committed import fetch_with_manifest
from rft_ray.store.outages import through_outages

SAMPLING = "sampling"
"""What the watchdog calls a call of `generate`; it calls a load by the model's fingerprint."""


class Unloadable(RuntimeError):
    """A model that no place can load; the message says why, in one line."""


class NotHere(RuntimeError):
    """A model that this place cannot load, and another one may; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class RandomSource:
    """What samples were drawn from, recorded with every shard. Example: RandomSource(1234567, "5f0c…", 2, "9d1e…")"""

    seed: int
    incarnation: str
    """Name of the opened engine; no other engine has it."""
    swaps: int
    """Models that this engine has taken over since it was opened."""
    weights: str = ""
    """Which committed files of a fine-tuned model it holds, as in the model's manifest; empty for a base model."""


class OpenEngine(Protocol):
    """Opens an engine for a model, whose files are in the folder; None for an engine that reads no files."""

    def __call__(self, model: ModelRef, folder: Path | None, /, *, seed: int) -> Engine: ...


class EngineHost:
    """One engine, which holds one model at a time; called from several threads at once.

    Every engine that is opened has a name of its own, and its seed derives from that name and the run's seed. So a
    second, restarted or reopened engine draws other samples. A swap of models leaves the engine's randomness alone.
    """

    def __init__(
        self,
        store: Store,
        supervisor: SupervisorClient,
        open_engine: OpenEngine,
        *,
        needs_folder: bool,
        stall_s: float,
        run_seed: int,
        on_leave: Callable[[ModelRef], object],
    ) -> None:
        """`needs_folder`: whether engines of this kind read a model's files; `stall_s`: seconds without progress
        after which an engine is taken to hang; `on_leave`: called with the model that the engine holds before it
        changes.
        """
        self._store, self._supervisor, self._needs_folder = store, supervisor, needs_folder
        self._open_engine, self._run_seed, self._on_leave = open_engine, run_seed, on_leave
        self._engine: Engine | None = None
        self._source: RandomSource | None = None
        self._model: ModelRef | None = None
        self._is_loading = False
        self._lock: GroupLock[tuple[ModelRef, str]] = GroupLock(lambda key: self._load(key[0]))
        """By model, and by shard where one has the engine to itself."""
        self._watchdog = Watchdog(stall_s, self._progress, self._stalled, hard=supervisor.is_remote)

    @contextmanager
    def holding(self, model: ModelRef, exclusive_to: str = "") -> Iterator[RandomSource]:
        """Inside the block the engine holds the model; yields what its samples are drawn from.

        Calls with one model run at once, unless `exclusive_to` names a shard, which then has the engine to itself.
        Raises Unloadable where no place can load the model, NotHere where this one cannot, and EngineDied.
        """
        with self._lock.hold((model, exclusive_to)):
            assert self._source is not None
            yield self._source

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        """Checked answers in the order of the requests; called inside `holding`.

        Raises EngineDied when the engine is beyond use, and Misbehaved, a kind of it, when these requests caused that;
        Unavailable when the model cannot be sampled now.
        """
        assert self._engine is not None
        with self._watchdog.during(SAMPLING):
            try:
                answers = self._engine.generate(requests, settings)
            except (EngineDied, Unavailable):
                raise
            except Exception as failure:
                traceback.print_exc()
                kind = EngineDied if out_of_memory(failure) else Misbehaved
                raise kind(in_one_line(failure)) from None
        check_answers(requests, answers, settings)
        return answers

    def end(self, model: ModelRef, death: EngineDied, stem: str) -> NoReturn:
        """Report the engine's death while it worked on a shard, and end this process."""
        self._supervisor.died(str(death), stem if isinstance(death, Misbehaved) else "")
        _end_process(f"{label_of(model)}: {death}")

    def _progress(self) -> object:
        """A value that changes while the engine steps, and while bytes of the model move that it loads."""
        engine = self._engine  # which the thread that loads may close meanwhile
        return engine.progress if engine else 0, moved() if self._is_loading else None

    def _stalled(self, reason: str, in_progress: list[str]) -> None:
        """Called by the watchdog: the engine no longer returns."""
        with suppress(Exception):  # without a report, the supervisor notices the new process
            for model in in_progress:
                if model != SAMPLING:
                    self._supervisor.load_failed(model, f"{reason} while it was loaded", again=True)
            self._supervisor.died(f"{reason} while it was sampled")
        _end_process(f"{reason}: {', '.join(sorted(set(in_progress)))}")

    def _load(self, model: ModelRef) -> None:
        """Make the engine hold this model; called while no thread generates.

        Raises Unloadable, NotHere and EngineDied.
        """
        self._check_loadable(model)
        if model == self._model:  # the last change was to a model that cannot be loaded
            return
        if self._model is not None:
            self._on_leave(self._model)
        self._supervisor.load_began(model.fingerprint)
        self._is_loading = True
        try:
            with self._watchdog.during(model.fingerprint):
                folder, weights = model_folder(self._store, model) if self._needs_folder else (None, "")
                self._model = None
                if not self._swapped(folder):
                    self._open(model, folder)
                assert self._source is not None
                self._source = replace(self._source, weights=weights)
        except EngineDied:
            raise
        except Exception as failure:
            traceback.print_exc()
            again = may_start_later(failure)
            self._supervisor.load_failed(model.fingerprint, in_one_line(failure), again=again)
            if again:
                _end_process(f"{label_of(model)}: {in_one_line(failure)}")
            self._check_loadable(model)
            raise
        finally:
            self._is_loading = False
        self._supervisor.loaded(model.fingerprint)
        self._model = model

    def _check_loadable(self, model: ModelRef) -> None:
        """Raises Unloadable or NotHere where an engine at this place is not to load the model."""
        verdict, reason = self._supervisor.load_verdict(model.fingerprint)
        if verdict == "unloadable":
            raise Unloadable(reason) from None
        if verdict == "elsewhere":
            raise NotHere(reason) from None

    def _swapped(self, folder: Path | None) -> bool:
        """Whether the open engine has taken over the model."""
        if self._engine is None or self._source is None:
            return False
        try:
            swapped = self._engine.swap(folder)
        except EngineDied:
            raise
        except Exception:  # weights of both models may be mixed: a new engine's error says what is wrong
            traceback.print_exc()
            return False
        if swapped:
            self._source = replace(self._source, swaps=self._source.swaps + 1)
        return swapped

    def _open(self, model: ModelRef, folder: Path | None) -> None:
        """Close the engine, if there is one, and open another one with a seed of its own."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.close()
        gc.collect()  # an engine that could not be opened has left cycles, which hold its weights
        incarnation = uuid.uuid4().hex
        self._engine = self._open_engine(model, folder, seed=engine_seed(self._run_seed, incarnation))
        self._source = RandomSource(self._engine.seed, incarnation, swaps=0)


def _end_process(reason: str) -> NoReturn:
    """End this process and its engine's. Ray starts another one in its place, a bounded number of times."""
    print(f"sample {reason}; ending this process", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def open_engine(
    settings: config.Engine,
    sampling: SamplingSettings,
    endpoints: Mapping[str, config.Endpoint],
    spent: Callable[[ModelRef], int],
    model: ModelRef,
    folder: Path | None,
    /,
    *,
    gpu: bool,
    seed: int,
    loads: EngineLoads | None = None,
) -> Engine:
    """The engine that `sampling` names. `folder`: a local Hugging Face model directory, for the vllm engine only.

    `endpoints`: name -> endpoint of the models that are behind one. `spent`: the tokens of a model's committed samples.
    `loads`: gets the statistics of the vllm engine.
    """
    if sampling.engine == "scripted":
        return ScriptedEngine(seed, settings.script, str(places.here()), settings.max_num_seqs)
    if sampling.engine == "openai":
        name = model.source.removeprefix(ENDPOINT)
        return OpenAIEngine(name, endpoints[model.name], spent=spent(model), seed=seed)
    if folder is None:
        raise ValueError("the vllm engine needs a model folder")
    return VllmEngine(settings, folder, max_model_len=sampling.max_model_len, gpu=gpu, seed=seed, loads=loads)


def model_folder(store: Store, model: ModelRef) -> tuple[Path, str]:
    """Local Hugging Face directory of a base model (by its source) or of a fine-tuned one (from the run's store).

    The second value identifies a fine-tuned model's files, as in `RandomSource`.
    """

    def fetched() -> tuple[Path, str]:
        if model.stage == "base":
            return fetch_base(store, model.source, model.fingerprint), ""
        folder, manifest = fetch_with_manifest(store, model.fingerprint)
        return folder, manifest.attempt

    return through_outages(fetched, f"models/{model.fingerprint}")
