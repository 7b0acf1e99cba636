"""Threads that fall asleep before or after any operation of a store, and wake when other threads have moved on.

In: a seed. Out: an injection of `store/backends/faults.py` whose stores do this. Its kind `pause` stops one thread at
one planned operation until the test resumes it; here every thread of the process can sleep, again and again, at
operations that are drawn from the seed: a read, a listing, a create, a check whether a file exists, or between two of
them, such as the reading of completions and the commit of their verdicts.

Limits: the seed decides at which of its own operations a thread sleeps and how far the others must come meanwhile, not
how the machine's scheduler interleaves them.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from rft_ray.store import shards
from rft_ray.store.backends import faults

PART, PART_CREATED, PART_BETWEEN = 0.01, 0.05, 0.3
"""Part of the operations at which a thread sleeps; of those after a create, which are few; and of those of a thread
with the name `job` between the reading of a file and the commit of what was made from it: a repair that voids the file
meanwhile makes the commit stale."""
Kind = TypeVar("Kind", bound=faults.Injection)
MOST_CREATES, MOST_S = 40, 1.0
"""A thread wakes when the others have done up to so many creates, and at the latest after so many seconds."""


class Sleeps(faults.Injection):
    """Puts threads to sleep at random operations, once it is switched on."""

    def __init__(self, seed: int) -> None:
        super().__init__(())
        self.on = threading.Event()
        self.about_to_commit: dict[int, str] = {}
        """Thread -> the file that it read last, for the threads that sleep before a create."""
        self.places: Counter[str] = Counter()
        """How often a thread slept, by place: `before create`, `after read`."""
        self._creates = 0
        self._seed, self._threads, self._own = seed, itertools.count(), threading.local()

    def strike(self, at: int, when: str, what: str) -> None:
        action, _, key = what.partition(" ")
        if (action, when) == ("read", "after"):
            self.reads["key"] = key
        self._creates += (action, when) == ("create", "after")
        if not self.on.is_set():
            return
        commits = (when, action) == ("before", "create") and threading.current_thread().name == "job"
        part = PART_BETWEEN if commits else PART_CREATED if (when, action) == ("after", "create") else PART
        if self._chance().random() < part:
            self.places[f"{when} {action}"] += 1
            thread = threading.get_ident()
            if commits and "key" in self.reads:
                self.about_to_commit[thread] = self.reads["key"]
            self._sleep()
            self.about_to_commit.pop(thread, None)

    @property
    def reads(self) -> dict[str, str]:
        """`key` -> the file that was read last by this thread, or by one that reads ahead for it."""
        if not hasattr(self._own, "reads"):
            self._own.reads = {}
        return self._own.reads  # type: ignore[no-any-return]

    def reads_for(self, reads: dict[str, str], work: Callable[..., Any], *arguments: Any) -> Any:
        """Do work in this thread for the one whose reads these are."""
        self._own.reads = reads
        return work(*arguments)

    def _sleep(self) -> None:
        wake_at = self._creates + int(MOST_CREATES ** self._chance().random())
        deadline = time.monotonic() + MOST_S
        while self._creates < wake_at and time.monotonic() < deadline:
            time.sleep(0.002)

    def _chance(self) -> random.Random:
        """This thread's own source of randomness: the n-th thread that uses the stores has the n-th."""
        if not hasattr(self._own, "chance"):
            self._own.chance = random.Random(f"{self._seed} {next(self._threads)}")
        return self._own.chance  # type: ignore[no-any-return]


class Recorder(faults.Injection):
    """Records the operations of the stores, in order: `read completions/…`."""

    def __init__(self) -> None:
        super().__init__(())
        self.whats: list[str] = []

    def strike(self, at: int, when: str, what: str) -> None:
        if when == "before":
            self.whats.append(what)


@contextmanager
def recording() -> Iterator[list[str]]:
    """The operations of the stores that are opened in the block."""
    with installed(Recorder()) as recorder:
        yield recorder.whats


@contextmanager
def sleeping(seed: int) -> Iterator[Sleeps]:
    """Stores that are opened in the block put threads to sleep, once `Sleeps.on` is set."""
    with installed(Sleeps(seed)) as sleeps, pytest.MonkeyPatch.context() as patch:

        class ReadersOfOne(ThreadPoolExecutor):
            def submit(self, work: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
                return super().submit(sleeps.reads_for, sleeps.reads, work, *arguments)

        patch.setattr(shards, "ThreadPoolExecutor", ReadersOfOne)
        yield sleeps


@contextmanager
def installed(injection: Kind) -> Iterator[Kind]:
    """Stores that are opened in the block call this injection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(faults.VARIABLE, "")
        patch.setattr(faults, "_current", ("", injection))
        yield injection
