"""The timers of a connection, at a real uvicorn server on loopback: a connection that is held unused is closed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn import config

from serve.http import timeouts

HEAD_S = 0.5
ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
BIG = 32 * 2**20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/big`: 32 MiB; `/slow`: a word after three times the head's bound; `/early`: a word; otherwise body and word."""
    body = b""
    while scope["path"] != "/early" and (part := await receive())["type"] == "http.request":
        body += part["body"]
        if not part["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * HEAD_S)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(BIG) if scope["path"] == "/big" else body + b"here"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    monkeypatch.setattr(config, "HTTP_PROTOCOLS", dict(config.HTTP_PROTOCOLS))
    monkeypatch.setattr(timeouts, "HEAD_S", HEAD_S)
    monkeypatch.setattr(timeouts, "SEND_S", 1.0)
    timeouts.install()
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
    received = bytearray()
    while until not in received[-2 * len(until) - 2**16 :] and (more := peer.recv(2**16)):
        received += more
    return bytes(received)


@pytest.mark.parametrize("sent", [b"", b"G", ASK, ASK + b"X-Odd: a"], ids=["nothing", "a letter", "a line", "half"])
def test_an_endless_head_closes_the_connection(server: uvicorn.Server, sent: bytes) -> None:
    with connect(server) as peer:
        peer.sendall(sent)
        assert peer.recv(10) == b""


def test_a_head_sent_byte_by_byte_has_no_more_time(server: uvicorn.Server) -> None:
    began = time.monotonic()
    with connect(server) as peer, suppress(BrokenPipeError, ConnectionResetError):
        for letter in ASK + b"X-Odd: " + b"a" * 200:
            peer.sendall(bytes([letter]))
            time.sleep(0.05)
        assert peer.recv(10) == b""
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("after", [b"\r\n", b"\n"])
def test_bytes_that_begin_no_request_do_not_extend_the_time(server: uvicorn.Server, after: bytes) -> None:
    with connect(server) as peer:
        peer.sendall(ASK + b"\r\n")
        read(peer, b"0\r\n\r\n")
        peer.sendall(after)
        assert peer.recv(10) == b""


def test_the_rest_of_a_body_that_was_answered_early_does_not_extend_the_time(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK.replace(b"GET /", b"POST /early") + b"Content-Length: 1000\r\n\r\n2")
        read(peer, b"0\r\n\r\n")
        peer.sendall(b"+")
        assert peer.recv(10) == b""


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


def test_a_client_that_does_not_read_is_disconnected(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK.replace(b"/", b"/big", 1) + b"\r\n")
        deadline = time.monotonic() + 10
        while not server.server_state.connections:
            assert time.monotonic() < deadline
        while server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_client_that_reads_gets_the_whole_answer_and_keeps_the_connection(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(ASK.replace(b"/", b"/big", 1) + b"\r\n")
        time.sleep(0.3)  # the buffer is full
        assert len(read(peer, b"0\r\n\r\n")) > BIG
        for _ in range(6):  # for longer than what was sent might have taken
            time.sleep(0.25)
            peer.sendall(ASK + b"\r\n")
            assert b"here" in read(peer, b"0\r\n\r\n")


def test_an_unread_answer_does_not_keep_a_closed_connection_open(server: uvicorn.Server) -> None:
    """Many answers, each too small to fill more than the kernel's buffer."""
    with connect(server) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall((ASK.replace(b"GET /", b"POST /") + b"Content-Length: 60000\r\n\r\n" + bytes(60_000)) * 50)
        deadline = time.monotonic() + 15
        while server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("lines", [1, 20_000])
def test_a_head_larger_than_its_bound_is_431_and_the_connection_is_closed(server: uvicorn.Server, lines: int) -> None:
    sent = ASK + (b"X-Odd: " + b"a" * (4_000_000 // lines) + b"\r\n") * lines
    with connect(server) as peer:
        with suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(sent[: timeouts.MAX_HEAD_BYTES + 2 * timeouts.SLICE_BYTES])
        received = read(peer, b"until it closes")
    assert received.startswith(b"HTTP/1.1 431 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_head_too_large"


@pytest.mark.parametrize("lines", [1, 1000])
def test_a_large_head_costs_no_more_memory_than_its_bound(server: uvicorn.Server, lines: int) -> None:
    """60 MiB are sent, and the server stops reading or discards them."""
    line = b"X-Odd: " + b"a" * (2**20 // lines) + b"\r\n" if lines > 1 else b"a" * 2**20
    before = psutil.Process().memory_info().rss
    with connect(server) as peer, suppress(BrokenPipeError, ConnectionResetError):
        peer.sendall(ASK + b"X-Odd: ")
        for _ in range(60):
            peer.sendall(line * lines)
    assert psutil.Process().memory_info().rss - before < 30 * 2**20


def test_a_head_within_its_bound_is_answered(server: uvicorn.Server) -> None:
    line = b"X-Odd: " + b"a" * 1000 + b"\r\n"
    head = ASK + line * ((timeouts.MAX_HEAD_BYTES - 200) // (len(line) + 1)) + b"\r\n"
    with connect(server) as peer:
        for _ in range(2):
            peer.sendall(head)
            assert read(peer, b"0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_body_of_many_small_chunks_takes_linear_time(server: uvicorn.Server) -> None:
    seconds = []
    for size in (50_000, 200_000):
        began = time.monotonic()
        with connect(server) as peer:
            head = ASK.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"
            peer.sendall(head + b"1\r\na\r\n" * size + b"0\r\n\r\n")
            assert len(read(peer, b"0\r\n\r\n")) > size
        seconds.append(time.monotonic() - began)
    assert seconds[1] < 10 * seconds[0] + 0.5


UPGRADES = [
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
]
BODIES = [b"\r\n", b"Content-Length: 5\r\n\r\n2 + 3", b"Transfer-Encoding: chunked\r\n\r\n5\r\n2 + 3\r\n0\r\n\r\n"]


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["websocket", "h2c"])
@pytest.mark.parametrize("body", BODIES, ids=["no body", "length", "chunked"])
@pytest.mark.parametrize("apart", [1, 40, 1000])
def test_a_request_to_switch_protocols_is_answered_as_the_plain_one_that_it_is(
    server: uvicorn.Server, upgrade: bytes, body: bytes, apart: int
) -> None:
    """Two requests on one connection, sent in pieces of the given size."""
    sent = ASK.replace(b"GET", b"POST") + upgrade + body
    received = b"2 + 3here" if b"2 + 3" in body else b"\nhere"
    with connect(server) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for start in range(0, len(sent), apart):
                peer.sendall(sent[start : start + apart])
                time.sleep(0.0005)
            answer = read(peer, b"0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert received in answer


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["websocket", "h2c"])
def test_pipelined_requests_to_switch_protocols_are_all_answered(server: uvicorn.Server, upgrade: bytes) -> None:
    """More requests than a recursion allows, after a plain one; the last closes, whatever follows it."""
    one = ASK + upgrade + b"\r\n"
    last = ASK + upgrade.replace(b"Upgrade", b"Upgrade, close", 1) + b"\r\nand more"
    with connect(server) as peer:
        sending = threading.Thread(target=peer.sendall, args=(ASK + b"\r\n" + one * 2000 + last,))
        sending.start()
        received = b"".join(iter(lambda: peer.recv(2**16), b""))
        sending.join()
    assert (received.count(b"HTTP/1.1 200"), received.count(b"HTTP/1.1 4")) == (2002, 0)


def test_a_tunnel_is_refused(server: uvicorn.Server) -> None:
    with connect(server) as peer:
        peer.sendall(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n")
        assert read(peer, b"received.").startswith(b"HTTP/1.1 400")
