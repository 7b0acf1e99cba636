"""Tells when nobody works on the shards that are left of an execution, so that another execution is to sample them.

In: what Ray Data knows of its actors, and what the supervisor knows of its samplers. Out: whether to end the execution.
A shard stays with the actor that Ray Data gave it to. It is stuck there where the actor's place cannot load its model,
and where the actor's node is gone: Ray starts the actor again when there is room for it, which may be never
(https://github.com/ray-project/ray/issues/44719).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rft_ray.runtime.ray_private import PoolState
from rft_ray.sampling.places import LoadFailure
from rft_ray.sampling.supervisor import Status

SOON_S = 5.0
"""How long nobody works, where nobody else can start, before an execution ends."""


def patience_s(pool: PoolState, status: Status, lost_s: float) -> float | None:
    """How long the execution may stay as it is; None where somebody works, or no shard is stuck.

    `lost_s`: how long an actor that starts, for the first time or again, may take until it works.
    """
    if pool.working > status.waiting or not (status.waiting or status.waiting_at_start or pool.restarting):
        return None
    return lost_s if pool.pending + pool.restarting > status.waiting_at_start else SOON_S


class Standstill:
    """Called once a second during an execution: whether it is to end. Reports each failed place once."""

    def __init__(
        self,
        status: Callable[[], Status],
        lost_s: float,
        report: Callable[[LoadFailure], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status, self._lost_s, self._report, self._clock = status, lost_s, report, clock
        self._reported = 0
        self._since: float | None = None

    def begin(self) -> None:
        """Start to watch another execution."""
        self._since = None

    def __call__(self, pool: PoolState) -> bool:
        status, now = self._status(), self._clock()
        for failure in status.failures[self._reported :]:
            self._report(failure)
        self._reported = len(status.failures)
        patience = patience_s(pool, status, self._lost_s)
        if patience is None:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= patience
