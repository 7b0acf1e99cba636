"""How full an engine is: vLLM's statistics of each step -> gauges while it runs, and one record per shard.

A preempted sequence is one that loses its place in the key-value cache to others and is computed again later: with many
of them, a larger cache or fewer sequences at once sample faster. Pure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

REPORT_S = 1.0
"""Seconds between two reports at least; an engine makes hundreds of steps a second."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The most of each at a time, and the preemptions altogether. Example: EngineLoad(256, 1744, 0.83, 12)"""

    running: int
    """Sequences that are generated at once."""
    waiting: int
    """Sequences that wait for a place in the batch."""
    kv_cache: float
    """Share of the key-value cache in use."""
    preemptions: int


class EngineLoads:
    """The statistics of one engine after another in this process. Called from several threads."""

    def __init__(self, report: Callable[[EngineLoad], object], interval_s: float = REPORT_S) -> None:
        """`report`: called with the load of the last step and the preemptions since the last call."""
        self._report, self._interval_s = report, interval_s
        self._lock = threading.Lock()
        self._since_taken: EngineLoad | None = None
        self._unreported, self._reported_at = 0, float("-inf")

    def record(self, step: EngineLoad) -> None:
        """Take in the statistics of one step."""
        with self._lock:
            self._since_taken = merged([step] if self._since_taken is None else [self._since_taken, step])
            self._unreported += step.preemptions
            now, idle = time.monotonic(), not step.running and not step.waiting
            if not idle and now - self._reported_at < self._interval_s:
                return
            self._reported_at = now
            reported, self._unreported = self._unreported, 0
        self._report(EngineLoad(step.running, step.waiting, step.kv_cache, reported))

    def take(self) -> EngineLoad | None:
        """The load since the last call; None where no engine has made a step with statistics."""
        with self._lock:
            taken, self._since_taken = self._since_taken, None
        return taken


def merged(loads: Iterable[EngineLoad]) -> EngineLoad:
    """The most of each at a time, and the sum of the preemptions. `loads`: at least one."""
    loads = list(loads)
    return EngineLoad(
        max(load.running for load in loads),
        max(load.waiting for load in loads),
        max(load.kv_cache for load in loads),
        sum(load.preemptions for load in loads),
    )
