"""Requests generated from the service's OpenAPI document, valid and invalid: each is answered, none with a 500.

The short run takes seconds; `make fuzz-serve` sends thousands (RFT_FUZZ_CASES).
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

from serve.access.guard import Guard, Keys
from serve.api.openai_bounds import CHAT_FIELDS, COMPLETION_FIELDS
from serve.scripted import ScriptedServer
from tests.serve.running import within
from tests.serve.scripted_service import Running, serving

CASES = int(os.environ.get("RFT_FUZZ_CASES", "60"))
SEED = int(os.environ.get("RFT_FUZZ_SEED", "0"))
ANSWERS = {200, 400, 404, 405, 413, 415, 422, 429}
SMALL = {"question": "2+3?", "k": 1}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from serving({"tiny": ScriptedServer("tiny")}, Keys())


def open_requests(running: Running) -> int:
    text = httpx.get(f"{running.url}/metrics").text
    return round(float(next(iter(re.findall(r"^rft_requests_open (\S+)$", text, re.MULTILINE)))))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/solve", "/v1/chat/completions", "/v1/completions"])
def test_valid_and_invalid_requests_by_the_document_get_an_answer(
    running: Running, path: str, mode: GenerationMode
) -> None:
    document = schemathesis.openapi.from_dict(running.app.openapi())
    session, sent = requests.Session(), 0

    @seed(SEED)
    @settings(
        max_examples=max(5, CASES // 6),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(document[path]["POST"].as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        nonlocal sent
        sent += 1
        answer = case.call(base_url=running.url, session=session, timeout=10)
        assert answer.status_code in ANSWERS, (answer.status_code, repr(case.body)[:2_000])
        if answer.status_code != 200:
            assert set(json.loads(answer.content)["error"]) == {"message", "type", "param", "code"}
            assert len(answer.content) < 4_000

    httpx.post(f"{running.url}{path}", json=SMALL)
    before = open_files()
    send()
    session.close()
    assert sent >= CASES // 6
    assert within(5, lambda: open_requests(running) == 1)  # the request for the metrics
    assert running.engines["tiny"].running == 0
    assert open_files() <= before + 10


def test_the_document_lists_no_field_that_is_refused_by_name(running: Running) -> None:
    schemas = running.app.openapi()["components"]["schemas"]
    assert {"messages", "n"} <= set(schemas["ChatRequest"]["properties"]) <= CHAT_FIELDS
    assert {"prompt", "n"} <= set(schemas["TextRequest"]["properties"]) <= COMPLETION_FIELDS


def raw(running: Running, request: bytes, timeout_s: float = 10) -> bytes:
    """The server's answer to these bytes, up to the end of its head."""
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout_s) as peer:
        peer.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received and (more := peer.recv(65_536)):
            received += more
    return received


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999999",
        "Content-Length: ²".encode(),
        "Content-Length: ²".encode("latin-1"),
        b"Content-Length: 0x10",
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2",
        b"Transfer-Encoding: nonsense",
        b"Content-Type: \xff\xfe\r\nContent-Length: 2",
        b"Content-Type: application/json; charset=nonsense\r\nContent-Length: 2",
        b"Content-Type: multipart/form-data\r\nContent-Length: 2",
        b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2",
        b"Expect: 100-continue\r\nContent-Length: 9999999",
        b"Authorization: Bearer \xff\r\nContent-Length: 2",
        b"X-Long: " + b"a" * 60_000 + b"\r\nContent-Length: 2",
    ],
    ids=lambda head: head[:40].decode("latin-1"),
)
def test_odd_headers_end_in_a_refusal(running: Running, head: bytes) -> None:
    received = raw(running, b"POST /solve HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n{}")
    assert re.match(rb"HTTP/1\.1 4\d\d ", received), received[:200]


@pytest.mark.parametrize(
    "path", ["/%00", "/v1/models/%00", "/v1/models/%ff", "/v1/models/" + "a" * 20_000, "//", "/%2e%2e/x"]
)
def test_odd_paths_are_not_found(running: Running, path: str) -> None:
    received = raw(running, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert re.match(rb"HTTP/1\.1 4\d\d ", received), received[:200]


def test_slow_bodies_are_refused_and_delay_no_other_request() -> None:
    """Fifty clients whose body never arrives: each gets 408 in time, and others are answered meanwhile."""
    with_slow = serving({"tiny": ScriptedServer("tiny")}, Keys())
    running = next(with_slow)
    for middleware in running.app.user_middleware:
        if middleware.cls is Guard:
            middleware.kwargs["body_timeout_s"] = 1.0
    head = b"POST /solve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    port = int(running.url.rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(50)]
    try:
        for peer in slow:
            peer.sendall(head)
        began = time.monotonic()
        assert httpx.post(f"{running.url}/solve", json=SMALL, timeout=20).status_code == 200
        assert time.monotonic() - began < 5
        for peer in slow:
            peer.sendall(b" ")  # still connected and not complete
            assert peer.recv(4_096).startswith(b"HTTP/1.1 408")
        assert within(5, lambda: open_requests(running) == 1)
    finally:
        for peer in slow:
            peer.close()
        with_slow.close()
