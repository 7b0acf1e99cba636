"""One Ray Train worker group: start it on training jobs, relay its progress, and return why it failed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.runtime import ray_private
from rft_ray.runtime.ray_cluster import uses_gpu
from rft_ray.store import Store
from rft_ray.store.models.folder import ModelError
from rft_ray.training.results import TrainingError, TrainingProgress

logger = logging.getLogger(__name__)

STARTUP_ROUNDS = 5
"""Number of times that Ray Train waits 60 s for the workers to be placed before the attempt fails."""


# --- One Ray Train run ----------------------------------------------------------------------------


def run_group(
    jobs: Sequence[TrainingJob],
    attempt: str,
    store: Store,
    settings: Training,
    on_progress: Callable[[TrainingProgress], object] | None,
) -> Exception | None:
    """Train all jobs in one worker group. Returns None on success, otherwise the group's failure."""
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from rft_ray.training.worker import train_jobs

    gpu = uses_gpu(settings.device, ray.cluster_resources())
    _warn_if_short(settings.workers, "GPU" if gpu else "CPU")
    ray_private.expect_quick_health_checks()
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
                # OpenMP threads that spin while they wait take the cores from other processes.
                worker_runtime_env={} if gpu else {"env_vars": {"OMP_WAIT_POLICY": "passive"}},
                failure_config=FailureConfig(
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=STARTUP_ROUNDS
                ),
                logging_config=LoggingConfig(log_level="CRITICAL"),  # stack traces go to Ray's log files only
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            failure: Exception = error
            return failure
    return None


def _warn_if_short(workers: int, resource: str) -> None:
    """Warn when the cluster has too few resources for the group now. An autoscaler may still add them."""
    import ray

    available = int(ray.cluster_resources().get(resource, 0))
    if available < workers:
        logger.warning(
            "training needs %d workers with one %s each and the cluster has %d: waiting up to %d minutes for more",
            *(workers, resource, available, STARTUP_ROUNDS),
        )


def refused_by(error: Exception) -> str:
    """The message of a worker's error that another attempt cannot fix; empty for any other failure."""
    failures = _worker_failures(error)
    return next((str(failure) for failure in failures if isinstance(failure, TrainingError | ModelError)), "")


def one_line_of(error: Exception) -> str:
    """The cause of a group's failure, on one line.

    A dead worker is the cause before other failures: the other workers fail when they lose the connection to it.
    """
    failures = _worker_failures(error)
    deaths = filter(None, map(ray_private.health_check_failure, failures))
    cause = next(deaths, failures[0])
    return textwrap.shorten(f"{type(cause).__name__}: {cause}", 400, placeholder=" …")


def _worker_failures(error: Exception) -> list[Exception]:
    """The workers' failures in rank order; without any, the controller's failure or the error itself."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    return [failures[rank] for rank in sorted(failures)] or [getattr(error, "controller_failure", error)]


@contextlib.contextmanager
def _own_address() -> Iterator[None]:
    """Set RAY_ADDRESS to this cluster's address for Ray Train's helper actors, and restore it afterwards.

    Without it, Ray Train's placement-group cleaner may ask another cluster on the machine for the controller. It ends
    the workers when that cluster does not know the controller.
    """
    import ray

    ray_private.hand_on_ray_address()
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
    """Restore the process's SIGINT handler: Ray Train leaves one that ends the program with exit status 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressBoard:
    """Actor that passes progress from the worker of rank 0 to the driver."""

    def __init__(self) -> None:
        self._unseen: list[TrainingProgress] = []

    def put(self, progress: TrainingProgress) -> None:
        self._unseen.append(progress)

    def take(self) -> list[TrainingProgress]:
        unseen, self._unseen = self._unseen, []
        return unseen


@contextlib.contextmanager
def _reporting(on_progress: Callable[[TrainingProgress], object] | None) -> Iterator[Any]:
    """A `ProgressBoard` whose entries go to `on_progress` until the block ends; None without `on_progress`."""
    if on_progress is None:
        yield None
        return
    import ray

    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    ended = threading.Event()

    def relay() -> None:
        while True:
            last = ended.wait(1.0)
            with contextlib.suppress(ray.exceptions.RayError):
                for progress in ray.get(board.take.remote(), timeout=10):
                    on_progress(progress)
            if last:
                return

    thread = threading.Thread(target=relay, name="training-progress", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        ended.set()
        thread.join(timeout=15)
