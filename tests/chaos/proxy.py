"""A proxy on loopback in front of an HTTP server: it delays requests and answers, and sometimes cuts a connection.

In: the server's URL, a seed, and the part of the answers to lose. Out: a URL under which the server answers slowly and
not always. A connection is cut after the server has answered and before the client has the answer, so the request was
done: the answer is lost as a whole, or after the headers and a part of the body.

Limits: one request at a time on each connection, as boto3 sends them; answers with a body of unknown length are cut as
a whole.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DELAY_S, LONG_DELAY_S, LONG = 0.01, 0.3, 0.02
"""Most that a request or an answer is delayed, usually and in a part LONG of the cases."""
CHUNK = 1 << 16


@dataclass
class Proxy:
    """A running proxy. Example: Proxy("http://127.0.0.1:40123", random.Random(7), 0.02)"""

    server: str
    chance: random.Random
    cut: float
    url: str = ""
    cuts: int = 0
    answers: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, started: threading.Event) -> None:
        listening = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        listening.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side closes it, or it is cut."""
        address = urlsplit(self.server)
        with suppress(OSError, asyncio.CancelledError):
            answers, requests = await asyncio.open_connection(address.hostname, address.port)
            waiting = asyncio.Event()
            pumps = {
                asyncio.create_task(self._requests(reader, requests, waiting)),
                asyncio.create_task(self._answers(answers, writer, waiting)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                requests.close()
        writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, waiting: asyncio.Event
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if not waiting.is_set():
                waiting.set()
                await self._delay()
            server.write(chunk)
            await server.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, waiting: asyncio.Event
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if waiting.is_set() and not chunk.startswith(b"HTTP/1.1 100"):  # 100: the body is still to be sent
                waiting.clear()
                self.answers += 1
                await self._delay()
                if self.chance.random() < self.cut:
                    self.cuts += 1
                    client.write(chunk[: self._part(chunk)])
                    return
            client.write(chunk)
            await client.drain()

    def _part(self, chunk: bytes) -> int:
        """How many bytes of an answer arrive: none, or the headers and a part of the body."""
        body = chunk.find(b"\r\n\r\n") + 4
        known = b"content-length:" in chunk[:body].lower()
        return self.chance.choice((0, self.chance.randrange(body, len(chunk)))) if known and body < len(chunk) else 0

    async def _delay(self) -> None:
        await asyncio.sleep(self.chance.random() * (LONG_DELAY_S if self.chance.random() < LONG else DELAY_S))

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def proxy(server: str, seed: str, cut: float) -> Iterator[Proxy]:
    """A proxy in front of the server at a URL, in a thread of its own, for the duration of the block."""
    running, loop, started = Proxy(server, random.Random(seed), cut), asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(running.serve(started),), name="proxy")
    thread.start()
    started.wait()
    try:
        yield running
    finally:
        loop.call_soon_threadsafe(running.stop)
        thread.join()
        loop.close()
