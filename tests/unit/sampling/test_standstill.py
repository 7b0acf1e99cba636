"""When an execution ends although shards are left: nobody works on them, and nobody is going to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rft_ray.runtime.actor_pool import Pool
from rft_ray.runtime.ray_private import PoolState
from rft_ray.sampling.places import LoadFailure, Place, Sites
from rft_ray.sampling.rounds import later_pool
from rft_ray.sampling.standstill import SOON_S, Standstill, patience_s
from rft_ray.sampling.supervisor import Status

LOST_S = 300.0


@pytest.mark.parametrize(
    ("pool", "status", "expected"),
    [
        (PoolState(working=8, restarting=0, pending=0), Status(0, 0), None),
        (PoolState(working=8, restarting=0, pending=0), Status(1, 0), None),
        (PoolState(working=1, restarting=3, pending=0), Status(0, 0), None),
        (PoolState(working=0, restarting=0, pending=4), Status(0, 0), None),  # the stage begins
        (PoolState(working=1, restarting=0, pending=0), Status(1, 0), SOON_S),
        (PoolState(working=1, restarting=0, pending=2), Status(1, 2), SOON_S),
        (PoolState(working=1, restarting=0, pending=2), Status(1, 1), LOST_S),
        (PoolState(working=0, restarting=1, pending=0), Status(0, 0), LOST_S),
        (PoolState(working=1, restarting=1, pending=0), Status(1, 0), LOST_S),
        (PoolState(working=0, restarting=1, pending=0), Status(0, 1), SOON_S),  # it waits as it starts again
    ],
)
def test_an_execution_goes_on_while_somebody_works_or_is_about_to(
    pool: PoolState, status: Status, expected: float | None
) -> None:
    assert patience_s(pool, status, LOST_S) == expected


def watched(seconds: list[float], pools: list[PoolState], status: Status = Status(0, 0)) -> list[bool]:  # noqa: B008
    clock = iter(seconds)
    standstill = Standstill(lambda: status, LOST_S, lambda failure: None, clock=lambda: next(clock))
    return [standstill(pool) for pool in pools]


LOST = PoolState(working=0, restarting=1, pending=0)
BUSY = replace(LOST, working=1)


def test_an_execution_ends_when_a_lost_actor_has_been_alone_for_the_bound() -> None:
    assert watched([0, 299, 300], [LOST] * 3) == [False, False, True]


def test_the_time_in_which_others_work_does_not_count() -> None:
    assert watched([0, 200, 400, 699, 700], [LOST, BUSY, LOST, LOST, LOST]) == [False, False, False, False, True]


def test_each_failed_place_is_reported_once() -> None:
    failures = [LoadFailure("m", Place("n", "10.0.0.1", (gpu,)), "no kernel image") for gpu in "01"]
    known = [1, 1, 2, 2]
    statuses = iter([Status(0, 0, tuple(failures[:count])) for count in known])
    reported: list[LoadFailure] = []
    standstill = Standstill(lambda: next(statuses), LOST_S, reported.append)
    for _ in known:
        standstill(BUSY)
    assert reported == failures


GPUS = Pool(1, 4, gpus=1, shards_in_flight=2)


@pytest.mark.parametrize(
    ("pool", "shards", "waiting", "expected"),
    [
        (GPUS, 3, 1, (3, 5)),
        (GPUS, 40, 1, (5, 5)),
        (GPUS, 40, 6, (8, 10)),  # no more than the cluster has places
        (replace(GPUS, gpus=0), 40, 6, (10, 10)),
        (replace(GPUS, max_actors=1), 40, 1, (2, 2)),
        (replace(GPUS, max_actors=10**9), 3, 1, (3, 9)),  # turns are made for all of them
    ],
)
def test_a_later_round_has_engines_for_its_shards_beside_the_waiting_ones(
    pool: Pool, shards: int, waiting: int, expected: tuple[int, int]
) -> None:
    later = later_pool(pool, shards, waiting, Sites(hosts=1, places=8))
    assert (later.min_actors, later.max_actors) == expected
