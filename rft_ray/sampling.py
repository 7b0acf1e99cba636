"""Problem -> Completion: Ray Data over a pool of vLLM actors.

All models' missing shards are one execution, sorted by model: an actor holds one engine and goes over to the next model
where it is, so that a process, its imports and an engine are started once and not once a model. Each shard is one
request per problem with n = samples_per_block; several shards of a model are in one engine at once. The actor that
sampled a shard commits it, after asking once more whether it is still missing. Receipts come back.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rft_ray import config, models, prompts, stages
from rft_ray.engines import Answered, Engine, EngineDied, Request, engine_seed, open_engine
from rft_ray.metrics import SamplerMetrics
from rft_ray.problems import read_problems
from rft_ray.records import Completion, Problem, to_table
from rft_ray.shards import ModelRef, SamplingJob, Shard
from rft_ray.store import Store, commit_table, open_store
from rft_ray.turns import Turns

SKIPPED = "skipped"
"""finish_reason of a planned sample that was never sampled: its prompt exceeds the model's context."""


def sample(jobs: Sequence[SamplingJob], store: Store, engine: config.Engine, *, run_seed: int) -> list[dict[str, Any]]:
    """Sample what is missing of these jobs. Returns one receipt per shard made.

    A model that cannot be loaded is told of at once, and raised when the others are sampled. Raises StageError.
    """
    jobs = by_model(jobs, store)
    job_of = {job.fingerprint: job for job in jobs}
    shards = stages.missing(store, [shard for job in jobs for shard in job.shards()])
    if not shards:
        return []
    gpu = stages.cluster_has_gpu(engine.device)
    make = partial(Sampler, store.url, jobs, engine, gpu, run_seed)
    follow = Following(shards, job_of)
    receipts = []
    try:
        for receipt in stages.run_actors("sample", make, shards, pool_of(engine, gpu)):
            follow.advance(receipt)
            receipts.append(receipt)
    except stages.StageError as error:
        raise stages.StageError(f"{error} (unfinished: {follow.unfinished()})") from None
    if follow.unloadable:
        raise stages.StageError(follow.left_out())
    return receipts


def by_model(jobs: Sequence[SamplingJob], store: Store) -> list[SamplingJob]:
    """Each model's jobs side by side, and models of one architecture, which an engine swaps fast; else as they come.

    Of one architecture are models of one name, and committed ones whose config.json is the same file.
    """
    refs = list(dict.fromkeys(job.model for job in jobs))
    likeness: dict[str, str] = {}
    for ref in refs:
        if ref.name not in likeness and ref.stage != "base":
            with suppress(models.ModelError):  # a damaged manifest: told when the model is loaded
                if manifest := models.committed_model(store, ref.fingerprint):
                    likeness[ref.name] = manifest.files["config.json"].sha256
    kinds = list(dict.fromkeys(likeness.get(ref.name, ref.name) for ref in refs))
    return sorted(jobs, key=lambda j: (kinds.index(likeness.get(j.model.name, j.model.name)), refs.index(j.model)))


def label_of(model: ModelRef) -> str:
    """Example: tiny-m (sft)"""
    return f"{model.name} ({model.stage})"


class Following:
    """What the driver sees of an execution: a line of progress, what is unfinished, which models cannot be loaded."""

    def __init__(self, shards: Sequence[Shard], job_of: dict[str, SamplingJob]) -> None:
        self.unloadable: dict[ModelRef, str] = {}
        self._models = {shard.stem: job_of[shard.fingerprint].model for shard in shards}
        self._left = Counter(self._models.values())
        self._place = {model: place for place, model in enumerate(self._left, 1)}
        sizes = [(s.problem_stop - s.problem_start) * job_of[s.fingerprint].settings.samples_per_block for s in shards]
        self._progress = stages.Progress("sample", sum(sizes), "completions")
        of = f"{len(self._left)} models" if len(self._left) > 1 else label_of(next(iter(self._left)))
        print(f"  sample {of}: starting the engine for {len(shards)} shards", flush=True)

    def advance(self, receipt: dict[str, Any]) -> None:
        model = self._models[receipt["shard"]]
        self._left[model] -= 1
        if (why := receipt.get("unloadable")) and model not in self.unloadable:
            self.unloadable[model] = why
            print(f"  sample {label_of(model)}: {why}: it is left out, the others go on", flush=True)
        place = f", model {self._place[model]} of {len(self._place)}" if len(self._place) > 1 else ""
        self._progress.label = f"sample {label_of(model)}{place}"
        self._progress.advance(receipt["rows"])

    def unfinished(self) -> str:
        """The first three models with shards to come; they are sampled in this order."""
        return _few([label_of(model) for model, left in self._left.items() if left], ", ")

    def left_out(self) -> str:
        """What to tell of the models that could not be loaded, in one line."""
        return _few([f"sample {label_of(model)}: {why}" for model, why in self.unloadable.items()], "; ")


