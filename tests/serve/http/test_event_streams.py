"""Streams over HTTP: in step with the plain answer, cancelled with their client, ended with an error event."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from ray.exceptions import RayActorError

from serve.access.api_keys import load_keys
from serve.access.rate_limits import Limits
from serve.scripted import ScriptedServer
from serve.solving.events import Pieces
from tests.serve.running import within
from tests.serve.scripted_service import KEY, Running, asked, chat, events, serving, two_models


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from two_models()


def test_a_streams_events_end_with_the_plain_answer(running: Running) -> None:
    with running.client as client:
        streamed = client.post("/solve", json=asked(stream=True, early_stop=False, deltas=True))
        plain = client.post("/solve", json=asked(early_stop=False)).json()
    received = events(streamed)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["cache-control"] == "no-store"
    assert [kind for kind, _ in received if kind != "text"] == ["start", *["path", "vote"] * 8, "result"]
    assert {**received[-1][1], "seconds": 0} == {**plain, "seconds": 0}
    votes = [data for kind, data in received if kind == "vote"]
    assert [vote["came"] for vote in votes] == list(range(1, 9))
    assert votes[-1]["votes"] == plain["votes"]


def test_paths_are_sent_before_the_last_one_is_finished(running: Running) -> None:
    with running.client as client, client.stream("POST", "/solve", json=asked(stream=True, k=32)) as answer:
        texts = answer.iter_text()
        seen = next(texts)
        while "event: path" not in seen:
            seen += next(texts)
        assert running.engines["tiny-rft"].running > 0


def test_stopping_early_saves_samples_and_tokens_and_keeps_the_answer(running: Running) -> None:
    with running.client as client:
        early, whole = (client.post("/solve", json=asked(k=32, early_stop=early)).json() for early in (True, False))
    assert early["answer"] == whole["answer"]
    assert early["saved"]["paths"] == 32 - early["came"] > 0
    assert early["tokens"] < whole["tokens"]
    assert running.engines["tiny-rft"].running == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/solve", "/v1/chat/completions"])
def test_a_disconnected_clients_samples_are_cancelled(running: Running, path: str, stream: bool) -> None:
    engine = running.engines["tiny-sft"]
    engine.token_s = 0.5
    body = asked(k=20, model="tiny-sft", stream=stream) if path == "/solve" else chat(model="tiny-sft", n=20)
    try:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as client:
            content = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            client.sendall(head.encode() + content)
            assert within(5, lambda: engine.running > 0)
        assert within(2, lambda: engine.running == 0)
    finally:
        engine.token_s = 0.01
    with running.client as client:  # and its capacity is free again
        assert client.post("/solve", json=asked(k=64, model="tiny-sft")).status_code == 200


def test_an_engine_that_fails_ends_the_stream_with_an_error(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(question: str, index: int) -> tuple[str, str]:
        if index == 3:
            raise RuntimeError("secret")
        return "#### 1", "stop"

    monkeypatch.setattr(running.engines["tiny-rft"], "script", fail)
    with running.client as client:
        received = events(client.post("/solve", json=asked(stream=True)))
        plain = client.post("/solve", json=asked())
    assert [received[0][0], received[-1][0]] == ["start", "error"]
    assert received[-1][1]["error"]["type"] == plain.json()["error"]["type"] == "server_error"
    assert plain.status_code == 500
    assert "secret" not in plain.text + str(received)


class Dying(ScriptedServer):
    """An engine whose process dies during its first `deaths` requests, after `after` pieces."""

    deaths, after = 0, 0

    async def _pieces(self, question: str, k: int, limit: int) -> Pieces:
        sent = 0
        async with aclosing(super()._pieces(question, k, limit)) as batches:
            async for batch in batches:
                if self.deaths and sent >= self.after:
                    self.deaths -= 1
                    raise RayActorError
                sent += 1
                yield batch


@pytest.fixture(scope="module")
def dying() -> Iterator[Running]:
    yield from serving({"tiny-rft": Dying("tiny-rft", token_s=0.001)}, load_keys(None, {"RFT_API_KEYS": KEY}))


@pytest.mark.parametrize("after", [0, 3])
def test_a_request_of_a_lost_engine_is_repeated_and_a_begun_stream_ends_with_an_error_event(
    dying: Running, after: int
) -> None:
    engine: Any = dying.engines["tiny-rft"]
    engine.after = after
    with dying.client as client:
        whole = client.post("/solve", json=asked(early_stop=False)).json()
        engine.deaths = 2
        again = client.post("/solve", json=asked(early_stop=False))
        assert {**again.json(), "seconds": 0} == {**whole, "seconds": 0}
        assert engine.deaths == 0
        engine.deaths = 1
        received = events(client.post("/solve", json=asked(stream=True), headers={"X-Request-Id": "mine"}))
        assert received[-1][0] == "error"  # its start had been sent
        assert received[-1][1]["request_id"] == "mine"
        engine.deaths = 1
        lines = client.post("/v1/chat/completions", json=chat(stream=True)).text.split("\n\n")[:-1]
        assert engine.deaths == 0
        if after:
            assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
        else:
            assert lines[-1] == "data: [DONE]"
    assert within(2, lambda: engine.running == 0)


def test_a_permanently_lost_engine_is_503_at_once(dying: Running) -> None:
    engine: Any = dying.engines["tiny-rft"]
    engine.after, engine.deaths = 0, 100
    try:
        with dying.client as client:
            answer = client.post("/v1/chat/completions", json=chat(stream=True))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert engine.deaths == 100 - 4
    finally:
        engine.deaths = 0


class Failing(ScriptedServer):
    """An engine whose OpenAI streams end as vLLM's do where its generator fails: with an error event, and `[DONE]`."""

    at_once = False

    async def _streamed(self, *arguments: Any) -> AsyncGenerator[str, None]:
        sent = ""
        async with aclosing(super()._streamed(*arguments)) as streamed:
            async for event in streamed:
                if not self.at_once:
                    yield event
                sent += event * self.at_once
                break
        error = {"message": "secret", "type": "InternalServerError", "param": None, "code": 500}
        failed = f"data: {json.dumps({'error': error})}\n\n"
        for event in [sent + failed + "data: [DONE]\n\n"] if self.at_once else [failed, "data: [DONE]\n\n"]:
            yield event


