"""Fine-tuning: base model + training table -> committed model, as a Ray Train job with DeepSpeed.

In: `TrainingJob`s, each naming its base, its data in the store, its recipe and the fingerprint of the result.
Out: `models/<fingerprint>/` with safetensors, tokenizer, chat template and a manifest written last. Committed jobs are
skipped. The others run one after another in one worker group, because starting a group takes longer than training a
small model. `ray_group.py` runs the group and `worker.py` is the code of its workers.

A dead worker ends the attempt of the whole group. The next attempt is a new Ray Train run that resumes each job
from its newest complete checkpoint. On CPU, with the same number of workers, a resumed job gives the same bytes as an
uninterrupted one.

Limits: all workers train one model together (no pipeline or tensor parallelism).
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence

from rft_ray.config import Training
from rft_ray.config.schema import check_batch
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import Store, open_run
from rft_ray.store.models.committed import committed_model
from rft_ray.training.checkpoints import work_folder
from rft_ray.training.ray_group import one_line_of, refused_by, run_group
from rft_ray.training.results import STARTED, TrainingError, TrainingProgress, TrainingResult, training_record

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
    TrainingError when a job's data cannot be trained on or `settings.max_attempts` attempts at a job failed. The jobs
    before the failed one are then committed.
    """
    for job in jobs:
        check_batch(settings, job.recipe)
    store = open_run(store_url)
    attempts: set[str] = set()
    failures: Counter[str] = Counter()
    while missing := [job for job in jobs if committed_model(store, job.fingerprint) is None]:
        attempt = uuid.uuid4().hex[:12]
        attempts.add(attempt)
        cause = run_group(missing, attempt, store, settings, on_progress)
        if cause is None:
            break
        failed = _running_job(store, missing, attempt)
        failures[failed.fingerprint] += 1
        _give_up_or_go_on(failed, failures[failed.fingerprint], settings.max_attempts, cause)
    return [_result(store, job, attempts) for job in jobs]


def _result(store: Store, job: TrainingJob, attempts: set[str]) -> TrainingResult:
    manifest = committed_model(store, job.fingerprint)
    if manifest is None:
        raise TrainingError(f"{job.stage} of {job.model}: training ended without a committed model")
    record = training_record(manifest.metadata)
    if record is None:
        raise TrainingError(f"{job.stage} of {job.model}: its manifest does not say how it was trained")
    return TrainingResult(job.model, job.stage, job.fingerprint, record, record.attempt in attempts)


def _running_job(store: Store, jobs: Sequence[TrainingJob], attempt: str) -> TrainingJob:
    """The job that a failed group was training: the last one marked as started, or the first if none is."""
    started = [job for job in jobs if store.exists(f"{work_folder(job.fingerprint, attempt)}/{STARTED}")]
    return (started or list(jobs))[-1 if started else 0]


def _give_up_or_go_on(job: TrainingJob, failures: int, most: int, cause: Exception) -> None:
    """Log the failed attempt. Raises TrainingError when another attempt cannot help or none is left."""
    name = f"{job.stage} of {job.model}"
    if refusal := refused_by(cause):
        raise TrainingError(f"{name}: {refusal}") from None
    message = f"{name}: attempt {failures} of {most} failed: {one_line_of(cause)}"
    if failures >= most:
        raise TrainingError(message) from None
    logger.warning("%s; starting again from its newest checkpoint", message)
