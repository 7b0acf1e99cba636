"""Fine-tuning: base model + training table -> committed model, as a Ray Train job with DeepSpeed.

In: `TrainingJob`s, each naming its base, its data in the store, its recipe and the fingerprint of the result.
Out: `models/<fingerprint>/` with safetensors, tokenizer, chat template and a manifest written last. Jobs that are
committed already are skipped; all others run one after another in one worker group, whose start-up would cost more
than a small job. The worker's side is `training_worker.py`.

A dead worker ends the group's attempt; the next attempt is a new Ray Train run that resumes each job from its newest
complete checkpoint. On CPU and with the same number of workers a resumed model has the bytes of an uninterrupted one.

Limits: all workers train one model together (no pipeline or tensor parallelism); examples are not packed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import textwrap
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rft_ray.checkpoints import work_folder
from rft_ray.config import Training
from rft_ray.config.schema import check
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import Store, open_store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError

__all__ = ["TrainingError", "TrainingJob", "TrainingProgress", "TrainingResult", "check", "train"]

STARTED = "started.json"
"""An attempt's mark in a job's work folder: tells which job a group was at when it died."""
STARTUP_ROUNDS = 5
"""How often Ray Train waits for the workers to be placed, 60 s each, before the attempt fails."""

logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """A model could not be trained. One line: which one, how often it was tried, and the last cause."""


@dataclass(frozen=True)
class TrainingResult:
    """How one model was trained, as its manifest tells.

    Example: TrainingResult("tiny-s", "sft", "9c…", 600, 0, 15, 69000, 5.1, 13529.4, 0.41, 0, 0, True)
    """

    model: str
    stage: str
    fingerprint: str
    examples: int
    skipped_too_long: int
    """Rows left out because prompt and response exceed `max_tokens` or the model's context."""
    steps: int
    tokens: int
    """Prompt and response tokens that were trained on, over all epochs."""
    seconds: float
    """Time in training steps and checkpoints, over all attempts that count."""
    tokens_per_s: float
    final_loss: float
    resumed_at_step: int
    """Step of the checkpoint that the last attempt started from; 0 where it started from the base."""
    checkpoints_passed_over: int
    """Complete checkpoints that could not be used: damaged, or of another number of workers or ZeRO stage."""
    committed_here: bool
    """Whether this call trained it, not an earlier one."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a job is. `str()` is the line for a terminal.

    Example: TrainingProgress("tiny-s", "sft", 10, 15, 0.52, 13500.0, 1.7)
    """

    model: str
    stage: str
    step: int
    steps: int
    loss: float
    tokens_per_s: float
    eta_s: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.eta_s), 60)
        return (
            f"{self.stage} {self.model}: step {self.step}/{self.steps}, loss {self.loss:.4f}, "
            f"{self.tokens_per_s:,.0f} tokens/s, {minutes}:{seconds:02d} left"
        )


def train(
    jobs: Sequence[TrainingJob],
    store_url: str,
    settings: Training,
    on_progress: Callable[[TrainingProgress], object] | None = None,
) -> list[TrainingResult]:
    """Train and commit every job that is not committed yet; one result per job, in order.

    `on_progress` is called every few seconds of training, from a thread of its own (`print` will do). Needs a running
    Ray. Raises ConfigError for impossible settings, and TrainingError where a job's data cannot be trained on or
    `settings.max_attempts` attempts at it failed; jobs before it are then committed.
    """
    for job in jobs:
        check(settings, job.recipe)
    store = open_store(store_url)
    attempts: set[str] = set()
    failures: Counter[str] = Counter()
    while missing := [job for job in jobs if committed_model(store, job.fingerprint) is None]:
        attempt = uuid.uuid4().hex[:12]
        attempts.add(attempt)
        cause = _run_group(missing, attempt, store, settings, on_progress)
        if cause is None:
            break
        at_fault = _reached(store, missing, attempt)
        failures[at_fault.fingerprint] += 1
        _give_up_or_go_on(at_fault, failures[at_fault.fingerprint], settings.max_attempts, cause)
    return [_result(store, job, attempts) for job in jobs]


def _result(store: Store, job: TrainingJob, attempts: set[str]) -> TrainingResult:
    manifest = committed_model(store, job.fingerprint)
    if manifest is None:
        raise TrainingError(f"{job.stage} of {job.model}: training ended without a committed model")
    told = manifest.metadata["training"]
    fields = {name: told[name] for name in TrainingResult.__dataclass_fields__ if name in told}
    return TrainingResult(
        **{**fields, "model": job.model, "stage": job.stage, "fingerprint": job.fingerprint},
        committed_here=told["attempt"] in attempts,
    )


def _reached(store: Store, jobs: Sequence[TrainingJob], attempt: str) -> TrainingJob:
    """The job that a failed group was at: the last one that it marked as started, else the first."""
    started = [job for job in jobs if store.exists(f"{work_folder(job.fingerprint, attempt)}/{STARTED}")]
    return (started or list(jobs))[-1 if started else 0]


