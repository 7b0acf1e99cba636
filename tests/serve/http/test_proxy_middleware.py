"""The middleware in Serve's proxy: how it repeats requests and completes unfinished answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from serve.http import proxy_middleware
from serve.http.proxy_middleware import ProxyMiddleware

STREAM = [(b"content-type", b"text/event-stream")]


class Proxy:
    """Sends the messages of one script for each attempt, and records the requests."""

    def __init__(self, *scripts: list[Message]) -> None:
        self.scripts, self.bodies, self.ids = list(scripts), list[bytes](), list[str]()
        self.headers: list[bytes] = []
        """The names of the last request's headers."""
        self.health: dict[str, int] = {"/healthz": 200, "/-/healthz": 200}
        """The status of each health check; 0: no answer."""
        self.checks = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self.health:
            self.checks += 1
            await self._health(scope["path"], send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        self.ids.append(dict(scope["headers"])[b"x-request-id"].decode())
        self.headers = [name for name, _ in scope["headers"]]
        for message in self.scripts.pop(0):
            await send(message)

    async def _health(self, path: str, send: Send) -> None:
        while not (status := self.health[path]):
            await asyncio.sleep(0.01)
        await send(start(status))
        await send(body(b""))


def start(status: int = 200, headers: Any = ()) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    monkeypatch.setattr(proxy_middleware, "BACKOFF_S", 0.0)

    def asking(proxy: Proxy, content: bytes = b"question") -> httpx.Response:
        return TestClient(ProxyMiddleware(proxy), raise_server_exceptions=False).post("/solve", content=content)

    return asking


@pytest.mark.parametrize("health", [{"/healthz": 0}, {"/healthz": 503}, {"/healthz": 404, "/-/healthz": 503}])
def test_until_an_ingress_replica_has_answered_requests_are_503_with_retry_after(
    monkeypatch: pytest.MonkeyPatch, health: dict[str, int]
) -> None:
    monkeypatch.setattr(proxy_middleware, "START_WAIT_S", 0.2)
    proxy = Proxy([start(), body(b"answer")], [start(), body(b"answer")])
    up = dict(proxy.health)
    proxy.health |= health

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(ProxyMiddleware(proxy))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = [await client.post("/solve", content=b"question"), await client.get("/readyz")]
            proxy.health |= up
            assert (await client.post("/solve")).text == "answer"
            checks = proxy.checks
            assert (await client.post("/solve")).text == "answer"
            assert proxy.checks == checks  # none once an answer came
        return answers

    early = asyncio.run(ask())
    for answer in early:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_another_applications_proxy_is_not_held_up() -> None:
    proxy = Proxy([start(), body(b"answer")])
    proxy.health["/healthz"] = 404
    assert TestClient(ProxyMiddleware(proxy)).post("/solve").text == "answer"


def test_a_request_that_got_no_answer_is_sent_again_with_its_body_and_id(ask: Any) -> None:
    proxy = Proxy([], [], [start(), body(b"answer")])
    assert ask(proxy).text == "answer"
    assert proxy.bodies == [b"question"] * 3
    assert len(set(proxy.ids)) == 1


def test_the_number_of_attempts_is_bounded(ask: Any) -> None:
    answer = ask(Proxy(*[[]] * 20))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_an_unfinished_stream_ends_with_an_error_event(ask: Any) -> None:
    answer = ask(Proxy([start(headers=STREAM), body(b"event: start\ndata: {}\n\n", more=True)]))
    event, data = answer.text.split("\n\n")[1].split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "unavailable"


def test_a_complete_stream_is_unchanged(ask: Any) -> None:
    messages = [body(b"data: 1\n\n", more=True), body(b"data: [DONE]\n\n", more=True), body(b"")]
    assert ask(Proxy([start(headers=STREAM), *messages])).text == "data: 1\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("status", [429, 503, 500])
def test_the_proxys_own_errors_get_openais_shape(ask: Any, status: int) -> None:
    answer = ask(Proxy([start(status, [(b"content-type", b"text/plain"), (b"retry-after", b"7")]), body(b"plain")]))
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_of_many_small_messages_is_kept_as_one() -> None:
    parts = [{"type": "http.request", "body": b"x", "more_body": True}] * 1000

    async def receive() -> Message:
        return parts.pop() if parts else {"type": "http.request", "body": b"y", "more_body": False}

    async def attempts() -> list[Message]:
        body = proxy_middleware._ReplayableBody(receive)
        first, messages = body.replay(), list[Message]()
        for _ in range(500):
            await first()
        second = body.replay()
        while not messages or messages[-1]["more_body"]:
            messages.append(await second())
        return [messages[0], await body.replay()()]

    half, whole = asyncio.run(attempts())
    assert half == {"type": "http.request", "body": b"x" * 500, "more_body": True}
    assert whole == {"type": "http.request", "body": b"x" * 1000 + b"y", "more_body": False}


def test_a_body_too_large_to_keep_is_not_sent_again(ask: Any) -> None:
    proxy = Proxy([], [start(), body(b"answer")])
    assert ask(proxy, b"x" * (proxy_middleware.MAX_BODY_BYTES + 1)).status_code == 503
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize("value", [b"a", b"\xff", b"?1", b"0.001"])
@pytest.mark.parametrize(
    "name",
    [
        b"serve_multiplexed_model_id",
        b"Serve-Multiplexed-Model-Id",
        b"X-Session-Id",
        b"x_session_id",
        b"X-Request-Timeout-Seconds",
        b"x-request-disconnect-disabled",
    ],
)
def test_a_header_by_which_a_client_would_steer_serve_is_removed(name: bytes, value: bytes) -> None:
    for path in ("/solve", "/-/other"):
        proxy = Proxy([start(), body(b"answer")])
        headers: Any = [(name, value), (b"Authorization", b"Bearer key"), (b"X-Forwarded-For", b"10.1.2.3")]
        assert TestClient(ProxyMiddleware(proxy)).post(path, headers=headers).text == "answer"
        assert name.lower() not in proxy.headers
        assert {b"authorization", b"x-forwarded-for", b"x-request-id", b"host"} <= set(proxy.headers)
