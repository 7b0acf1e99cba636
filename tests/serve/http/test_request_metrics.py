"""Each request has one outcome in `/metrics`: the client's counts equal the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from ray.exceptions import TaskCancelledError

from benchmarks import load
from serve.access.guard import Keys
from serve.http.request_metrics import RequestMetrics
from serve.scripted import ScriptedServer
from tests.serve.running import within
from tests.serve.scripted_service import Running, events, serving

REQUESTS = 400


@pytest.fixture
def running() -> Iterator[Running]:
    yield from serving({"tiny": ScriptedServer("tiny", token_s=0.02)}, Keys())


async def both(url: str) -> tuple[Any, Any]:
    async with load.client(url) as session:
        mine = load.outcomes(await load.mixed(session, REQUESTS, workers=24))
        return mine, await load.counted(session)


def test_the_clients_counts_are_the_servers(running: Running) -> None:
    mine, theirs = asyncio.run(both(running.url))
    assert mine == theirs
    assert mine.total() == REQUESTS
    assert set(mine) == {"ok", "refused", "limited", "cancelled"}


def test_an_engine_that_fails_is_counted_as_failed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a stream, which began with status 200."""
    monkeypatch.setattr(running.engines["tiny"], "_pieces", broken)
    asked = {"question": "2+3?", "k": 2}
    received = events(httpx.post(f"{running.url}/solve", json=asked | {"stream": True}, timeout=30))
    assert received[-1][0] == "error"
    assert 'outcome="failed",route="/solve"} 1.0' in httpx.get(f"{running.url}/metrics").text
    assert httpx.post(f"{running.url}/solve", json=asked, timeout=30).status_code == 500
    assert 'outcome="failed",route="/solve"} 2.0' in httpx.get(f"{running.url}/metrics").text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("left", "outcome"), [(True, "cancelled"), (False, "failed")])
def test_an_engine_that_learns_of_a_disconnect_before_the_ingress(
    running: Running, monkeypatch: pytest.MonkeyPatch, stream: bool, left: bool, outcome: str
) -> None:
    """Ray may cancel the engine's part of a request before the ingress learns of the disconnect."""

    async def cancelled(*_: Any) -> Any:
        await asyncio.sleep(0.3 if stream else 0)
        raise TaskCancelledError
        yield

    monkeypatch.setattr(running.engines["tiny"], "_pieces", cancelled)
    asked = {"question": "2+3?", "k": 2, "stream": stream}
    with suppress(httpx.ReadTimeout):
        httpx.post(f"{running.url}/solve", json=asked, timeout=0.5 if left else 30)
    counted = f'outcome="{outcome}",route="/solve"}} 1.0'
    assert within(5, lambda: counted in httpx.get(f"{running.url}/metrics").text)


async def broken(*_: Any) -> Any:
    raise RuntimeError
    yield


def test_a_disconnected_client_is_not_counted_as_refused() -> None:
    """Also where the application answers it."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def drop(message: Any) -> None:
        pass

    metrics = RequestMetrics(application)
    asyncio.run(metrics({"type": "http"}, gone, drop))
    counted = {"route": "none", "outcome": "cancelled"}
    assert metrics.registry.get_sample_value("rft_requests_total", counted) == 1
    assert metrics.registry.get_sample_value("rft_requests_open") == 0