@pytest.fixture(scope="module")
def failing() -> Iterator[Running]:
    """One model, and a key with the tokens of one request a minute."""
    keys = load_keys(None, {"RFT_API_KEYS": KEY}, Limits(tokens=256))
    yield from serving({"tiny-rft": Failing("tiny-rft", token_s=0.001)}, keys)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_that_ends_with_the_engines_error_event_has_failed_and_is_not_charged(
    failing: Running, path: str, at_once: bool
) -> None:
    engine: Any = failing.engines["tiny-rft"]
    engine.at_once = at_once
    asking = {"prompt": "1 2"} if path == "/v1/completions" else chat()
    with failing.client as client:
        before = failed(client, path)
        for _ in range(3):  # each one reserves the whole minute's tokens
            answer = client.post(path, json=asking | {"stream": True}, headers={"X-Request-Id": "mine"})
            assert answer.status_code == 200, answer.text
            first, error = answer.text.split("\n\n")[:-1]
            assert json.loads(first.removeprefix("data: "))["choices"]
            body = json.loads(error.removeprefix("data: "))
            assert (body["error"]["code"], body["request_id"]) == ("unavailable", "mine")
            assert "secret" not in answer.text
        deadline = time.monotonic() + 10  # a request is counted when its answer has been sent
        while (after := failed(client, path)) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert after == before + 3


def failed(client: httpx.Client, path: str) -> float:
    """How many requests of the route have failed, by the service's own metrics."""
    name = f'rft_requests_total{{outcome="failed",route="{path}"}} '
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
