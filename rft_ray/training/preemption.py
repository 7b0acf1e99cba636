"""The notice that a node of the worker group is about to be taken away: rank 0 then wants a checkpoint at once.

In: the nodes of the group's workers, and those that Ray drains: spot nodes whose provider gives notice, nodes that an
autoscaler takes away, and `ray drain-node`. Out: one wish per node. The training goes on until the node is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from rft_ray.runtime import ray_private

EVERY_S = 3.0
"""Time between two questions to Ray; a cloud's notice comes 30 to 120 seconds before the end."""

logger = logging.getLogger(__name__)


class PreemptionNotice:
    """Asks Ray, at most every few seconds, which nodes are to leave."""

    def __init__(
        self,
        nodes: Collection[str],
        draining: Callable[[], Collection[str]] = ray_private.draining_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes, self._draining, self._clock = frozenset(nodes), draining, clock
        self._known: frozenset[str] = frozenset()
        self._asked = float("-inf")

    def __call__(self) -> bool:
        """Whether another node of the group is to leave since the last call that said so."""
        if self._clock() - self._asked < EVERY_S:
            return False
        self._asked = self._clock()
        try:
            leaving = self._nodes & frozenset(self._draining())
        except Exception as error:  # a notice that cannot be read must not end a training
            logger.warning("Ray does not say which nodes are to leave: %s", error)
            return False
        new, self._known = leaving - self._known, self._known | leaving
        return bool(new)
