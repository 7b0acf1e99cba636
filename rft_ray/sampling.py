"""Problem -> Completion: Ray Data over a pool of vLLM actors.

Each shard is one request per problem with n = samples_per_block; several shards are in one engine at once. The actor
that sampled a shard commits it, after asking once more whether it is still missing. Receipts come back.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rft_ray import config, models, prompts, stages
from rft_ray.engines import Answered, EngineDied, Request, engine_seed, open_engine
from rft_ray.metrics import SamplerMetrics
from rft_ray.problems import read_problems
from rft_ray.records import Completion, Problem, to_table
from rft_ray.shards import ModelRef, SamplingJob, Shard
from rft_ray.store import Store, commit_table, open_store

SKIPPED = "skipped"
"""finish_reason of a planned sample that was never sampled: its prompt exceeds the model's context."""


def sample(jobs: Sequence[SamplingJob], store: Store, engine: config.Engine, *, run_seed: int) -> list[dict[str, Any]]:
    """Sample what is missing of these jobs, one engine pool per model. Returns one receipt per shard made.

    Raises StageError.
    """
    receipts = []
    for model in dict.fromkeys(job.model for job in jobs):
        mine = [job for job in jobs if job.model == model]
        shards = stages.missing(store, [shard for job in mine for shard in job.shards()])
        if not shards:
            continue
        label = f"sample {model.name} ({model.stage})"
        gpu = stages.cluster_has_gpu(engine.device)
        make = partial(Sampler, store.url, model, mine, engine, gpu, run_seed)
        per_block = {job.fingerprint: job.settings.samples_per_block for job in mine}
        total = sum((s.problem_stop - s.problem_start) * per_block[s.fingerprint] for s in shards)
        progress = stages.Progress(label, total, "completions")
        print(f"  {label}: starting the engine for {len(shards)} shards", flush=True)
        for receipt in stages.run_actors(label, make, shards, pool_of(engine, gpu)):
            receipts.append(receipt)
            progress.advance(receipt["rows"])
    return receipts


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


class Sampler:
    """One engine with one model; called with shards from several threads at once.

    Its seed derives from the run's seed and this incarnation, so a second or restarted sampler draws other samples.
    """

    def __init__(
        self,
        store_url: str,
        model: ModelRef,
        jobs: Sequence[SamplingJob],
        engine: config.Engine,
        gpu: bool,
        run_seed: int,
    ) -> None:
        self._store = open_store(store_url)
        self._jobs = {job.fingerprint: job for job in jobs}
        self._incarnation = uuid.uuid4().hex
        seed = engine_seed(run_seed, self._incarnation)
        folder = None if engine.kind == "scripted" else model_folder(self._store, model)
        self._engine = open_engine(engine, folder, gpu=gpu, seed=seed)
        self._metrics = SamplerMetrics(model.name)

    def __call__(self, shard: Shard) -> dict[str, Any]:
        key = stages.key_to_write(self._store, shard)
        if key is None:
            return {"key": shard.stem, "rows": 0, "committed_here": False}
        job = self._jobs[shard.fingerprint]
        started = time.monotonic()
        requests = self._requests(job, shard)
        try:
            answers = self._engine.generate(requests, job.settings)
        except EngineDied as death:
            print(f"sampler {self._incarnation}: {death}; ending this process", file=sys.stderr, flush=True)
            os._exit(1)  # Ray restarts the actor, a bounded number of times
        rows = [row for request, answer in zip(requests, answers, strict=True) for row in completions(request, answer)]
        seconds = time.monotonic() - started
        return self._commit(key, job, rows, seconds)

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

    def _commit(self, key: str, job: SamplingJob, rows: list[Completion], seconds: float) -> dict[str, Any]:
        sampled = [row for row in rows if row.finish_reason != SKIPPED]
        counts = {
            "sampled": len(sampled),
            "skipped": len(rows) - len(sampled),
            "tokens": sum(row.completion_tokens for row in sampled),
        }
        metadata = {
            "model": json.dumps(asdict(job.model)),
            "settings": json.dumps(asdict(job.settings)),
            "engine": json.dumps({"seed": self._engine.seed, "incarnation": self._incarnation}),
            "seconds": f"{seconds:.3f}",
            "ended_unix": f"{time.time():.3f}",
            "counts": json.dumps(counts),
        }
        receipt = commit_table(self._store, key, to_table(rows, Completion), metadata)
        if receipt.committed_here:
            self._metrics.shard(len(sampled), counts["tokens"], seconds)
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