def _few(texts: Sequence[str], separator: str) -> str:
    return separator.join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def pool_of(engine: config.Engine, gpu: bool) -> stages.Pool:
    """The actor pool of an engine config: GPUs where there are some, else CPUs with bounded threads."""
    threads = str(engine.threads_per_actor)
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    if not gpu:
        env |= {
            "OMP_NUM_THREADS": threads,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return stages.Pool(
        min_actors=engine.min_actors,
        max_actors=engine.max_actors,
        gpus=engine.tensor_parallel_size if gpu else 0,
        shards_in_flight=engine.shards_in_flight,
        max_restarts=engine.max_restarts,
        env=env,
    )


class Unloadable(RuntimeError):
    """A model that this sampler cannot load; the message says why, in one line."""


class Sampler:
    """One engine, which holds one model at a time; called with shards from several threads at once.

    Every engine opened is an incarnation of its own, whose seed derives from its name and the run's seed: a second,
    restarted or reopened one draws other samples. Where models are swapped in an engine, its randomness just goes on.
    """

    def __init__(
        self, store_url: str, jobs: Sequence[SamplingJob], engine: config.Engine, gpu: bool, run_seed: int
    ) -> None:
        self._store = open_store(store_url)
        self._jobs = {job.fingerprint: job for job in jobs}
        self._settings, self._gpu, self._run_seed = engine, gpu, run_seed
        self._engine: Engine | None = None
        self._drawn_from: dict[str, Any] = {}
        self._loaded: ModelRef | None = None
        self._unloadable: dict[ModelRef, str] = {}
        self._turns = Turns(self._load)
        self._metrics = SamplerMetrics()

    def __call__(self, shard: Shard) -> dict[str, Any]:
        key = stages.key_to_write(self._store, shard)
        if key is None:
            return {"shard": shard.stem, "key": shard.stem, "rows": 0, "committed_here": False}
        job = self._jobs[shard.fingerprint]
        try:
            requests = self._requests(job, shard)
            rows, drawn_from, seconds = self._sampled(job, requests)
            return {"shard": shard.stem, **self._commit(key, job, rows, drawn_from, seconds)}
        except EngineDied as death:
            print(f"sample {label_of(job.model)}: {death}; ending this process", file=sys.stderr, flush=True)
            os._exit(1)  # Ray restarts the actor, a bounded number of times
        except Unloadable as why:
            receipt = {"shard": shard.stem, "key": shard.stem, "rows": 0, "committed_here": False}
            return {**receipt, "unloadable": str(why)}
        except Exception as failure:
            raise RuntimeError(f"{label_of(job.model)}: {failure or type(failure).__name__}") from failure

    def _sampled(self, job: SamplingJob, requests: list[Request]) -> tuple[list[Completion], dict[str, Any], float]:
        """The rows, what their randomness came from, and the seconds they took."""
        with self._turns.turn(job.model):
            assert self._engine is not None
            started = time.monotonic()
            answers = self._engine.generate(requests, job.settings)
            seconds, drawn_from = time.monotonic() - started, self._drawn_from
            tokens = sum(generated.tokens for answer in answers for generated in answer.samples)
            self._metrics.sampled(job.model.name, tokens, seconds)
        rows = [row for request, answer in zip(requests, answers, strict=True) for row in completions(request, answer)]
        return rows, drawn_from, seconds

    def _load(self, model: ModelRef) -> None:
        """Make the engine hold this model; nobody generates meanwhile. Raises Unloadable, EngineDied."""
        if model in self._unloadable:
            raise Unloadable(self._unloadable[model])
        if model == self._loaded:  # one that cannot be loaded came between
            return
        if self._loaded is not None:
            self._metrics.left(self._loaded.name)
        try:
            folder = None if self._settings.kind == "scripted" else model_folder(self._store, model)
            self._loaded = None
            if not self._swapped(folder):
                self._open(folder)
        except EngineDied:
            raise
        except Exception as failure:
            traceback.print_exc()
            self._unloadable[model] = stages.in_one_line(failure)
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
        self._engine = open_engine(self._settings, folder, gpu=self._gpu, seed=seed)
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
        return stages.receipt_row(receipt, seconds=seconds, **counts)


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


def model_folder(store: Store, model: ModelRef) -> Path:
    """Local HF directory of a base model (by its source) or of a fine-tuned one (from the run's store)."""
    if model.stage == "base":
        return models.resolve_exactly(model.source, model.fingerprint)
    return models.fetch_model(store, model.fingerprint)
