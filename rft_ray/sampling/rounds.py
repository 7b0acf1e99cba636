"""The executions of one sampling stage: one over all shards, and others over those that are stuck in the one before.

In: shards, and a sampler for each actor. Out: receipts. The first round is the only one where no place and no node
fails. In a later round each place that failed keeps an actor that waits (`Supervisor.may_start`), and as many engines
work beside them as the shards that are left fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from rft_ray.runtime.actor_pool import Pool, StageError, run_actors
from rft_ray.sampling.places import LoadFailure, Sites, sites_of
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.sampler import Sampler
from rft_ray.sampling.standstill import Standstill
from rft_ray.sampling.supervisor import Status
from rft_ray.sampling.tracker import ShardTracker
from rft_ray.store.shards import Shard

MAX_FRUITLESS = 3
"""Rounds in a row without a shard made and without another place that fails, before the stage ends."""
TIMEOUT_S = 120.0
"""How long the supervisor may take to answer."""


class Rounds:
    """Runs one execution after another over the shards that are left."""

    def __init__(self, supervisor: Any, pool: Pool, lost_s: float, tracker: ShardTracker, *, stays: bool) -> None:
        """`lost_s`: how long to wait for a lost node's replacement. `stays`: whether no other place is to be tried."""
        self._supervisor, self._pool, self._tracker, self._stays = supervisor, pool, tracker, stays
        self._standstill = Standstill(self._status, lost_s, tracker.report)
        self._number, self._fruitless = 0, 0
        self._seen = (-1, -1)
        """Shards left, and failures of places, when the last round began."""

    def run(self, make: Callable[..., Sampler], shards: Sequence[Shard]) -> Iterator[SampleReceipt]:
        """Run `make(round_number=…)` in each actor over the shards; some may be left. Raises StageError."""
        failures = self._status().failures
        self._check_progress(len(shards), failures)
        self._number += 1
        sites = Sites() if self._stays else sites_of(ray.nodes(), self._pool.gpus)
        models = self._tracker.models_of(shards)
        ray.get(self._supervisor.begin_round.remote(self._number, models, sites), timeout=TIMEOUT_S)
        pool = self._pool
        if self._number > 1:
            print(f"  sample: {len(shards)} shards were stuck: sampling them elsewhere", flush=True)
            bad = len({failure.place for failure in failures})
            pool = later_pool(pool, len(shards), bad + self._fruitless, sites)
        sampler = partial(make, round_number=self._number)
        self._standstill.begin()
        yield from run_actors("sample", sampler, shards, pool, SampleReceipt, self._standstill)

    def _status(self) -> Status:
        status: Status = ray.get(self._supervisor.status.remote(), timeout=TIMEOUT_S)
        return status

    def _check_progress(self, left: int, failures: Sequence[LoadFailure]) -> None:
        self._fruitless = self._fruitless + 1 if self._seen == (left, len(failures)) else 0
        self._seen = left, len(failures)
        if self._fruitless == MAX_FRUITLESS:
            last = f"; {failures[-1].place} cannot load a model: {failures[-1].reason}" if failures else ""
            raise StageError(f"sample: no engine has sampled one of {left} shards in {MAX_FRUITLESS} rounds{last}")


def later_pool(pool: Pool, shards: int, waiting: int, sites: Sites) -> Pool:
    """The pool of a later round: an engine for every few shards at once, beside the actors that wait at bad places."""
    engines = min(pool.max_actors, math.ceil(shards / pool.shards_in_flight))
    least = min(engines + waiting, max(sites.places, pool.min_actors)) if pool.gpus else engines + waiting
    return replace(pool, min_actors=least, max_actors=pool.max_actors + waiting)
