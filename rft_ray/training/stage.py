"""Fine-tuning: base model + training table -> committed model, as a Ray Train job with DeepSpeed.

In: `TrainingJob`s, each naming its base, its data in the store, its recipe and the fingerprint of the result.
Out: `models/<fingerprint>/` with safetensors, tokenizer, chat template and a manifest written last. Committed jobs are
skipped. Where GPUs are free for several (`training.parallel_jobs`), each of the others trains in a worker group of its
own; otherwise one group trains them one after another, because starting a group takes longer than training a small
model. `side_by_side.py` has the groups, `ray_group.py` runs one and `worker.py` is the code of its workers.

A dead worker ends the attempt of the whole group. The next attempt is a new Ray Train run that resumes each job
from its newest complete checkpoint. On CPU, with the same workers, ZeRO stage and optimizer of PyTorch, a resumed job
gives the same bytes as an uninterrupted one; else it is equal up to rounding. Neither a wait for resources nor a node
that leaves as announced counts as a failed attempt.

Limits: all workers of a group train one model together (no pipeline or tensor parallelism).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from rft_ray.config import Training
from rft_ray.config.errors import RftError
from rft_ray.config.schema import check_batch
from rft_ray.plan.jobs import TrainingJob
from rft_ray.runtime import ray_private
from rft_ray.runtime.ray_cluster import uses_gpu
from rft_ray.store import Store, open_run
from rft_ray.store.models.committed import committed_through_outages
from rft_ray.store.outages import through_outages
from rft_ray.training import checkpoints
from rft_ray.training.ray_group import one_line_of, refused_by, reporting
from rft_ray.training.results import TrainingError, TrainingProgress, TrainingResult, training_record
from rft_ray.training.side_by_side import Groups, RunningGroup

logger = logging.getLogger(__name__)


def train(
    jobs: Sequence[TrainingJob],
    store_url: str,
    settings: Training,
    on_progress: Callable[[TrainingProgress], object] | None = None,
) -> list[TrainingResult]:
    """Train and commit every job that is not committed yet. Returns one result per job, in order.

    `on_progress` is called every few seconds of training, from a separate thread. Ray must be initialised. Raises
    NotARun when there is no run at `store_url`, ConfigError when the workers cannot share the batch size, and
    TrainingError when a job's data cannot be trained on, `settings.max_attempts` attempts at a job failed, or the
    cluster had no room for its workers in `settings.wait_minutes`; StoreUnreachable after an outage of OUTAGE_S. The
    jobs before the failed one, and those that were training next to it, are then committed.
    """
    import ray

    for job in jobs:
        check_batch(settings, job.recipe)
    store = open_run(store_url)
    missing = list({job.fingerprint: job for job in _missing(store, jobs)}.values())
    attempts: set[str] = set()
    if missing:
        gpu = uses_gpu(settings.device, ray.cluster_resources())
        with (
            reporting(on_progress) as board,
            Groups(store, settings, board, gpu=gpu, jobs=len(missing)) as groups,
        ):
            attempts = _train_missing(missing, groups, store, settings)
    return [_result(store, job, attempts) for job in jobs]


def _missing(store: Store, jobs: Sequence[TrainingJob]) -> list[TrainingJob]:
    return [job for job in jobs if committed_through_outages(store, job.fingerprint) is None]


def _train_missing(jobs: Sequence[TrainingJob], groups: Groups, store: Store, settings: Training) -> set[str]:
    """Train every job. Returns the names of the attempts.

    Raises the first error when the groups that run next to the failed one have ended; none is started again.
    """
    queue, attempts, failures = groups.divide(jobs), set[str](), Counter[str]()
    error: RftError | None = None
    for job in jobs:
        checkpoints.discard_unfinished(store, job.fingerprint)
    while groups.running or (queue and not error):
        while queue and not error and groups.may_start():
            groups.start(queue.pop(0))
        if (ended := groups.ended()) is None:
            continue
        group, failure = ended
        attempts.add(group.attempt)
        if failure is None:
            continue
        for job in group.jobs:
            checkpoints.discard_unfinished(store, job.fingerprint, group.attempt)
        try:
            _judge(group, failure, groups, failures, settings)
            left = _missing(store, group.jobs)
        except RftError as last:
            error = error or last
            if groups.running:
                logger.warning("%s; the models that train next to it go on", last)
            continue
        if left:
            queue.insert(0, left)
    if error:
        raise error
    return attempts


def _judge(group: RunningGroup, failure: Exception, groups: Groups, failures: Counter[str], settings: Training) -> None:
    """Count a group's failure as that of the job it was training. Raises TrainingError when the job is given up."""
    if ray_private.lacked_resources(failure):
        if group.seconds >= 60 * settings.wait_minutes:
            job, waited = group.jobs[0], f"{settings.wait_minutes:g} minutes"
            raise TrainingError(
                f"{job.stage} of {job.model}: no place within {waited} for {groups.want()}: add nodes, lower "
                "training.workers, or raise training.wait_minutes"
            )
        return
    started = through_outages(lambda: groups.started_jobs(group), f"work/ of attempt {group.attempt}")
    failed = (started or group.jobs[:1])[-1]
    if ray_private.was_preempted(failure):
        name = f"{failed.stage} of {failed.model}"
        logger.warning("%s: a node was taken away, as announced; starting again from the newest checkpoint", name)
        return
    failures[failed.fingerprint] += 1
    _give_up_or_go_on(failed, failures[failed.fingerprint], settings.max_attempts, failure)


def _result(store: Store, job: TrainingJob, attempts: set[str]) -> TrainingResult:
    manifest = committed_through_outages(store, job.fingerprint)
    if manifest is None:
        raise TrainingError(f"{job.stage} of {job.model}: training ended without a committed model")
    record = training_record(manifest.metadata)
    if record is None:
        raise TrainingError(f"{job.stage} of {job.model}: its manifest does not say how it was trained")
    return TrainingResult(job.model, job.stage, job.fingerprint, record, record.attempt in attempts)


def _give_up_or_go_on(job: TrainingJob, failures: int, most: int, cause: Exception) -> None:
    """Log the failed attempt. Raises TrainingError when another attempt cannot help or none is left."""
    name = f"{job.stage} of {job.model}"
    if refusal := refused_by(cause):
        raise TrainingError(f"{name}: {refusal}") from None
    message = f"{name}: attempt {failures} of {most} failed: {one_line_of(cause)}"
    if failures >= most:
        raise TrainingError(message) from None
    logger.warning("%s; starting again from its newest checkpoint", message)
