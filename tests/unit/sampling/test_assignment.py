"""How many models engines load, and how long they are idle: a stage simulated in time, without Ray."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from rft_ray.runtime.actor_pool import MAX_BLOCKS, Pool
from rft_ray.sampling.assignment import Assignment, Pace, Work
from rft_ray.sampling.rounds import first_pool, turns
from rft_ray.store.shards import Shard

IN_FLIGHT = 4
LOAD_S = 90.0
SHARD_S = 80.0
"""From entering an engine to its answer, with IN_FLIGHT others in it."""
SAMPLES = 1000


def work(models: dict[str, int]) -> list[Work]:
    """So many shards of each model, in order."""
    return [
        Work(Shard("completions", "5" * 16, model, block, block, block + 1, 0), model, "llama", SAMPLES)
        for model, shards in models.items()
        for block in range(shards)
    ]


@dataclass
class Engine:
    """A sampler's engine in simulated time; a thread at a time asks for a shard, IN_FLIGHT of them work at once."""

    name: str
    model: str = ""
    free_at: float = 0
    """When its last load ends."""
    inside: list[float] = field(default_factory=list)
    """When each shard in it is answered."""
    loads: int = 0
    ended: float = 0


class Stage:
    """Simulates a stage whose actors start at the given times."""

    def __init__(self, starts: Sequence[float], shards: list[Work]) -> None:
        self.now = 0.0
        self.pace = Pace(lambda: self.now)
        self.assignment = Assignment(shards, self.pace, lambda: self.now)
        self.engines = [Engine(str(number)) for number in range(len(starts))]
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for engine, start in zip(self.engines, starts, strict=True):
            for _ in range(IN_FLIGHT):
                self._at(start, self._asks(engine))

    def run(self) -> Stage:
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self

    @property
    def loads(self) -> int:
        return sum(engine.loads for engine in self.engines)

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _asks(self, engine: Engine) -> Callable[[], None]:
        def ask() -> None:
            taken = self.assignment.take(engine.name, lambda model: True)
            if isinstance(taken, Work):
                self._sample(engine, taken)
            elif taken == "wait":
                self._at(self.now + 1, ask)

        return ask

    def _sample(self, engine: Engine, taken: Work) -> None:
        enters = max(self.now, engine.free_at)
        if engine.model != taken.model:
            begins = max([enters, *engine.inside])  # the last model's shards leave first
            engine.model, engine.free_at, engine.loads = taken.model, begins + LOAD_S, engine.loads + 1
            self._at(begins, lambda: self.pace.load_began(engine.name))
            self._at(engine.free_at, lambda: self.pace.load_ended(engine.name, loaded=True))
            enters = engine.free_at
        answered = enters + SHARD_S
        engine.inside = [when for when in engine.inside if when > self.now] + [answered]
        self._at(enters, lambda: self.pace.started(engine.name, taken.shard.stem))
        self._at(answered, lambda: self._answered(engine, taken))

    def _answered(self, engine: Engine, taken: Work) -> None:
        self.pace.answered(engine.name, taken)
        self.assignment.finished(engine.name, taken.shard.stem)
        engine.ended = self.now
        self._asks(engine)()


def in_order(actors: int, shards: list[Work]) -> int:
    """Loads where the next shard, in order, goes to the next actor, and no actor has a second thread."""
    queue, models, loads = deque(shards), [""] * actors, 0
    while queue:
        for actor in range(min(actors, len(queue))):
            model = queue.popleft().model
            loads, models[actor] = loads + (models[actor] != model), model
    return loads


@pytest.mark.parametrize(
    ("actors", "models", "most", "before"),
    [(8, 4, 8, 32), (64, 12, 88, 768), (8, 3, 14, 24), (8, 8, 8, 64), (3, 8, 12, 24), (1, 5, 5, 5)],
)
def test_engines_load_few_models_and_end_together(actors: int, models: int, most: int, before: int) -> None:
    """`before`: loads where each shard, in order, goes to the next actor. The least time is that without any idling."""
    shards = work({f"m{i}": 200 for i in range(models)})
    stage = Stage([0.0] * actors, shards).run()
    assert in_order(actors, shards) == before
    assert max(actors, models) <= stage.loads <= most
    assert actors < models or max(engine.loads for engine in stage.engines) <= 2
    least = len(shards) * SHARD_S / IN_FLIGHT / actors + LOAD_S * max(1, models / actors)
    ends = [engine.ended for engine in stage.engines]
    assert max(ends) <= 1.1 * least
    assert max(ends) - min(ends) <= 2 * LOAD_S


