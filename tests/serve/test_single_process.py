"""The port of a service in one process: reused after a kill, waited for, and never shared."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from ray.serve._private import http_util
from ray.serve.config import HTTPOptions
from starlette.types import Receive, Scope, Send

from serve import single_process

SECONDS = 20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_util, "set_socket_reuse_port", http_util.set_socket_reuse_port)
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "level", logging.NOTSET)  # Ray sets it


@pytest.fixture
def holder() -> socket.socket:
    """Another process's listening socket, which allows others to share its port."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    held.listen()
    return held


def listening(port: int) -> asyncio.Task[tuple[asyncio.Task[None], uvicorn.Server]]:
    options = HTTPOptions(host="127.0.0.1", port=port)
    loop = asyncio.get_running_loop()
    return asyncio.ensure_future(
        single_process._listen(options.host, app, options, event_loop=loop, enable_so_reuseport=False)
    )


@asynccontextmanager
async def answering(start: asyncio.Task[tuple[asyncio.Task[None], uvicorn.Server]], port: int) -> AsyncIterator[None]:
    """The server, once it has answered; ended with the connection open, as by a kill."""
    serving, server = await asyncio.wait_for(start, SECONDS)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=3)) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).text == "here"
        yield
        server.should_exit = True
        await serving


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The messages of Serve's log so far."""
    log = logging.getLogger("ray.serve")
    log.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    log.removeHandler(caplog.handler)


def test_it_waits_for_a_port_that_another_process_holds(holder: socket.socket, logged: Callable[[], list[str]]) -> None:
    port = holder.getsockname()[1]

    async def run() -> None:
        start = listening(port)
        done, _ = await asyncio.wait((start,), timeout=3 * single_process.PORT_EVERY_S)
        assert not done
        holder.close()
        async with answering(start, port):
            pass

    asyncio.run(run())
    assert {message for message in logged() if "waiting" in message} == {
        f"Failed to bind to address '127.0.0.1:{port}'. Another process listens there: waiting until it exits."
    }


def test_a_connection_that_its_server_left_does_not_hold_the_port(logged: Callable[[], list[str]]) -> None:
    """Where the server closes first, TCP keeps the connection for a minute."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def run() -> None:
        async with answering(listening(port), port):
            pass
        assert lingering(port)
        async with answering(listening(port), port):
            pass

    asyncio.run(run())
    assert not [message for message in logged() if "waiting" in message]


def lingering(port: int) -> bool:
    """Whether this port has a connection, apart from listening sockets."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] != "0A" for row in rows)


def test_any_other_failure_is_raised() -> None:
    async def run() -> None:
        options = HTTPOptions(host="192.0.2.1", port=8)  # an address of no machine
        await single_process._listen(
            options.host, app, options, event_loop=asyncio.get_running_loop(), enable_so_reuseport=False
        )

    with pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        asyncio.run(asyncio.wait_for(run(), SECONDS))
