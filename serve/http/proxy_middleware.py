"""A middleware in the process of Serve's HTTP proxy, which repeats requests of lost replicas and completes answers.

A request whose ingress replica dies before its answer begins is sent to another replica: at most `RETRIES` times,
within `RETRY_S`. An answer that has begun cannot be repeated: a stream ends with an error event; of any other answer
the connection is closed before the declared end, which clients report. The proxy's own refusals (no replica, too many
requests) get OpenAI's error shape and Retry-After. Until an ingress replica has answered once, requests are refused
with 503 and Retry-After, because Serve would hold them without an answer while the replicas start. The request's body
is kept for the repetition up to `MAX_BODY_BYTES`; a larger one is not repeated. Headers by which a client would steer
Serve are removed: this service has neither multiplexed models nor sessions. Connections get the timers of
`serve/http/timeouts.py`. A replica that listens itself (`serve/single_process.py`) has this middleware too, but no
other replica to repeat a request with.

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
PROXY_PATHS = ("/-/healthz", "/-/routes")
"""Answered by the proxy itself."""
START_WAIT_S = 1.0
"""Time that a request waits for the first answer of an ingress replica before it is refused."""
HEALTH_PATHS = ("/healthz", PROXY_PATHS[0])
"""The ingress's path, and the proxy's own, which is 503 while the proxy knows no route."""
RETRY_AFTER = {"Retry-After": "5"}
STREAM_LOST = "the replica that answered this request was lost: send the request again"


def middlewares() -> list[Middleware]:
    """The proxy's middlewares: Serve calls this before it starts the proxy's server."""
    timeouts.install()
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """An ASGI middleware around the proxy's whole treatment of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self._start = app, _Start(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROXY_PATHS:
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        headers["x-request-id"] = valid_request_id(headers.get("x-request-id"))
        errors.request_id.set(headers["x-request-id"])
        if not await self._start.answered(scope):
            await _TrackedResponse(send).refuse(503, "the service is starting: try again later", RETRY_AFTER)
            return
        given = ray_private.without_control_headers(scope["headers"])
        body, deadline = _ReplayableBody(receive), time.monotonic() + RETRY_S
        for attempt in range(RETRIES + 1):
            answer = _TrackedResponse(send)
            # the proxy removes the path's prefix in its copy of the scope
            await self.app({**scope, "headers": list(given)}, body.replay(), answer)
            if answer.started or body.disconnected or not body.complete or time.monotonic() > deadline:
                break
            await asyncio.sleep(BACKOFF_S * 2**attempt)
        if not body.disconnected:
            await answer.finish()


class _Start:
    """Whether an ingress replica has answered once since the proxy started, by one request to its health check."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._answered = app, False
        self._check: asyncio.Task[bool] | None = None

    async def answered(self, scope: Scope) -> bool:
        """Wait for at most `START_WAIT_S`. `scope`: that of any HTTP request to the proxy."""
        if self._answered:
            return True
        if self._check is None or self._check.done():
            self._check = asyncio.ensure_future(self._healthy(scope))
        await asyncio.wait((self._check,), timeout=START_WAIT_S)
        check = self._check
        self._answered = check.done() and not check.cancelled() and check.exception() is None and check.result()
        return self._answered

    async def _healthy(self, scope: Scope) -> bool:
        """Whether the ingress answers; another application's 404 is an answer too, where the proxy knows its route."""
        status = await _status(self._app, scope, HEALTH_PATHS[0])
        if status == 404:
            status = await _status(self._app, scope, HEALTH_PATHS[1])
        return 0 < status < 500


async def _status(app: ASGIApp, scope: Scope, path: str) -> int:
    """The status of a GET without a body, in the scope of another request; 0 where it gets no answer."""
    status = 0
    waiting: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()  # the client never disconnects
        return waiting.pop()

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    asked = {"method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    headers = [(b"host", b"localhost"), (b"x-request-id", valid_request_id(None).encode())]
    await app({**scope, **asked, "headers": headers}, receive, send)
    return status


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
                await self._replace(message["status"], headers)
                return
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def _replace(self, status: int, headers: Headers) -> None:
        """Send a whole refusal in OpenAI's shape instead of the one that begins here."""
        self._ended = True
        busy = status == 429
        message = (
            "too many requests at the moment: try again later"
            if busy
            else "the service is not available: try again later"
        )
        await self.refuse(status, message, {"Retry-After": headers.get("retry-after", "2" if busy else "5")})

    async def refuse(self, status: int, message: str, extra: dict[str, str]) -> None:
        """Send an error in OpenAI's shape."""
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
            lost = "the replicas that should answer this request were lost: try again later"
            await self.refuse(503, lost, RETRY_AFTER)
        elif self._stream:  # each earlier message held whole events
            error = bytes(errors.response(503, STREAM_LOST).body)
            await self._send({"type": "http.response.body", "body": b"event: error\ndata: " + error + b"\n\n"})
