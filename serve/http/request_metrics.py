"""The outcome of each request: an ASGI middleware around the whole application -> `/metrics`.

Each HTTP request has exactly one outcome; requests that the guard refuses are counted too:

    ok         answered completely, with a status below 400
    refused    a status of 400 to 499 except 429: the caller has to change the request
    limited    429: beyond a limit or the capacity
    failed     a status of 500 or more, an exception, or a stream that ended with an error event
    cancelled  the client disconnected before the answer was complete

Prometheus' text format, for this process alone. Answers of Serve's proxy and of the HTTP server itself are not counted
(bytes that are not HTTP, `/-/healthz`, `/-/routes`).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_RECORD = "rft.record"


class RequestRecord:
    """One request's status and events so far."""

    def __init__(self) -> None:
        self.status = 500
        self.complete = self.disconnected = self.failed_stream = self.raised = False

    @property
    def outcome(self) -> str:
        if self.failed_stream:
            return "failed"
        if not self.complete:
            return "failed" if self.raised and not self.disconnected else "cancelled"
        if self.status < 400:
            return "ok"
        if self.status == 429:
            return "limited"
        return "refused" if self.status < 500 else "failed"


class RequestMetrics:
    """An ASGI middleware that counts an application's requests by route and outcome."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.registry = app, CollectorRegistry()
        self._requests = Counter("rft_requests", "by outcome", ["route", "outcome"], registry=self.registry)
        self._open = Gauge("rft_requests_open", "not answered yet", registry=self.registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord()
        scope[_RECORD], scope["rft.registry"] = record, self.registry
        self._open.inc()
        try:
            await self.app(scope, _recording_disconnect(record, receive), _recording_response(record, send))
        except Exception:  # not BaseException: Serve cancels the calls of a client that disconnected
            record.raised = True
            raise
        finally:
            self._open.dec()
            route = getattr(scope.get("route"), "path", "none")
            self._requests.labels(route, record.outcome).inc()


def _recording_disconnect(record: RequestRecord, receive: Receive) -> Receive:
    async def receiving() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            record.disconnected = True
        return message

    return receiving


def _recording_response(record: RequestRecord, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not record.disconnected:
            record.complete = True
        await send(message)

    return sending


def mark_failed(scope: Scope) -> None:
    """Record that a stream, which began with status 200, ends with an error."""
    record: Any = scope.get(_RECORD)
    if record is not None:
        record.failed_stream = True


def install(app: FastAPI) -> None:
    """Count each request of `app`, and add `/metrics`. To be called last: later middlewares are outside the count."""
    app.add_middleware(RequestMetrics)

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Requests by route and outcome since this process started, in Prometheus' text format."""
        return Response(generate_latest(request.scope["rft.registry"]), media_type=CONTENT_TYPE_PLAIN_0_0_4)
