"""What Serve's HTTP proxy needs so that no answer ends silently: a middleware inside the proxy's own process.

A request whose ingress replica dies before the answer began is sent again, to another replica: `RETRIES` times, over
`RETRY_S`. Once it began, a stream gets an error event; any other answer cannot be mended, and its connection is closed
before the declared end, which clients report. What the proxy says by itself (no replica, too many requests) gets
OpenAI's shape and Retry-After. The body is kept meanwhile: it is at most `MAX_BODY_BYTES`; larger ones are not retried.
Connections get the timers of `serve/http/timeouts.py`. A replica that listens itself (`serve/single_process.py`) has
all of this around it too, and no other replica to send a request to again.

The proxy takes it by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.http.proxy_middleware.middlewares in the
environment of its node.
Source: ray/serve/_private/{proxy,http_util}.py (Ray 2.60), which sends nothing at all where a replica died.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access.guard import MAX_BODY_BYTES, fit_request_id
from serve.api import errors
from serve.http import timeouts

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
IMPORT_PATH = "serve.http.proxy_middleware.middlewares"
RETRIES = 5
RETRY_S = 10.0
PAUSE_S = 0.2
OWN_PATHS = "/-/"
BROKEN = "the replica that answered was lost: ask again"


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names; the proxy asks for it before it starts its server."""
    timeouts.install()
    return [Middleware(Edge)]


class Edge:
    """ASGI middleware around everything that the proxy does with a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_PATHS):
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        headers["x-request-id"] = fit_request_id(headers.get("x-request-id"))
        errors.request_id.set(headers["x-request-id"])
        body, until = _Body(receive), time.monotonic() + RETRY_S
        for attempt in range(RETRIES + 1):
            answer = _Answer(send)
            # the proxy takes the path's prefix off its copy of the scope
            await self.app({**scope, "headers": list(scope["headers"])}, body.from_start(), answer)
            if answer.begun or body.gone or not body.whole or time.monotonic() > until:
                break
            await asyncio.sleep(PAUSE_S * 2**attempt)
        if not body.gone:
            await answer.end()


class _Body:
    """A request's messages, to be given to several attempts."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._kept, self._size = receive, list[Message](), 0
        self.whole = self.gone = False

    def from_start(self) -> Receive:
        """`receive` that begins with what has come so far."""
        given = 0

        async def receiving() -> Message:
            nonlocal given
            if given < len(self._kept):
                given += 1
                return self._kept[given - 1]
            message = await self._receive()
            self.gone = self.gone or message["type"] == "http.disconnect"
            if message["type"] == "http.request":
                given += 1
                self._keep(message)
            return message

        return receiving

    def _keep(self, message: Message) -> None:
        self._size += len(message.get("body", b""))
        self._kept.append(message)
        if self._size > MAX_BODY_BYTES:
            self._kept = [{**one, "body": b""} for one in self._kept]
        self.whole = not message.get("more_body", False) and self._size <= MAX_BODY_BYTES


class _Answer:
    """`send` that knows how far the answer is. A bare refusal of the proxy itself is held, and put in shape."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = self._ended = self._stream = False

    async def __call__(self, message: Message) -> None:
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            headers = Headers(raw=message["headers"])
            kind = headers.get("content-type", "")
            self._stream = kind.startswith("text/event-stream")
            if message["status"] >= 429 and not kind.startswith("application/json"):
                await self._refuse(message["status"], headers)
                return
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def _refuse(self, status: int, headers: Headers) -> None:
        """Send the whole of a refusal in OpenAI's shape, in place of the one that begins here."""
        self._ended = True
        busy = status == 429
        message = "too many requests at the moment: try again" if busy else "not available at the moment: try again"
        await self._whole(status, message, {"Retry-After": headers.get("retry-after", "2" if busy else "5")})

    async def _whole(self, status: int, message: str, extra: dict[str, str]) -> None:
        named = {"X-Request-ID": errors.request_id.get() or ""}
        answer = errors.response(status, message, headers=extra | named)
        await self._send({"type": "http.response.start", "status": status, "headers": answer.raw_headers})
        await self._send({"type": "http.response.body", "body": answer.body})

    async def end(self) -> None:
        """Bring an answer to its end that the proxy has left."""
        if self._ended:
            return
        self._ended = True
        if not self.begun:
            await self._whole(503, "the replicas that should answer were lost: try again", {"Retry-After": "5"})
        elif self._stream:  # each message before it held whole events
            error = bytes(errors.response(503, BROKEN).body)
            await self._send({"type": "http.response.body", "body": b"event: error\ndata: " + error + b"\n\n"})
