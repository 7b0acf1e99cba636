"""Requests that wait for an engine while its model turns out to be down: refused within the bound, on each route."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serve.access.api_keys import load_keys
from serve.replicas import liveness
from serve.scripted import ScriptedServer
from tests.serve.running import within
from tests.serve.scripted_service import KEY, SMALLEST, Running, serving

MODEL = "tiny-rft"
BOUNDS = {
    "WAIT_S": 0.2,
    "FIRST_WAIT_S": 1.0,
    "CHECK_EVERY_S": 0.1,
    "CHECK_TIMEOUT_S": 0.1,
    "RECHECK_S": 0.01,
    "DOWN_AFTER_S": 0.5,
}
CLIENT_S = 10
"""Far beyond the bounds: a request that waits for an engine fails the test by the client's timeout."""


class StoppableServer(ScriptedServer):
    """A scripted engine that can stop: new requests and health checks then wait, as in the handle of a lost replica."""

    def __init__(self, model: str) -> None:
        super().__init__(model, token_s=0.05)
        self.stopped, self.waiting = False, 0

    async def check_health(self) -> None:
        await self._wait_while_stopped()

    async def solve(self, asked: Any) -> AsyncGenerator[Any, None]:
        await self._wait_while_stopped()
        async for event in super().solve(asked):
            yield event

    async def chat(self, body: Any, raw: Any = None) -> AsyncGenerator[Any, None]:
        await self._wait_while_stopped()
        async for event in super().chat(body, raw):
            yield event

    async def completions(self, body: Any, raw: Any = None) -> AsyncGenerator[Any, None]:
        await self._wait_while_stopped()
        async for event in super().completions(body, raw):
            yield event

    async def _wait_while_stopped(self) -> None:
        self.waiting += 1
        try:
            while self.stopped:
                await asyncio.sleep(0.01)
        finally:
            self.waiting -= 1


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StoppableServer:
    for name, seconds in BOUNDS.items():
        monkeypatch.setattr(liveness, name, seconds)
    return StoppableServer(MODEL)


@pytest.fixture
def running(engine: StoppableServer) -> Iterator[Running]:
    """A service that has answered, so that its model is known to be up."""
    for service in serving({MODEL: engine}, load_keys(None, {"RFT_API_KEYS": KEY})):
        with service.client as client:
            assert client.post("/solve", json=SMALLEST["/solve"]).status_code == 200
        yield service


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", SMALLEST)
def test_a_request_that_waits_for_an_engine_is_refused_once_its_model_is_down(
    running: Running, engine: StoppableServer, path: str, stream: bool
) -> None:
    engine.stopped = True
    with running.client as client:
        client.timeout = httpx.Timeout(CLIENT_S)
        refused = client.post(path, json=SMALLEST[path] | {"stream": stream})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        assert int(refused.headers["retry-after"]) == liveness.RETRY_AFTER_S
        assert within(CLIENT_S, lambda: engine.waiting <= 1), "the request is not cancelled"  # one is a health check
        engine.stopped = False
        assert within(CLIENT_S, lambda: client.post(path, json=SMALLEST[path]).status_code == 200)


@pytest.mark.parametrize("path", SMALLEST)
def test_a_stream_that_an_engine_has_begun_is_not_cut_when_its_model_is_down(
    running: Running, engine: StoppableServer, path: str
) -> None:
    body = SMALLEST[path] | {"stream": True}
    with running.client as client, client.stream("POST", path, json=body) as answer:
        parts = answer.iter_text()
        texts = [next(parts)]
        engine.stopped = True
        engine.token_s = 0.2  # the rest of the answer takes longer than it takes to notice that the model is down
        assert within(CLIENT_S, lambda: client.post(path, json=SMALLEST[path]).status_code == 503)
        texts.extend(parts)
    whole = "".join(texts)
    assert "error" not in whole
    assert whole.rstrip().endswith("data: [DONE]") or "event: result" in whole


def test_a_request_that_waits_is_answered_by_an_engine_that_comes_back_in_time(
    running: Running, engine: StoppableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "DOWN_AFTER_S", float(CLIENT_S))
    engine.stopped = True
    with running.client as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/solve", json=SMALLEST["/solve"])
        assert within(CLIENT_S, lambda: engine.waiting >= 1)
        time.sleep(2 * BOUNDS["DOWN_AFTER_S"])
        engine.stopped = False
        assert waiting.result(CLIENT_S).status_code == 200