def _give_up_or_go_on(job: TrainingJob, failures: int, most: int, cause: Exception) -> None:
    """Raise TrainingError where trying again cannot help or was tried often enough; else log the attempt."""
    what = f"{job.stage} of {job.model}"
    if refusal := _refusal(cause):
        raise TrainingError(f"{what}: {refusal}") from None
    line = f"{what}: attempt {failures} of {most} failed: {_one_line(cause)}"
    if failures >= most:
        raise TrainingError(line) from None
    logger.warning("%s; starting again from its newest checkpoint", line)


# --- One Ray Train run ----------------------------------------------------------------------------


def _run_group(
    jobs: Sequence[TrainingJob],
    attempt: str,
    store: Store,
    settings: Training,
    on_progress: Callable[[TrainingProgress], object] | None,
) -> Exception | None:
    """One worker group over all jobs. None, or why it died."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from rft_ray.training_worker import train_jobs

    gpu = uses_gpu(settings)
    _warn_if_short(settings.workers, "GPU" if gpu else "CPU")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # notices an end or a death sooner
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a node that is taken away is a dead worker
    with (
        tempfile.TemporaryDirectory(prefix="rft-train-") as folder,
        _reporting(on_progress) as board,
        _own_address(),
        _own_sigint(),
    ):
        trainer = TorchTrainer(
            train_jobs,
            train_loop_config={
                "jobs": list(jobs),
                "attempt": attempt,
                "store_url": store.url,
                "settings": settings,
                "gpu": gpu,
                "board": board,
            },
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=settings.workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name=f"train-{attempt}",
                storage_path=folder,
                # Threads that spin while they wait take the cores from whatever else runs on them.
                worker_runtime_env={} if gpu else {"env_vars": {"OMP_WAIT_POLICY": "passive"}},
                failure_config=FailureConfig(
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=STARTUP_ROUNDS
                ),
                logging_config=LoggingConfig(log_level="CRITICAL"),  # stacks go to Ray's log files only
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            failure: Exception = error
            return failure
    return None


def uses_gpu(settings: Training) -> bool:
    """Whether the workers ask for GPUs."""
    import ray

    if settings.device == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) > 0)
    return settings.device == "gpu"


def _warn_if_short(workers: int, resource: str) -> None:
    """Say what a group waits for, where the cluster cannot place it now: an autoscaler may still bring it."""
    import ray

    have = int(ray.cluster_resources().get(resource, 0))
    if have < workers:
        logger.warning(
            "training asks for %d workers with one %s each, the cluster has %d: waiting up to %d minutes for more",
            *(workers, resource, have, STARTUP_ROUNDS),
        )


def _refusal(error: Exception) -> str:
    """What a worker said of a job that no further attempt can train; empty for any other failure."""
    causes = (getattr(failure, "_base_exc", failure) for failure in _worker_failures(error))
    return next((str(cause) for cause in causes if isinstance(cause, TrainingError | ModelError)), "")


def _one_line(error: Exception) -> str:
    """The cause of a group's death: a dead worker before the peers that then lost their connection to it."""
    failures = _worker_failures(error)
    deaths = [failure for failure in failures if not hasattr(failure, "_base_exc")]
    cause = (deaths or failures or [error])[0]
    cause = getattr(cause, "_base_exc", getattr(cause, "health_check_failure", cause))
    return textwrap.shorten(f"{type(cause).__name__}: {cause}", 400, placeholder=" …")


def _worker_failures(error: Exception) -> list[Exception]:
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    return [failures[rank] for rank in sorted(failures)] or [getattr(error, "controller_failure", error)]


@contextlib.contextmanager
def _own_address() -> Iterator[None]:
    """Tell Ray Train's helper actors which cluster they belong to, by RAY_ADDRESS.

    Its placement-group cleaner else asks any cluster that it finds on the machine about the controller, takes one
    that is unknown there for dead, and ends the workers.
    """
    import ray
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


@contextlib.contextmanager
def _own_sigint() -> Iterator[None]:
    """Put the process's SIGINT handler back: Ray Train leaves one that ends the program with exit status 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressBoard:
    """The actor between a worker that reports and the driver that shows."""

    def __init__(self) -> None:
        self._unseen: list[TrainingProgress] = []

    def put(self, progress: TrainingProgress) -> None:
        self._unseen.append(progress)

    def take(self) -> list[TrainingProgress]:
        unseen, self._unseen = self._unseen, []
        return unseen


@contextlib.contextmanager
def _reporting(on_progress: Callable[[TrainingProgress], object] | None) -> Iterator[Any]:
    """A board whose news are handed to `on_progress` until the block ends; None where nobody listens."""
    if on_progress is None:
        yield None
        return
    import ray

    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    ended = threading.Event()

    def show() -> None:
        while True:
            last = ended.wait(1.0)
            with contextlib.suppress(ray.exceptions.RayError):
                for progress in ray.get(board.take.remote(), timeout=10):
                    on_progress(progress)
            if last:
                return

    thread = threading.Thread(target=show, name="training-progress", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        ended.set()
        thread.join(timeout=15)
