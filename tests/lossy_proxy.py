"""A proxy in front of an S3 server that loses requests or answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.s3server import S3Server


@contextmanager
def lossy(server: S3Server, lost: str, losses: int) -> Iterator[None]:
    """A proxy to `server` that drops the first `losses` PUTs, or the final answers to them.

    `lost` is "request" or "answer". The proxy closes the connection of a lost one.
    """
    port = int(server.endpoint.rpartition(":")[2])
    left = [losses]

    def lose(what: str) -> bool:
        left[0] -= what == lost
        return what == lost and left[0] >= 0

    def answers(upstream: socket.socket, client: socket.socket, put: threading.Event) -> None:
        with suppress(OSError):
            while data := upstream.recv(1 << 16):
                if put.is_set() and not data.startswith(b"HTTP/1.1 100") and lose("answer"):
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def relay(client: socket.socket) -> None:
        put = threading.Event()
        with client, socket.create_connection(("127.0.0.1", port)) as upstream, suppress(OSError):
            threading.Thread(target=answers, args=(upstream, client, put), daemon=True).start()
            while data := client.recv(1 << 16):
                if data.startswith(b"PUT "):
                    put.set()
                    if lose("request"):
                        break
                upstream.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=relay, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=accept, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
