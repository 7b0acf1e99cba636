"""Problem -> Completion: Ray Data over a pool of vLLM actors.

All models' missing shards are one execution, sorted by model: an actor holds one engine and goes over to the next model
where it is, so that a process, its imports and an engine are started once and not once a model. Each shard is one
request per problem with n = samples_per_block; several shards of a model are in one engine at once. The actor that
sampled a shard commits it, after asking once more whether it is still missing. Receipts come back.

An engine that has failed, hangs or answers what cannot be an answer is not used again: its process ends, Ray puts
another one in its place, and its shards are tried again. A foreman keeps count (`supervisor.py`), a watchdog sees to it
that a hung engine ends (`watchdog.py`), and what fails too often is quarantined (`quarantine.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rft_ray import config
from rft_ray.plan.jobs import SamplingJob
from rft_ray.runtime import actor_pool, sigterm
from rft_ray.runtime.ray_cluster import cluster_has_gpu
from rft_ray.sampling import quarantine
from rft_ray.sampling.sampler import Sampler
from rft_ray.sampling.supervisor import hire
from rft_ray.sampling.tracker import Following
from rft_ray.store import Store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError
from rft_ray.store.shards import Shard, missing_shards


def sample(jobs: Sequence[SamplingJob], store: Store, engine: config.Engine, *, run_seed: int) -> list[dict[str, Any]]:
    """Sample what is missing of these jobs. Returns one receipt per shard made.

    A model that cannot be loaded is told of at once, a shard that is quarantined too, and raised when the others are
    sampled. Raises StageError, Preempted after SIGTERM, and ValueError where jobs differ in engine or max_model_len: an
    engine is opened with one of each.
    """
    if len({(job.settings.engine, job.settings.max_model_len) for job in jobs}) > 1:
        raise ValueError("the sampling jobs of one call must have the same engine and max_model_len")
    jobs = by_model(jobs, store)
    job_of = {job.fingerprint: job for job in jobs}
    missing = missing_shards(store, [shard for job in jobs for shard in job.shards()])
    held = quarantine.held(store, jobs, missing, engine.max_failures)
    if engine.retry_quarantined:
        quarantine.retry(store, held)
        held = []
    untouched = {one.shard.stem for one in held}
    shards = [shard for shard in missing if shard.stem not in untouched]
    receipts = _sampled(jobs, job_of, shards, store, engine, run_seed) if shards else []
    held = quarantine.held(store, jobs, missing, engine.max_failures) if missing else []
    if held:
        print(f"missing, quarantined after failures:\n{quarantine.table(held)}", flush=True)
        if engine.on_failed_shard == "stop":
            raise actor_pool.StageError(quarantine.told(held))
    return receipts


def _sampled(
    jobs: Sequence[SamplingJob],
    job_of: dict[str, SamplingJob],
    shards: Sequence[Shard],
    store: Store,
    engine: config.Engine,
    run_seed: int,
) -> list[dict[str, Any]]:
    """Sample these shards, one receipt each; fewer where some are quarantined."""
    gpu = cluster_has_gpu(engine.device)
    failed_before = [stem for stem, past in quarantine.histories(store).items() if past.failures]
    foreman = hire(store.url, engine.max_failures, engine.max_quarantined, failed_before)
    make = partial(Sampler, store.url, jobs, engine, gpu, run_seed, foreman)
    follow = Following(shards, job_of)
    receipts = []
    try:
        with sigterm.draining(lambda: foreman.drain.remote(), engine.drain_seconds):
            for receipt in actor_pool.run_actors("sample", make, shards, pool_of(engine, gpu)):
                follow.advance(receipt)
                if "left_out" not in receipt:
                    receipts.append(receipt)
    except actor_pool.StageError as error:
        raise actor_pool.StageError(f"{error} (unfinished: {follow.unfinished()})") from None
    except sigterm.Preempted:
        raise sigterm.Preempted(f"sampling: {len(receipts)} of {len(shards)} shards were committed") from None
    if follow.unloadable:
        raise actor_pool.StageError(follow.left_out())
    if follow.given_up:
        raise actor_pool.StageError(f"sample: {follow.given_up}; unfinished: {follow.unfinished()}")
    return receipts


def by_model(jobs: Sequence[SamplingJob], store: Store) -> list[SamplingJob]:
    """Each model's jobs side by side, and models of one architecture, which an engine swaps fast; else as they come.

    Of one architecture are models of one name, and committed ones whose config.json is the same file.
    """
    refs = list(dict.fromkeys(job.model for job in jobs))
    likeness: dict[str, str] = {}
    for ref in refs:
        if ref.name not in likeness and ref.stage != "base":
            with suppress(ModelError):  # a damaged manifest: told when the model is loaded
                if manifest := committed_model(store, ref.fingerprint):
                    likeness[ref.name] = manifest.files["config.json"].sha256
    kinds = list(dict.fromkeys(likeness.get(ref.name, ref.name) for ref in refs))
    return sorted(jobs, key=lambda j: (kinds.index(likeness.get(j.model.name, j.model.name)), refs.index(j.model)))


def pool_of(engine: config.Engine, gpu: bool) -> actor_pool.Pool:
    """The actor pool of an engine config: GPUs where there are some, else CPUs with bounded threads."""
    threads = str(engine.threads_per_actor)
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    if not gpu:
        env |= {
            "OMP_NUM_THREADS": threads,
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return actor_pool.Pool(
        min_actors=engine.min_actors,
        max_actors=engine.max_actors,
        gpus=engine.tensor_parallel_size if gpu else 0,
        shards_in_flight=engine.shards_in_flight,
        max_restarts=engine.max_restarts + (engine.max_failures + 1) * (engine.max_quarantined + 1),
        env=env,
    )
