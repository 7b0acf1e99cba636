"""Which models are up, with replicas that are lost, do not answer, or answer again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from ray.exceptions import RayActorError

from serve.api.errors import Refusal
from serve.replicas import liveness
from serve.replicas.liveness import Liveness, ReadinessCheck


class Handle:
    """A model's handle; `answer` is called for each check."""

    def __init__(self, answer: Callable[[], Awaitable[None]]) -> None:
        self.check_health, self.answer = self, answer

    async def remote(self) -> None:
        await self.answer()


async def sound() -> None:
    pass


async def lost() -> None:
    raise RayActorError


async def silent() -> None:
    await asyncio.sleep(60)


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "CHECK_EVERY_S": 0.02,
        "DOWN_AFTER_S": 0.3,
        "RECHECK_S": 0.01,
        "WAIT_S": 0.2,
        "FIRST_WAIT_S": 0.2,
        "OTHER_REPLICA_S": 0.2,
    }.items():
        monkeypatch.setattr(liveness, name, seconds)


def turns(*answers: Callable[[], Awaitable[None]]) -> Handle:
    """A handle with one answer for each check; the last one repeats."""
    left = list(answers)

    async def answer() -> None:
        await (left.pop(0) if len(left) > 1 else left[0])()

    return Handle(answer)


@pytest.mark.parametrize("handle", [turns(sound), turns(lost, sound), turns(lost, lost, sound)])
def test_a_model_stays_up_when_one_of_its_replicas_is_lost(handle: Handle) -> None:
    async def ask() -> None:
        models = Liveness({"m": handle})
        await models.await_other_replica("m")
        await models.await_up("m")

    asyncio.run(ask())


@pytest.mark.parametrize("answer", [lost, silent])
def test_a_model_whose_replicas_all_fail_is_refused_soon_and_accepted_again_later(
    answer: Callable[[], Awaitable[None]],
) -> None:
    async def ask() -> None:
        handle = turns(answer)
        models = Liveness({"m": handle})
        began = time.monotonic()
        with pytest.raises(Refusal, match="no engine of m"):
            await models.await_other_replica("m")
        with pytest.raises(Refusal, match="no engine of m") as refused:
            await models.await_up("m")
        assert refused.value.status == 503
        assert time.monotonic() - began < 5
        handle.answer = sound
        async with asyncio.timeout(5):
            while True:
                try:
                    return await models.await_up("m")
                except Refusal:
                    pass

    asyncio.run(ask())


@pytest.mark.parametrize("answer", [lost, silent])
def test_a_model_whose_engine_is_starting_is_refused_until_it_answers(answer: Callable[[], Awaitable[None]]) -> None:
    async def ask() -> None:
        handle = turns(answer)
        models = Liveness({"m": handle})
        began = time.monotonic()
        with pytest.raises(Refusal, match="no engine of m") as refused:
            await models.await_up("m")
        assert refused.value.details["headers"] == {"Retry-After": str(liveness.RETRY_AFTER_S)}
        assert time.monotonic() - began < 5
        handle.answer = sound
        await asyncio.sleep(1)
        await models.await_up("m")

    asyncio.run(ask())


def test_a_model_that_stops_answering_is_noticed_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        handle = turns(sound)
        models = Liveness({"m": handle})
        await models.await_up("m")
        handle.answer = silent
        await asyncio.sleep(1)
        with pytest.raises(Refusal):
            await models.await_up("m")

    asyncio.run(ask())


def test_readiness_checks_the_engines_at_most_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "READY_EVERY_S", 0.3)
    checks = 0

    async def counted() -> None:
        nonlocal checks
        checks += 1
        await asyncio.sleep(0.05)

    async def ask() -> None:
        readiness = ReadinessCheck({"m": Handle(counted)})
        assert await asyncio.gather(*(readiness.ready() for _ in range(50))) == [True] * 50
        assert await readiness.ready()
        assert checks == 1
        await asyncio.sleep(0.35)
        assert await readiness.ready()
        assert checks == 2

    asyncio.run(ask())


@pytest.mark.parametrize("answer", [lost, silent])
def test_readiness_is_false_where_an_engine_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Awaitable[None]]
) -> None:
    monkeypatch.setattr(liveness, "READY_TIMEOUT_S", 0.1)
    assert not asyncio.run(ReadinessCheck({"m": Handle(sound), "n": Handle(answer)}).ready())
