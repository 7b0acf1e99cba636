"""Problem -> Completion: Ray Data over a pool of vLLM actors, and one actor for the models behind endpoints.

The missing shards of all models of one engine are one Ray Data execution. An actor holds one engine and swaps it to the
next model where possible, so that a process, its imports and an engine start once instead of once per model; with more
actors than models it keeps to one or two of them (`assignment.py`). So the samples of a model, for a corpus and for an
evaluation, share a load. Each shard is one request per problem with n = samples_per_block; several shards of a model
are in one engine at once. The actor that sampled a shard commits it, unless another one has done so meanwhile, and
returns a receipt.

An engine that fails, hangs or returns impossible answers is not used again: its process ends, Ray starts another one,
and its shards are tried again. A supervisor counts the failures (`supervisor.py`), a watchdog ends the process of a
hung engine (`watchdog.py`), and a shard that fails too often is quarantined (`quarantine.py`).

Shards that are stuck at a place that cannot load their model (`places.py`), or at an actor whose node is gone, are left
when nobody works any more (`standstill.py`): another execution, a round, samples them elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import ray

from rft_ray import config
from rft_ray.config.engine_arguments import check_on_cpus
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.runtime import actor_pool, sigterm
from rft_ray.runtime.ray_cluster import cpu_cores, uses_gpu
from rft_ray.sampling import quarantine
from rft_ray.sampling.assignment import Work
from rft_ray.sampling.in_flight import in_flight, least_in_flight, sequences_at_once, sequences_of
from rft_ray.sampling.journal import journal_folder, replay
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.rounds import Rounds
from rft_ray.sampling.sampler import Ask, Sampler
from rft_ray.sampling.supervisor_client import flush_records, start_supervisor
from rft_ray.sampling.tracker import ShardTracker
from rft_ray.sampling.vllm_arguments import process_environment
from rft_ray.store import Store, StoreError, mark_run
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError
from rft_ray.store.outages import OUTAGE_S, through_outages
from rft_ray.store.shards import Shard, missing_shards

FLUSH_S, LAST_FLUSH_S = OUTAGE_S + 60.0, 10.0
"""How long failures may take to be recorded at the end of a stage, and at an end with an error."""
ENDPOINT_CPUS = 0.1
"""CPUs of the actor that asks endpoints: it waits for answers most of the time."""


def sample(
    jobs: Sequence[SamplingJob],
    store: Store,
    engine: config.Engine,
    *,
    run_seed: int,
    endpoints: Mapping[str, config.Endpoint] | None = None,
    ask: Ask | None = None,
) -> list[SampleReceipt]:
    """Sample the missing shards of these jobs. Returns one receipt per shard sampled.

    Jobs of different engines (`SamplingSettings.engine`, `max_model_len`) are sampled one kind after another.
    `endpoints`: name -> endpoint of the models that are behind one. `ask`: as in Sampler. A model that cannot be loaded
    or asked and a shard that is quarantined are printed at once, and raised as StageError after the other shards are
    sampled. Raises StageError, Preempted after SIGTERM, and ConfigError for what engines on CPUs cannot do.
    """
    kept = journal_folder(mark_run(store).id)
    replay(kept, store)
    jobs = by_model(jobs, store)
    job_of = {job.fingerprint: job for job in jobs}
    missing = missing_shards(store, [shard for job in jobs for shard in job.shards()])
    held = quarantine.held(store, jobs, missing, engine.max_failures)
    if engine.retry_quarantined:
        quarantine.retry(store, held)
        held = []
    quarantined = {entry.shard.stem for entry in held}
    shards = [shard for shard in missing if shard.stem not in quarantined]
    receipts: list[SampleReceipt] = []
    errors = []
    for group in by_engine(jobs):
        make = partial(Sampler, store, group, engine, run_seed=run_seed, endpoints=endpoints, ask=ask)
        try:
            own = [shard for shard in shards if job_of[shard.fingerprint] in group]
            receipts += _sampled(group, own, store, engine, make, kept, endpoints or {})
        except actor_pool.StageError as error:
            errors.append(str(error))
    if errors:
        raise actor_pool.StageError("; ".join(errors))
    if missing:
        held = through_outages(lambda: quarantine.held(store, jobs, missing, engine.max_failures), quarantine.FOLDER)
    if held:
        print(f"missing, quarantined after failures:\n{quarantine.table(held)}", flush=True)
        if engine.on_failed_shard == "stop":
            raise actor_pool.StageError(quarantine.message(held))
    return receipts


def by_engine(jobs: Sequence[SamplingJob]) -> list[list[SamplingJob]]:
    """The jobs in groups of one engine and max_model_len: an engine is opened with one of each."""
    kinds = dict.fromkeys((job.settings.engine, job.settings.max_model_len) for job in jobs)
    return [[job for job in jobs if (job.settings.engine, job.settings.max_model_len) == kind] for kind in kinds]


def _sampled(
    jobs: Sequence[SamplingJob],
    shards: Sequence[Shard],
    store: Store,
    engine: config.Engine,
    sampler: Callable[..., Sampler],
    kept: Path | None,
    endpoints: Mapping[str, config.Endpoint],
) -> list[SampleReceipt]:
    """Sample these shards of jobs of one engine. Returns one receipt per shard; fewer where some are quarantined.

    `kept`: the folder of failures that are not recorded yet.
    """
    if not shards:
        return []
    gpu = on_gpus(engine, jobs[0].settings.engine)
    cores = cpu_cores(ray.nodes(), ray.get_runtime_context().get_node_id(), os.cpu_count() or 1)
    stays = jobs[0].settings.engine == "openai"
    pool = endpoint_pool(engine) if stays else pool_of(engine, gpu, cores)
    supervisor = start_supervisor(store, engine.max_failures, engine.max_quarantined, kept)
    make = partial(sampler, gpu=gpu, supervisor=supervisor)
    tracker = ShardTracker(shards, {job.fingerprint: job for job in jobs})
    lost_s, work = engine.lost_node_minutes * 60, work_of(shards, jobs, store)
    bounds = partial(in_flight, engine, sequences_at_once(engine, jobs, endpoints))
    rounds = Rounds(supervisor, pool, tracker, bounds, work=work, lost_s=lost_s, stays=stays)
    receipts: list[SampleReceipt] = []
    left = list(shards)
    try:
        with sigterm.draining(lambda: supervisor.drain.remote(), engine.drain_seconds):
            while left and not tracker.aborted and not sigterm.was_received():
                for receipt in rounds.run(make, left):
                    if receipt.refusal is None and receipt.shard not in tracker.pending:
                        continue  # an actor was lost that had returned it: another one has found it committed
                    tracker.advance(receipt)
                    if receipt.refusal is None:
                        receipts.append(receipt)
                left = [shard for shard in left if shard.stem in tracker.pending]
                left, committed = _divided(store, left)
                receipts += committed  # by actors that did not return from the round
                for receipt in committed:
                    tracker.advance(receipt)
    except actor_pool.StageError as error:
        lost = f"; {unrecorded}" if (unrecorded := flush_records(supervisor, LAST_FLUSH_S)) else ""
        raise actor_pool.StageError(f"{error} (unfinished: {tracker.unfinished()}){lost}") from None
    except sigterm.Preempted:
        flush_records(supervisor, LAST_FLUSH_S)
        made = f"{len(receipts)} or more"
        with suppress(StoreError):  # receipts may still be on their way
            made = str(len(shards) - len(missing_shards(store, shards)))
        raise sigterm.Preempted(f"sampling: {made} of {len(shards)} shards were committed") from None
    unrecorded = flush_records(supervisor, LAST_FLUSH_S)
    if unrecorded:
        print(f"  sample: {unrecorded}; waiting for the store, at most {FLUSH_S:.0f} s", flush=True)
        unrecorded = flush_records(supervisor, FLUSH_S)
    if tracker.unloadable:
        raise actor_pool.StageError(tracker.left_out())
    if tracker.aborted:
        raise actor_pool.StageError(f"sample: {tracker.aborted}; unfinished: {tracker.unfinished()}")
    if unrecorded and len(receipts) < len(shards):  # a shard that is sampled does not need its record
        raise actor_pool.StageError(f"sample: {unrecorded}; run the same command again")
    return receipts


def _divided(store: Store, shards: Sequence[Shard]) -> tuple[list[Shard], list[SampleReceipt]]:
    """The shards that are missing, and receipts of the others."""
    missing = through_outages(lambda: missing_shards(store, shards), "completions/") if shards else []
    stems = {shard.stem for shard in missing}
    return missing, [SampleReceipt(shard.stem) for shard in shards if shard.stem not in stems]


def by_model(jobs: Sequence[SamplingJob], store: Store) -> list[SamplingJob]:
    """The jobs, those of one model next to each other, and so models of one architecture, which an engine swaps fast.

    Otherwise the order is kept.
    """
    models = list(dict.fromkeys(job.model for job in jobs))
    known = architectures(models, store)
    kinds = list(dict.fromkeys(known.values()))
    return sorted(jobs, key=lambda job: (kinds.index(known[job.model]), models.index(job.model)))


def architectures(models: Iterable[ModelRef], store: Store) -> dict[ModelRef, str]:
    """A name of each model's architecture: models have one where they have one name, or equal config.json files."""
    known: dict[str, str] = {}
    models = list(models)
    for model in models:
        if model.name not in known and model.stage != "base":
            with suppress(ModelError):  # a damaged manifest: reported when the model is loaded
                if manifest := committed_model(store, model.fingerprint):
                    known[model.name] = manifest.files["config.json"].sha256
    return {model: known.get(model.name, model.name) for model in models}