def test_models_of_unequal_size_get_engines_by_what_is_left_of_them() -> None:
    stage = Stage([0.0] * 8, work({"large": 600, "small": 50, "tiny": 5})).run()
    assert stage.loads <= 11
    ends = [engine.ended for engine in stage.engines]
    assert max(ends) <= 1.1 * (655 * SHARD_S / IN_FLIGHT / 8 + LOAD_S)


def test_actors_that_start_late_load_one_model() -> None:
    """As where a pool grows, or nodes come."""
    stage = Stage([60.0 * number for number in range(8)], work({f"m{i}": 200 for i in range(4)})).run()
    assert stage.loads <= 11


def test_an_actor_that_comes_at_the_end_loads_nothing() -> None:
    """About 20 seconds are left for the other engines."""
    stage = Stage([0.0, 0.0, 1075.0], work({"a": 50, "b": 50})).run()
    assert [engine.loads for engine in stage.engines] == [1, 1, 0]


def first_shards(assignment: Assignment, sampler: str, shards: int) -> list[str]:
    taken = [assignment.take(sampler, lambda model: True) for _ in range(shards)]
    return [entry.model if isinstance(entry, Work) else entry for entry in taken]


def paced(*, load_s: float, shard_s: float) -> Pace:
    """A pace that has seen one load, and one shard of a model `seen`."""
    [entry] = work({"seen": 1})
    now = iter([0.0, load_s, 0.0, shard_s])
    pace = Pace(lambda: next(now, 0.0))
    pace.load_began("x")
    pace.load_ended("x", loaded=True)
    pace.started("x", entry.shard.stem)
    pace.answered("x", entry)
    return pace


def test_an_engine_goes_to_a_model_of_its_architecture_first() -> None:
    a, b, c = (
        replace(entry, architecture=name) for entry, name in zip(work({"a": 1, "b": 1, "c": 1}), "xyx", strict=True)
    )
    assignment = Assignment([a, b, c], Pace())
    assert first_shards(assignment, "s", 4) == ["a", "c", "b", "none"]


def test_an_engine_waits_for_the_last_shards_of_others_no_longer_than_a_load_would_take() -> None:
    now = [0.0]
    assignment = Assignment(work({"a": 1, "b": 3}), paced(load_s=90, shard_s=10), lambda: now[0])
    assert first_shards(assignment, "s", 1) == ["a"]
    assert first_shards(assignment, "lost", 1) == ["b"]
    assert first_shards(assignment, "s", 1) == ["wait"]
    now[0] = 179
    assert first_shards(assignment, "s", 1) == ["wait"]
    now[0] = 181
    assert first_shards(assignment, "s", 3) == ["b", "b", "none"]


def test_an_engine_helps_at_once_where_a_load_pays() -> None:
    assignment = Assignment(work({"a": 1, "b": 30}), paced(load_s=90, shard_s=10))
    first_shards(assignment, "s", 1), first_shards(assignment, "t", 1)
    assert first_shards(assignment, "s", 2) == ["b", "b"]


def test_a_model_whose_engine_has_ended_is_taken_at_once() -> None:
    assignment = Assignment(work({"a": 1, "b": 2}), paced(load_s=90, shard_s=10))
    first_shards(assignment, "s", 1), first_shards(assignment, "t", 1)
    assert first_shards(assignment, "s", 1) == ["wait"]
    assignment.ended("t")
    assert first_shards(assignment, "s", 3) == ["b", "b", "none"]


def test_the_turns_of_an_execution_are_enough_for_actors_that_wait() -> None:
    """Each of the others holds the shards that it works on and one more; in blocks of several, as many times more."""
    shards = [entry.shard for entry in work({"a": 10})]
    assert turns(shards, Pool(1, 1, shards_in_flight=4)) == shards
    assert len(turns(shards, Pool(1, 4, shards_in_flight=4))) == 10 + 3 * 5
    for number, actors, at_once in ((3 * MAX_BLOCKS, 4, 4), (MAX_BLOCKS // 2, 64, 32), (9 * MAX_BLOCKS, 64, 32)):
        many = [entry.shard for entry in work({"a": number})]
        more = len(turns(many, Pool(1, actors, shards_in_flight=at_once))) - number
        assert more >= (actors - 1) * (at_once + 1) * -(-(number + more) // MAX_BLOCKS)


@pytest.mark.parametrize(("shards", "actors"), [(1, 1), (16, 4), (17, 5), (400, 8)])
def test_a_pool_has_no_more_actors_than_shards_fill(shards: int, actors: int) -> None:
    assert first_pool(Pool(1, 8, shards_in_flight=4), shards).max_actors == actors
    assert first_pool(Pool(3, 8, shards_in_flight=4), shards).max_actors == max(3, actors)
