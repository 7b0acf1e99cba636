"""How many shards an engine works on at once: as many as keep its batch full, and no more than its share.

In: the sequences of each shard, how many of them an engine generates at once, and the number of engines. Out: the
threads of a sampler, and a gate through which they take shards. Shards differ in size: those of a greedy evaluation
have one sequence a problem, so that a few of them fill no batch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rft_ray import config
from rft_ray.plan.jobs import SamplingJob
from rft_ray.store.shards import Shard

LEAST, MOST = 4, 32
"""Shards in one engine at once: whatever their size, and at most."""
BATCHES = 2
"""An engine has the sequences of so many batches, so that those that end are replaced at once."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """What one engine may have at once. Example: InFlight(least=4, most=21, sequences=1024)"""

    least: int
    """Shards, whatever their size."""
    most: int
    """Shards, which are small."""
    sequences: int
    """Beyond `least`, another shard is taken while all in the engine have fewer sequences than this."""


UNBOUNDED = InFlight(least=2**31, most=2**31, sequences=0)
"""Whatever the caller asks for."""


def least_in_flight(engine: config.Engine) -> int:
    """Shards that one engine may have at once, whatever their size."""
    return LEAST if engine.shards_in_flight == "auto" else engine.shards_in_flight


def in_flight(engine: config.Engine, at_once: int, sizes: Sequence[int], engines: int) -> InFlight:
    """`at_once`: sequences that an engine generates at once. `sizes`: sequences of each shard that is left.

    No engine gets so many that others would have none.
    """
    least, sequences = least_in_flight(engine), BATCHES * at_once
    if engine.shards_in_flight != "auto":
        return InFlight(least, least, sequences)
    filling = math.ceil(sequences / min(sizes))
    return InFlight(least, max(least, min(MOST, filling, len(sizes) // engines)), sequences)


def sequences_at_once(
    engine: config.Engine, jobs: Sequence[SamplingJob], endpoints: Mapping[str, config.Endpoint]
) -> int:
    """Sequences that an engine of these jobs generates at once; of endpoints, requests."""
    if jobs[0].settings.engine == "openai":
        return max(endpoints[job.model.name].max_concurrency for job in jobs)
    return engine.max_num_seqs


def sequences_of(shard: Shard, job: SamplingJob) -> int:
    """Sequences of a shard; of an endpoint's, requests, each for all samples of a problem."""
    problems = shard.problem_stop - shard.problem_start
    return problems if job.settings.engine == "openai" else problems * job.settings.samples_per_block


class Gate:
    """Lets one thread at a time take a shard, while the engine may have another one."""

    def __init__(self, bounds: InFlight) -> None:
        self._bounds = bounds
        self._changed = threading.Condition()
        self._shards = self._sequences = 0
        self._taking = False

    @contextmanager
    def taking(self) -> Iterator[None]:
        """In the block no other thread takes a shard. Begins once there is room for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room() and not self._taking)
            self._taking = True
        try:
            yield
        finally:
            with self._changed:
                self._taking = False
                self._changed.notify_all()

    def enter(self, sequences: int) -> None:
        """Note, in a `taking` block, that the engine gets a shard of so many sequences."""
        with self._changed:
            self._shards += 1
            self._sequences += sequences

    def leave(self, sequences: int) -> None:
        """Note that the engine has this shard no more."""
        with self._changed:
            self._shards -= 1
            self._sequences -= sequences
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._shards < self._bounds.least or self._sequences < self._bounds.sequences
