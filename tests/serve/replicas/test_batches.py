"""The batches of a stream's messages: the first at once, later ones at intervals, none lost, failures last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serve.replicas.model_server import in_batches

BATCH_S = 0.2


class Engine:
    """Yields numbers, `pause_s` apart, and then fails where `fails` is set."""

    def __init__(self, count: int, pause_s: float = 0.0, *, fails: bool = False) -> None:
        self._count, self._pause_s, self._fails, self.closed = count, pause_s, fails, False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                await asyncio.sleep(self._pause_s)
                yield number
            if self._fails:
                raise RuntimeError("the engine died")
        finally:
            self.closed = True


async def all_batches(engine: Engine) -> list[list[int]]:
    return [batch async for batch in in_batches(engine.items(), 2, BATCH_S)]


def test_the_first_two_items_are_sent_alone_and_the_rest_in_few_batches() -> None:
    found = asyncio.run(all_batches(Engine(40, 0.02)))
    assert [number for batch in found for number in batch] == list(range(40))
    assert found[:2] == [[0], [1]]
    assert len(found) < 15


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
def test_no_item_is_lost(count: int) -> None:
    found = asyncio.run(all_batches(Engine(count)))
    assert [number for batch in found for number in batch] == list(range(count))
    assert all(found)


def test_the_end_does_not_wait_for_the_interval() -> None:
    async def timed() -> float:
        began = asyncio.get_running_loop().time()
        async for _ in in_batches(Engine(3).items(), 2, 60):
            pass
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(timed()) < 5


def test_a_failure_is_raised_after_all_earlier_items() -> None:
    async def received() -> list[int]:
        found = list[int]()

        async def read() -> None:
            async for batch in in_batches(Engine(5, 0.01, fails=True).items(), 2, BATCH_S):
                found.extend(batch)

        with pytest.raises(RuntimeError, match="died"):
            await read()
        return found

    assert asyncio.run(received()) == list(range(5))


def test_closing_it_closes_the_engines_stream() -> None:
    async def left() -> bool:
        engine = Engine(1000, 0.01)
        batches = in_batches(engine.items(), 2, BATCH_S)
        await anext(batches)
        await batches.aclose()
        return engine.closed

    assert asyncio.run(left())
