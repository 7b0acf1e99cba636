"""A middleware in the process of Serve's HTTP proxy, which repeats requests of lost replicas and completes answers.

A request whose ingress replica dies before its answer begins is sent to another replica: at most `RETRIES` times,
within `RETRY_S`. An answer that has begun cannot be repeated: a stream ends with an error event; of any other answer
the connection is closed before the declared end, which clients report. The proxy's own refusals (no replica, too many
requests) get OpenAI's error shape and Retry-After. The request's body is kept for the repetition up to
`MAX_BODY_BYTES`; a larger one is not repeated. Connections get the timers of `serve/http/timeouts.py`. A replica that
listens itself (`serve/single_process.py`) has this middleware too, but no other replica to repeat a request with.

The variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.http.proxy_middleware.middlewares, in the environment of
the proxy's node, installs it.
Source: ray/serve/_private/{proxy,http_util}.py (Ray 2.60), which send nothing where a replica died.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import ray_private
from serve.access.guard import MAX_BODY_BYTES, valid_request_id
from serve.api import errors
from serve.http import timeouts

VARIABLE = ray_private.PROXY_CALLBACK
IMPORT_PATH = "serve.http.proxy_middleware.middlewares"
RETRIES = 5
RETRY_S = 10.0
BACKOFF_S = 0.2
PROXY_PATHS = "/-/"
STREAM_LOST = "the replica that answered this request was lost: send the request again"


def middlewares() -> list[Middleware]:
    """The proxy's middlewares: Serve calls this before it starts the proxy's server."""
    timeouts.install()
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """An ASGI middleware around the proxy's whole treatment of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(PROXY_PATHS):
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        headers["x-request-id"] = valid_request_id(headers.get("x-request-id"))
        errors.request_id.set(headers["x-request-id"])
        body, deadline = _ReplayableBody(receive), time.monotonic() + RETRY_S
        for attempt in range(RETRIES + 1):
            answer = _TrackedResponse(send)
            # the proxy removes the path's prefix in its copy of the scope
            await self.app({**scope, "headers": list(scope["headers"])}, body.replay(), answer)
            if answer.started or body.disconnected or not body.complete or time.monotonic() > deadline:
                break
            await asyncio.sleep(BACKOFF_S * 2**attempt)
        if not body.disconnected:
            await answer.finish()


class _ReplayableBody:
    """A request's body, which several attempts can read from the start."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._kept = receive, bytearray()
        self._arrived = self._too_large = False
        self.complete = self.disconnected = False

    def replay(self) -> Receive:
        """A `receive` that begins with one message of the body that has arrived so far."""
        replayed = not self._arrived

        async def receiving() -> Message:
            nonlocal replayed
            if not replayed:
                replayed = True
                return {"type": "http.request", "body": bytes(self._kept), "more_body": not self.complete}
            message = await self._receive()
            self.disconnected = self.disconnected or message["type"] == "http.disconnect"
            if message["type"] == "http.request":
                replayed = True
                self._keep(message)
            return message

        return receiving

    def _keep(self, message: Message) -> None:
        """Add a message's part to the body, in one buffer: a body may arrive as a million messages of one byte."""
        self._arrived = True
        self._kept += message.get("body", b"")
        if self._too_large or len(self._kept) > MAX_BODY_BYTES:
            self._too_large, self._kept = True, bytearray()
        self.complete = not message.get("more_body", False) and not self._too_large


class _TrackedResponse:
    """A `send` that records how far the answer is, and replaces the proxy's own plain-text refusals."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self._ended = self._stream = False

    async def __call__(self, message: Message) -> None:
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self.started = True
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
        """Send a whole refusal in OpenAI's shape instead of the one that begins here."""
        self._ended = True
        busy = status == 429
        message = (
            "too many requests at the moment: try again later"
            if busy
            else "the service is not available: try again later"
        )
        await self._send_error(status, message, {"Retry-After": headers.get("retry-after", "2" if busy else "5")})

    async def _send_error(self, status: int, message: str, extra: dict[str, str]) -> None:
        named = {"X-Request-ID": errors.request_id.get() or ""}
        answer = errors.response(status, message, headers=extra | named)
        await self._send({"type": "http.response.start", "status": status, "headers": answer.raw_headers})
        await self._send({"type": "http.response.body", "body": answer.body})

    async def finish(self) -> None:
        """Complete an answer that the proxy did not."""
        if self._ended:
            return
        self._ended = True
        if not self.started:
            await self._send_error(
                503, "the replicas that should answer this request were lost: try again later", {"Retry-After": "5"}
            )
        elif self._stream:  # each earlier message held whole events
            error = bytes(errors.response(503, STREAM_LOST).body)
            await self._send({"type": "http.response.body", "body": b"event: error\ndata: " + error + b"\n\n"})
