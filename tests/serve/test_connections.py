"""The timers of a connection, at a real uvicorn server on loopback: who holds one without using it loses it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn import config

from serve import connections

HEAD_S = 0.5
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
BIG = 32 * 2**20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/big`: 32 MiB; `/slow`: a word after three times the head's bound; anything else: a word."""
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * HEAD_S)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(BIG) if scope["path"] == "/big" else b"here"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    monkeypatch.setattr(config, "HTTP_PROTOCOLS", dict(config.HTTP_PROTOCOLS))
    monkeypatch.setattr(config, "WS_PROTOCOLS", dict(config.WS_PROTOCOLS))
    monkeypatch.setattr(connections, "HEAD_S", HEAD_S)
    monkeypatch.setattr(connections, "SEND_S", 1.0)
    connections.install()
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running
    running.should_exit = running.force_exit = True
    thread.join(10)


def connect(server: uvicorn.Server) -> socket.socket:
    address: Any = server.servers[0].sockets[0].getsockname()
    return socket.create_connection(address, timeout=10)


def read(peer: socket.socket, until: bytes = b"here") -> bytes:
    said = b""
    while until not in said and (more := peer.recv(65_536)):
        said += more
    return said


@pytest.mark.parametrize("sent", [b"", b"G", ASK, ASK + b"X-Odd: a"], ids=["nothing", "a letter", "a line", "half"])
def test_a_head_that_never_ends_is_not_waited_for(server: uvicorn.Server, sent: bytes) -> None:
    with connect(server) as peer:
        peer.sendall(sent)
        assert peer.recv(10) == b""


def test_letter_by_letter_does_not_buy_time(server: uvicorn.Server) -> None:
    began = time.monotonic()
    with connect(server) as peer, suppress(BrokenPipeError, ConnectionResetError):
        for letter in ASK * 100:
            peer.sendall(bytes([letter]))
            time.sleep(0.05)
    assert time.monotonic() - began < 5


def test_a_second_head_has_the_same_bound(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK + b"\r\n")
        assert read(peer).startswith(b"HTTP/1.1 200")
        peer.sendall(ASK)
        assert peer.recv(10) == b""


def test_a_second_head_does_not_cut_off_the_first_answer(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK.replace(b"/", b"/slow", 1) + b"\r\n" + ASK)
        assert b"here" in read(peer)
        assert b"HTTP" not in read(peer, b"until it closes")


def test_who_does_not_read_is_not_waited_for(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK.replace(b"/", b"/big", 1) + b"\r\n")
        deadline = time.monotonic() + 10
        while not server.server_state.connections:
            assert time.monotonic() < deadline
        while server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_who_reads_gets_everything(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK.replace(b"/", b"/big", 1) + b"Connection: close\r\n\r\n")
        assert sum(map(len, iter(lambda: peer.recv(2**20), b""))) > BIG


def test_a_request_to_become_a_websocket_is_answered_as_what_it_also_is(server: uvicorn.Server) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with connect(server) as peer:
        peer.sendall(ASK + upgrade + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        assert read(peer).startswith(b"HTTP/1.1 200")
