"""One shard of completions: samples a problem block with a loaded engine, checks the answers, commits them."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rft_ray import config
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.records import SKIPPED, Completion, Problem, to_table
from rft_ray.runtime import actor_pool
from rft_ray.runtime.metrics import SamplerMetrics
from rft_ray.sampling.engine import (
    Answered,
    Engine,
    EngineDied,
    Misbehaved,
    Request,
    check_answers,
    engine_seed,
    out_of_memory,
)
from rft_ray.sampling.engine_host import Unloadable, model_folder, open_engine
from rft_ray.sampling.group_lock import Turns
from rft_ray.sampling.supervisor import Foreman, Line
from rft_ray.sampling.tracker import label_of
from rft_ray.sampling.watchdog import Watchdog
from rft_ray.store import commit_table, open_store
from rft_ray.store.shards import Shard, key_to_write


class Sampler:
    """One engine, which holds one model at a time; called with shards from several threads at once.

    Every engine opened is an incarnation of its own, whose seed derives from its name and the run's seed: a second,
    restarted or reopened one draws other samples. Where models are swapped in an engine, its randomness just goes on.
    """

    def __init__(
        self,
        store_url: str,
        jobs: Sequence[SamplingJob],
        engine: config.Engine,
        gpu: bool,
        run_seed: int,
        foreman: Any = None,
    ) -> None:
        """`foreman`: an actor; None: one of its own, for use outside Ray."""
        self._store = open_store(store_url)
        self._foreman = Line(foreman or Foreman(store_url, engine.max_failures, engine.max_quarantined))
        self._name, self._process = actor_pool.actor_id(), uuid.uuid4().hex
        self._jobs = {job.fingerprint: job for job in jobs}
        self._settings, self._gpu, self._run_seed = engine, gpu, run_seed
        self._sampling = jobs[0].settings
        """Its `engine` and `max_model_len` are those of every job: `sample` sees to that."""
        self._engine: Engine | None = None
        self._drawn_from: dict[str, Any] = {}
        self._loaded: ModelRef | None = None
        self._unloadable: dict[ModelRef, str] = {}
        self._turns: Turns[tuple[ModelRef, str]] = Turns(lambda turn: self._load(turn[0]))
        """By model, and by shard where one is to be alone in the engine."""
        self._watchdog = Watchdog(engine.stall_seconds, self._answered, self._stalled, hard=self._foreman.distant)
        self._metrics = SamplerMetrics()

    def __call__(self, shard: Shard) -> dict[str, Any]:
        key = key_to_write(self._store, shard)
        if key is None:
            return {"shard": shard.stem, "key": shard.stem, "rows": 0, "committed_here": False}
        untouched = {"shard": shard.stem, "key": shard.stem, "rows": 0, "committed_here": False}
        order, why_not = self._foreman("order", shard.stem, self._name, self._process)
        if order not in ("together", "alone"):
            return {**untouched, "left_out": order, "why": why_not}
        job = self._jobs[shard.fingerprint]
        try:
            requests = self._requests(job, shard)
            rows, drawn_from, seconds = self._sampled(job, requests, shard.stem, alone=order == "alone")
            return {"shard": shard.stem, **self._commit(key, job, rows, drawn_from, seconds)}
        except EngineDied as death:
            self._foreman("died", self._name, self._process, str(death), shard.stem * isinstance(death, Misbehaved))
            self._end(f"{label_of(job.model)}: {death}")
        except Unloadable as why:
            return {**untouched, "unloadable": str(why)}
        except Exception as failure:
            raise RuntimeError(f"{label_of(job.model)}: {failure or type(failure).__name__}") from failure

    def _sampled(
        self, job: SamplingJob, requests: list[Request], stem: str, *, alone: bool
    ) -> tuple[list[Completion], dict[str, Any], float]:
        """The rows, what their randomness came from, and the seconds they took."""
        with self._turns.turn((job.model, stem if alone else "")):
            self._foreman("begun", stem, self._name, self._process)
            started = time.monotonic()
            answers = self._answers(job, requests)
            self._foreman("ended", stem, self._name, self._process)
            seconds, drawn_from = time.monotonic() - started, self._drawn_from
            tokens = sum(generated.tokens for answer in answers for generated in answer.samples)
            self._metrics.sampled(job.model.name, tokens, seconds)
        rows = [row for request, answer in zip(requests, answers, strict=True) for row in completions(request, answer)]
        return rows, drawn_from, seconds

    def _answers(self, job: SamplingJob, requests: list[Request]) -> list[Answered]:
        """What the engine says. Raises EngineDied, and of these Misbehaved where it is about these requests."""
        assert self._engine is not None
        with self._watchdog.during("sampling"):
            try:
                answers = self._engine.generate(requests, job.settings)
            except EngineDied:
                raise
            except Exception as failure:
                traceback.print_exc()
                kind = EngineDied if out_of_memory(failure) else Misbehaved
                raise kind(actor_pool.in_one_line(failure)) from None
        check_answers(requests, answers, job.settings)
        return answers

    def _answered(self) -> int:
        return self._engine.answered if self._engine else 0

    def _stalled(self, reason: str, under_way: list[str]) -> None:
        """Called by the watchdog: the engine does not return any more."""
        loading = [what for what in under_way if what != "sampling"]
        with suppress(Exception):  # whoever cannot be told finds out
            for model in loading:
                self._foreman("refused", model, f"{reason} while it was loaded")
            self._foreman("died", self._name, self._process, f"{reason} while it was sampled")
        self._end(f"{reason}: {', '.join(sorted(set(under_way)))}")

    def _end(self, why: str) -> NoReturn:
        """End this process and its engine's; Ray puts another one in its place, a bounded number of times."""
        print(f"sample {why}; ending this process", file=sys.stderr, flush=True)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)

    def _load(self, model: ModelRef) -> None:
        """Make the engine hold this model; nobody generates meanwhile. Raises Unloadable, EngineDied."""
        if why := self._foreman("unloadable", model.fingerprint):
            self._unloadable[model] = why
        if model in self._unloadable:
            raise Unloadable(self._unloadable[model])
        if model == self._loaded:  # one that cannot be loaded came between
            return
        if self._loaded is not None:
            self._metrics.left(self._loaded.name)
        try:
            with self._watchdog.during(model.fingerprint):
                folder = None if self._sampling.engine == "scripted" else model_folder(self._store, model)
                self._loaded = None
                if not self._swapped(folder):
                    self._open(folder)
        except EngineDied:
            raise
        except Exception as failure:
            traceback.print_exc()
            if out_of_memory(failure):  # another process may find some
                self._foreman("refused", model.fingerprint, actor_pool.in_one_line(failure))
                self._end(f"{label_of(model)}: {actor_pool.in_one_line(failure)}")
            self._unloadable[model] = actor_pool.in_one_line(failure)
            raise Unloadable(self._unloadable[model]) from None
        self._loaded = model

    def _swapped(self, folder: Path | None) -> bool:
        if self._engine is None:
            return False
        try:
            swapped = self._engine.swap(folder)
        except EngineDied:
            raise
        except Exception:  # some weights may be of the one model, some of the other: a new engine says what is wrong
            traceback.print_exc()
            return False
        self._drawn_from = {**self._drawn_from, "swaps": self._drawn_from["swaps"] + swapped}
        return swapped

    def _open(self, folder: Path | None) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.close()
        incarnation = uuid.uuid4().hex
        seed = engine_seed(self._run_seed, incarnation)
        self._engine = open_engine(self._settings, self._sampling, folder, gpu=self._gpu, seed=seed)
        self._drawn_from = {"seed": self._engine.seed, "incarnation": incarnation, "swaps": 0}

    def _requests(self, job: SamplingJob, shard: Shard) -> list[Request]:
        settings = job.settings
        problems = read_problems(self._store, shard.problems_fingerprint)[shard.problem_start : shard.problem_stop]
        shots: Sequence[Problem] = ()
        if settings.shots:
            shots = read_problems(self._store, settings.shots_from)[: settings.shots]
        start = (shard.sample_block or 0) * settings.samples_per_block
        return [
            Request(
                problem,
                prompts.render_few_shot(settings.prompt, problem.question, shots),
                start,
                settings.samples_per_block,
            )
            for problem in problems
        ]

    def _commit(
        self, key: str, job: SamplingJob, rows: list[Completion], drawn_from: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        sampled = [row for row in rows if row.finish_reason != SKIPPED]
        counts = {
            "sampled": len(sampled),
            "skipped": len(rows) - len(sampled),
            "tokens": sum(row.completion_tokens for row in sampled),
        }
        metadata = {
            "model": json.dumps(asdict(job.model)),
            "settings": json.dumps(asdict(job.settings)),
            "engine": json.dumps(drawn_from),
            "seconds": f"{seconds:.3f}",
            "ended_unix": f"{time.time():.3f}",
            "counts": json.dumps(counts),
        }
        receipt = commit_table(self._store, key, to_table(rows, Completion), metadata)
        if receipt.committed_here:
            self._metrics.committed(job.model.name, len(sampled), counts["tokens"])
        return actor_pool.receipt_row(receipt, seconds=seconds, **counts)


def completions(request: Request, answer: Answered) -> list[Completion]:
    """The rows of one answered request: n completions, or n rows that say they were skipped."""

    def row(index: int, text: str, finish_reason: str, tokens: int) -> Completion:
        return Completion(
            request.problem.problem_id, request.sample_start + index, text, finish_reason, answer.prompt_tokens, tokens
        )

    if not answer.samples:
        return [row(i, "", SKIPPED, 0) for i in range(request.n)]
    return [
        # a lone surrogate has no UTF-8 form: what cannot be stored is replaced
        row(i, sample.text.encode("utf-8", "replace").decode(), sample.finish_reason, sample.tokens)
        for i, sample in enumerate(answer.samples)
    ]
