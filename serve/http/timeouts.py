"""Bounds of a connection: uvicorn's HTTP protocol with two more timers, and a bound of a request's head.

uvicorn limits the pause between two requests only. Here a request's head must be complete `HEAD_S` after its first
byte, or after the connection was made, and a full send buffer (some 64 KiB beyond the kernel's) must empty within
`SEND_S`. The time of a body is limited in `serve/access/guard.py`. A connection that is late is closed without an
answer: its client does not read, or has not sent a request.

A request's head has at most `MAX_HEAD_BYTES`: uvicorn with httptools has no such bound, and keeps the whole head in
memory before any key is checked. A larger one is answered with 431 and the connection is closed. Data is parsed in
slices of `SLICE_BYTES`, and the body's chunks of a slice are joined: uvicorn's `body += chunk` copies the body for each
chunk.

A request to switch to another protocol (WebSocket; HTTP/2, which Java's HttpClient requests by default) is answered as
the HTTP/1.1 request that it also is: this service implements no other protocol, and RFC 9110, 7.8 allows a server to
ignore `Upgrade`. The parser ends such a request after its head, so the head is parsed again without that header.

`install` makes it the protocol of each uvicorn server that starts later in this process.
Source: uvicorn/config.py and uvicorn/protocols/http/httptools_impl.py (0.54).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools

from serve import uvicorn_private
from serve.api import errors
from serve.uvicorn_private import HttpToolsProtocol

HEAD_S = 20.0
SEND_S = 60.0
MAX_HEAD_BYTES = 1 << 16
SLICE_BYTES = 1 << 14
LINGER_S = 2.0
"""Time to discard further data after a 431: a connection closed at once would reset, and the client lose the answer."""


class _HeadTooLarge(Exception):
    """A request's head is larger than `MAX_HEAD_BYTES`."""


class TimedProtocol(HttpToolsProtocol):
    """One connection with timers for a request's head, a full send buffer and its own end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._in_head = self._refused = False
        self._head_bytes = 0
        self._chunks: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._sending, self._closing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        try:
            for start in range(0, len(data), SLICE_BYTES):
                self._feed_slice(data[start : start + SLICE_BYTES])
        except _HeadTooLarge:
            self._refuse_head()
        except httptools.HttpParserError as error:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
                return
            internal = isinstance(error, httptools.HttpParserCallbackError)
            self.logger.warning("Invalid HTTP request received.", exc_info=internal)
            self.send_400_response("Invalid HTTP request received.")
        if not self._answering():
            self._await_head()  # also after bytes that begin no request: an empty line, the rest of a refused body

    def _feed_slice(self, data: bytes) -> None:
        """Parse a slice. Raises HttpParserError, and _HeadTooLarge where the head goes on after too many slices."""
        began_in_head = self._in_head
        if began_in_head:
            self._head_bytes += len(data)
        self._feed(data)
        self._pass_body()
        if began_in_head and self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def _feed(self, data: bytes) -> None:
        """Parse all the data. Raises HttpParserError."""
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.scope["method"] == "CONNECT":
                    raise httptools.HttpParserError("CONNECT is not supported") from None
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it

    def _should_upgrade(self) -> bool:
        """Whether the parser stops after this head, so that `_feed` parses it again without `Upgrade`."""
        return True

    def _head_without_upgrade(self) -> bytes:
        headers = [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        start = b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())
        return b"\r\n".join([start, *headers, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge
        super().on_headers_complete()
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        self._pass_body()
        super().on_message_complete()

    def _pass_body(self) -> None:
        """Pass the chunks that were parsed to uvicorn, as one."""
        if self._chunks:
            body, self._chunks = b"".join(self._chunks), []
            super().on_body(body)

    def _refuse_head(self) -> None:
        """Answer 431, unless an earlier request's answer is being sent, and close the connection."""
        self._refused = True
        if self._answering():
            self.transport.close()
            return
        message = f"the head of the request is larger than {MAX_HEAD_BYTES} bytes"
        answer = errors.response(431, message, headers={"Connection": "close"})
        lines = [b"HTTP/1.1 431 Request Header Fields Too Large"]
        lines += [b"%s: %s" % header for header in answer.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.write_eof()
        self._closing = self._after(LINGER_S, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._sending = self._after(SEND_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._limit_closing()

    def _after(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, action)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self._after(HEAD_S, self._head_late)

    def _head_late(self) -> None:
        """Close the connection, unless the answer to the previous request is still being sent."""
        if self._answering():
            self._head = self._after(HEAD_S, self._head_late)
        else:
            self.transport.close()
            self._limit_closing()

    def _limit_closing(self) -> None:
        """Abort the closing connection after `SEND_S`: closing waits until everything is sent."""
        self._closing = self._closing or self._after(SEND_S, self.transport.abort)


def install() -> None:
    """Make `TimedProtocol` the protocol of this process's uvicorn servers."""
    uvicorn_private.use_protocol(f"{__name__}:{TimedProtocol.__name__}")
