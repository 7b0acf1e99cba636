"""One Ray Train worker group, in a Ray task of its own: start it on training jobs, and say why it failed.

The task is a process of its own, so that several groups can run side by side and each can be ended: Ray Train has no
call to end a run, and ends it with the process that started it.
"""

from __future__ import annotations

import contextlib
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.runtime import ray_private
from rft_ray.store import Store
from rft_ray.store.models.folder import ModelError
from rft_ray.training.results import TrainingError, TrainingProgress

# --- One Ray Train run ----------------------------------------------------------------------------


def start_group(
    jobs: Sequence[TrainingJob], attempt: str, store: Store, settings: Training, *, gpu: bool, board: Any, folder: str
) -> Any:
    """Start one worker group on all jobs. Returns the Ray reference of `run_group`'s result.

    The group waits up to `settings.wait_minutes` for its resources. `folder`: on this node, for Ray Train's own files.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context()
    task: Any = ray.remote(
        num_cpus=0,
        max_calls=1,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here.get_node_id(), soft=False),
        runtime_env={"env_vars": ray_private.train_environment(here.gcs_address, 60 * settings.wait_minutes)},
    )(run_group)
    return task.remote(list(jobs), attempt, store.url, settings, gpu, board, folder)


def run_group(
    jobs: Sequence[TrainingJob], attempt: str, store_url: str, settings: Training, gpu: bool, board: Any, folder: str
) -> Exception | None:
    """Train all jobs in one worker group. Returns None on success, otherwise the group's failure."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from rft_ray.training.worker import train_jobs

    trainer = TorchTrainer(
        train_jobs,
        train_loop_config={
            "jobs": jobs,
            "attempt": attempt,
            "store_url": store_url,
            "settings": settings,
            "gpu": gpu,
            "board": board,
        },
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=gpu, resources_per_worker=worker_resources(gpu)
        ),
        run_config=RunConfig(
            name=f"train-{attempt}",
            storage_path=folder,
            # OpenMP threads that spin while they wait take the cores from other processes.
            worker_runtime_env={} if gpu else {"env_vars": {"OMP_WAIT_POLICY": "passive"}},
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
            logging_config=LoggingConfig(log_level="CRITICAL"),  # stack traces go to Ray's log files only
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        failure: Exception = error
        return failure
    return None


def worker_resources(gpu: bool) -> dict[str, float]:
    """What one worker asks of the cluster."""
    return {"CPU": 1, **({"GPU": 1} if gpu else {})}


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


# --- Progress -------------------------------------------------------------------------------------


class ProgressBoard:
    """Actor that passes progress from the workers of rank 0 to the driver."""

    def __init__(self) -> None:
        self._unseen: list[TrainingProgress] = []

    def put(self, progress: TrainingProgress) -> None:
        self._unseen.append(progress)

    def take(self) -> list[TrainingProgress]:
        unseen, self._unseen = self._unseen, []
        return unseen


@contextlib.contextmanager
def reporting(on_progress: Callable[[TrainingProgress], object] | None) -> Iterator[Any]:
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
