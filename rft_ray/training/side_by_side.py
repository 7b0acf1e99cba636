"""The worker groups that train at once: when another may start, what they wait for, and how each ends.

In: lists of training jobs, one group each. Out: the groups that have ended, with their failures. A group that has
started waits for its resources by itself; meanwhile lines say what it asks for and what the cluster has.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import Store
from rft_ray.store.base import StoreUnreachable
from rft_ray.training.checkpoints import work_folder
from rft_ray.training.ray_group import start_group, worker_resources
from rft_ray.training.results import STARTED
from rft_ray.training.scratch import scratch_folder

POLL_S = 3.0
"""Time between two looks at the groups that have not begun; a look asks the store."""
FIRST_LINE_S, LAST_LINE_S = 5.0, 600.0
"""Seconds until the first line about a wait, and at most between two of them; in between the time doubles."""


@dataclass
class RunningGroup:
    """One worker group: its jobs, which it trains one after another, and its Ray task."""

    jobs: Sequence[TrainingJob]
    attempt: str
    task: Any
    placed: bool = False
    """Whether its workers have their resources and have begun."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Groups:
    """The groups of one call of `train`. Leaving its block ends those that still run."""

    def __init__(
        self,
        store: Store,
        settings: Training,
        board: Any,
        *,
        gpu: bool,
        jobs: int,
        start: Callable[..., Any] = start_group,
    ) -> None:
        """`start`: called as `start_group`, to start one group."""
        self._start = start
        self._store, self._settings, self._board, self._gpu = store, settings, board, gpu
        self._most = most_groups(settings.parallel_jobs, jobs, gpu=gpu)
        self._by_free_gpus = settings.parallel_jobs == "auto"
        self.running: list[RunningGroup] = []
        self._folder = tempfile.TemporaryDirectory(
            dir=scratch_folder(settings), prefix="rft-train-", ignore_cleanup_errors=True
        )
        self._line_after = FIRST_LINE_S

    def __enter__(self) -> Groups:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        import ray

        for group in self.running:
            ray.cancel(group.task, force=True)
        self._folder.cleanup()

    def divide(self, jobs: Sequence[TrainingJob]) -> list[list[TrainingJob]]:
        """The jobs of each group. A group alone takes all: starting one takes longer than training a small model."""
        return [[job] for job in jobs] if self._most > 1 else [list(jobs)]

    def may_start(self) -> bool:
        """Whether another group may start now."""
        import ray

        if not self.running or len(self.running) >= self._most or not self._by_free_gpus:
            return len(self.running) < self._most
        unplaced = sum(not group.placed for group in self.running)
        return fits(ray.available_resources().get("GPU", 0), self._settings.workers, unplaced)

    def start(self, jobs: Sequence[TrainingJob]) -> None:
        """Start a group on jobs. Its attempt has a name of its own."""
        attempt = uuid.uuid4().hex[:12]
        task = self._start(
            jobs, attempt, self._store, self._settings, gpu=self._gpu, board=self._board, folder=self._folder.name
        )
        self.running.append(RunningGroup(jobs, attempt, task))

    def ended(self) -> tuple[RunningGroup, Exception | None] | None:
        """A group that has ended, with its failure if it failed; None where none ends within seconds."""
        import ray

        done, _ = ray.wait([group.task for group in self.running], timeout=POLL_S)
        if not done:
            self._look()
            return None
        group = next(group for group in self.running if group.task == done[0])
        self.running.remove(group)
        try:
            failure: Exception | None = ray.get(group.task)
        except ray.exceptions.RayError as error:  # the task's process died
            failure = error
        return group, failure

    def started_jobs(self, group: RunningGroup) -> list[TrainingJob]:
        """The group's jobs that its workers have begun with, in order. Raises StoreError."""
        return [
            job for job in group.jobs if self._store.exists(f"{work_folder(job.fingerprint, group.attempt)}/{STARTED}")
        ]

    def want(self) -> str:
        """What a group asks for and what the cluster has, in words."""
        import ray

        return wants(
            self._settings.workers, worker_resources(self._gpu), ray.cluster_resources(), free=ray.available_resources()
        )

    def _look(self) -> None:
        """Note which groups have begun, and print a line about the others where one is due."""
        waiting = [group for group in self.running if not group.placed]
        with suppress(StoreUnreachable):  # the next look asks again
            for group in waiting:
                group.placed = bool(self.started_jobs(group))
        waiting = [group for group in waiting if not group.placed]
        if not waiting:
            self._line_after = FIRST_LINE_S
            return
        longest = max(group.seconds for group in waiting)
        if longest < self._line_after or not _waits(worker_resources(self._gpu), self._settings.workers):
            return
        self._line_after = longest + min(longest, LAST_LINE_S)
        names = ", ".join(f"{group.jobs[0].stage} of {group.jobs[0].model}" for group in waiting)
        limit = self._settings.wait_minutes
        print(f"  {names}: waiting for {self.want()}; {longest / 60:,.1f} of {limit:,.4g} minutes", flush=True)


def most_groups(parallel_jobs: Literal["auto"] | int, jobs: int, *, gpu: bool) -> int:
    """How many groups may run at once at most. `auto`: on GPUs, whatever is free decides how many do."""
    if parallel_jobs == "auto":
        return jobs if gpu else 1
    return min(jobs, parallel_jobs)


def fits(free_gpus: float, workers: int, unplaced: int) -> bool:
    """Whether the free GPUs carry another group of so many workers, next to those that have not taken theirs yet."""
    return free_gpus >= workers * (unplaced + 1)


def wants(workers: int, each: Mapping[str, float], total: Mapping[str, float], *, free: Mapping[str, float]) -> str:
    """What a group asks for and what the cluster has, in words.

    Example: "2 workers of 1 CPU and 1 GPU each, and the cluster has 8 CPUs (6 free) and 1 GPU (0 free)"
    """
    asked = " and ".join(_count(number, name) for name, number in each.items())
    has = " and ".join(f"{_count(total.get(name, 0), name)} ({free.get(name, 0):g} free)" for name in each)
    return f"{_count(workers, 'worker')} of {asked} each, and the cluster has {has}"


def _count(number: float, name: str) -> str:
    return f"{number:g} {name}{'' if number == 1 else 's'}"


def _waits(each: Mapping[str, float], workers: int) -> bool:
    """Whether a placement group of so many workers waits for its resources."""
    from ray.util import placement_group_table

    groups = placement_group_table().values()
    return any(
        group["state"] == "PENDING" and list(group["bundles"].values()) == [dict(each)] * workers for group in groups
    )
