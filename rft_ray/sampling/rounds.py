"""The executions of one sampling stage: one over all shards, and others over those that are stuck in the one before.

In: shards, and a sampler for each actor. Out: receipts. Ray Data decides which actor has a turn, and the supervisor
which shard it samples. So an execution has more turns than shards: actors that wait take some. The first round is the
only one where no place and no node fails. In a later round each place that failed keeps an actor that waits
(`Supervisor.may_start`), and as many engines work beside them as the shards that are left fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import ray

from rft_ray.runtime.actor_pool import MAX_BLOCKS, Pool, StageError, run_actors
from rft_ray.sampling.assignment import Work
from rft_ray.sampling.in_flight import InFlight
from rft_ray.sampling.places import LoadFailure, Sites, sites_of
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.sampler import Sampler
from rft_ray.sampling.standstill import Standstill
from rft_ray.sampling.supervisor import Status
from rft_ray.sampling.supervisor_client import ANSWER_S
from rft_ray.sampling.tracker import ShardTracker
from rft_ray.store.shards import Shard

MAX_FRUITLESS = 3
"""Rounds in a row without a shard made and without another place that fails, before the stage ends."""


class Rounds:
    """Runs one execution after another over the shards that are left."""

    def __init__(
        self,
        supervisor: Any,
        pool: Pool,
        tracker: ShardTracker,
        bounds: Callable[[Sequence[int], int], InFlight],
        *,
        work: Mapping[str, Work],
        lost_s: float,
        stays: bool,
    ) -> None:
        """`pool`: its actors have the least shards in flight. `bounds`: what each of so many engines may have at once,
        by the sizes of the shards that are left. `work`: by stem, of every shard. `lost_s`: how long to wait for a lost
        node's replacement. `stays`: whether no other place is to be tried.
        """
        self._supervisor, self._pool, self._work, self._stays = supervisor, pool, work, stays
        self._bounds = bounds
        self._standstill = Standstill(self._status, lost_s, tracker.report)
        self._number, self._fruitless = 0, 0
        self._begun: Any = None
        """The supervisor's answer that the round has begun, in Ray; None before the first round."""
        self._seen = (-1, -1)
        """Shards left, and failures of places, when the last round began."""

    def run(self, make: Callable[..., Sampler], shards: Sequence[Shard]) -> Iterator[SampleReceipt]:
        """Run `make(round_number=…)` in each actor over the shards; some may be left. Raises StageError."""
        failures = self._status().failures if self._number else ()
        self._check_progress(len(shards), failures)
        self._number += 1
        pool = first_pool(self._pool, len(shards))
        sites = Sites() if self._stays else sites_of(ray.nodes(), pool.gpus, pool.accelerator_type)
        work = [self._work[shard.stem] for shard in shards]
        bounds = self._bounds([entry.sequences for entry in work], pool.max_actors)
        # not waited for: the supervisor's process and the samplers' start at the same time
        self._begun = self._supervisor.begin_round.remote(self._number, work, sites, bounds.least)
        if self._number > 1:
            print(f"  sample: {len(shards)} shards were stuck: sampling them elsewhere", flush=True)
            bad = len({failure.place for failure in failures})
            pool = later_pool(self._pool, len(shards), bad + self._fruitless, sites)
        pool = replace(pool, shards_in_flight=bounds.most)  # by now it has as many actors as the least shards fill
        sampler = partial(make, round_number=self._number, bounds=bounds)
        self._standstill.begin()
        for receipt in run_actors("sample", sampler, turns(shards, pool), pool, SampleReceipt, self._standstill):
            if receipt.refusal != "none":
                yield receipt

    def _status(self) -> Status:
        asked = [*filter(None, [self._begun]), self._supervisor.status.remote()]
        status: Status = ray.get(asked, timeout=ANSWER_S)[-1]
        return status

    def _check_progress(self, left: int, failures: Sequence[LoadFailure]) -> None:
        self._fruitless = self._fruitless + 1 if self._seen == (left, len(failures)) else 0
        self._seen = left, len(failures)
        if self._fruitless == MAX_FRUITLESS:
            last = f"; {failures[-1].place} cannot load a model: {failures[-1].reason}" if failures else ""
            raise StageError(f"sample: no engine has sampled one of {left} shards in {MAX_FRUITLESS} rounds{last}")


def turns(shards: Sequence[Shard], pool: Pool) -> list[Shard]:
    """A turn for each shard, and as many more as all actors but one can hold while they wait."""
    waiting = (pool.max_actors - 1) * (pool.shards_in_flight + 1)
    rows = math.ceil(len(shards) / max(MAX_BLOCKS - waiting, MAX_BLOCKS // 8))
    """At most so many turns are given to an actor as one, by Ray Data's blocks."""
    return [*shards, *islice(cycle(shards), waiting * rows)]


def first_pool(pool: Pool, shards: int) -> Pool:
    """The pool of the first round: no more actors than the shards fill."""
    return replace(
        pool, max_actors=max(pool.min_actors, min(pool.max_actors, math.ceil(shards / pool.shards_in_flight)))
    )


def later_pool(pool: Pool, shards: int, waiting: int, sites: Sites) -> Pool:
    """The pool of a later round: an engine for every few shards at once, beside the actors that wait at bad places."""
    engines = min(pool.max_actors, math.ceil(shards / pool.shards_in_flight))
    least = min(engines + waiting, max(sites.places, pool.min_actors)) if pool.gpus else engines + waiting
    most = min(pool.max_actors, max(engines, sites.places)) + waiting  # others may turn out to be at bad places
    return replace(pool, min_actors=least, max_actors=max(least, most))
