"""How long a connection may take: uvicorn's own HTTP protocol with two more timers -> no client holds one for ever.

uvicorn bounds the pause between two requests and nothing else. Here a request's head must be there `HEAD_S` after its
first byte, or after the connection was made, and what was sent must leave the buffer within `SEND_S` of its filling up
(some 64 KiB beyond what the kernel takes). Bodies have a bound of their own in `serve/access/guard.py`. A connection
that is late is closed without a word: its client is not reading, or has not asked for anything yet.

A request to switch to another protocol (WebSocket; HTTP/2, which Java's HttpClient asks for by default) is answered as
the plain request that it also is: no other protocol is spoken here, and RFC 9110, 7.8 lets a server ignore `Upgrade`.
The parser ends such a request at its head, without its body, so it is read again without that header.

`install` makes it the protocol of every uvicorn server that starts in this process later.
Source: uvicorn/config.py and uvicorn/protocols/http/httptools_impl.py (0.54).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
SEND_S = 60.0


class TimedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._sending, self._closing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            ours = isinstance(error, httptools.HttpParserCallbackError)
            self.logger.warning("Invalid HTTP request received.", exc_info=ours)
            self.send_400_response("Invalid HTTP request received.")
        if not self._answering():
            self._await_head()  # also after what begins no request: an empty line, the rest of a refused body

    def _feed(self, data: bytes) -> None:
        """Have the parser read it all. Raises HttpParserError."""
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as asked:
                if self.scope["method"] == "CONNECT":
                    raise httptools.HttpParserError("no tunnels") from None
                data = self._head_without_upgrade() + data[asked.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def _should_upgrade(self) -> bool:
        """Whether the head just read is to be read again instead of starting to answer it."""
        return True

    def _head_without_upgrade(self) -> bytes:
        headers = [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        start = b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())
        return b"\r\n".join([start, *headers, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._head is not None:
            self._head.cancel()
            self._head = None

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
        self._ended()

    def _after(self, seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, act)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self._after(HEAD_S, self._no_head)

    def _no_head(self) -> None:
        """Close, unless the answer to the request before is not out yet: that one is the connection's then."""
        if self._answering():
            self._head = self._after(HEAD_S, self._no_head)
        else:
            self.transport.close()
            self._ended()

    def _ended(self) -> None:
        """Closed, which waits until all is sent: not for ever."""
        self._closing = self._closing or self._after(SEND_S, self.transport.abort)


def install() -> None:
    """Have this process's uvicorn servers use it."""
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{TimedProtocol.__name__}"