def work_of(shards: Sequence[Shard], jobs: Sequence[SamplingJob], store: Store) -> dict[str, Work]:
    """By stem: what the supervisor needs to know of each shard."""
    job_of = {job.fingerprint: job for job in jobs}
    known = architectures(dict.fromkeys(job.model for job in jobs), store)
    work = {}
    for shard in shards:
        job = job_of[shard.fingerprint]
        work[shard.stem] = Work(shard, job.model.fingerprint, known[job.model], sequences_of(shard, job))
    return work


def on_gpus(engine: config.Engine, kind: str) -> bool:
    """Whether engines of this kind have GPUs of the cluster. Raises ConfigError as `check_on_cpus` for those on CPUs.

    `kind`: as `SamplingSettings.engine`.
    """
    gpu = uses_gpu(engine.device, ray.cluster_resources())
    if kind == "vllm" and not gpu:
        check_on_cpus(engine.kv_cache_dtype, engine.extra)
    return gpu


def pool_of(engine: config.Engine, gpu: bool, cores: int) -> actor_pool.Pool:
    """The actor pool that an engine config asks for: with GPUs, or on CPUs with a bounded number of threads.

    `cores`: CPU cores of the cluster. Without GPUs the pool grows to as many engines as have cores of their own.
    """
    most = engine.max_actors if gpu else min(engine.max_actors, cores // engine.threads_per_actor)
    return actor_pool.Pool(
        min_actors=engine.min_actors,
        max_actors=max(engine.min_actors, most),
        gpus=engine.gpus if gpu else 0,
        accelerator_type=engine.accelerator_type if gpu else None,
        shards_in_flight=least_in_flight(engine),
        max_restarts=_max_restarts(engine),
        env=process_environment(engine, gpu=gpu),
    )


def endpoint_pool(engine: config.Engine) -> actor_pool.Pool:
    """The pool of the models behind endpoints: one actor, which bounds their requests and counts their tokens."""
    return actor_pool.Pool(
        cpus=ENDPOINT_CPUS, shards_in_flight=least_in_flight(engine), max_restarts=_max_restarts(engine)
    )


def _max_restarts(engine: config.Engine) -> int:
    """How many processes may end, with those that shards may end before sampling stops."""
    return engine.max_restarts + (engine.max_failures + 1) * (engine.max_quarantined + 1)
