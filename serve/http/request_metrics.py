"""What became of every request: an ASGI middleware around the whole application -> `/metrics`.

Each HTTP request gets exactly one outcome, refusals by the guard included:

    ok         answered with a status below 400, to its last byte
    refused    a status of 400 or more that is the caller's to mend
    limited    429: no room at the moment
    failed     a status of 500 or more, an exception, or a stream that ended with an error event
    cancelled  the client went away before the answer was handed over, for which alone the application gives up

Prometheus' text format, of this process alone. Not counted: what Serve's proxy and the HTTP server answer by themselves
(bytes that are no HTTP, `/-/healthz`, `/-/routes`).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ENTRY = "rft.entry"


class Entry:
    """One request: what has been seen of it so far."""

    def __init__(self) -> None:
        self.status = 500
        self.complete = self.gone = self.broken = self.raised = False

    @property
    def outcome(self) -> str:
        if self.broken:
            return "failed"
        if not self.complete:
            return "failed" if self.raised and not self.gone else "cancelled"
        if self.status < 400:
            return "ok"
        if self.status == 429:
            return "limited"
        return "refused" if self.status < 500 else "failed"


class Ledger:
    """Counts the requests of the application that it is put around."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.registry = app, CollectorRegistry()
        self._requests = Counter("rft_requests", "by outcome", ["route", "outcome"], registry=self.registry)
        self._open = Gauge("rft_requests_open", "not answered yet", registry=self.registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        entry = Entry()
        scope[_ENTRY], scope["rft.registry"] = entry, self.registry
        self._open.inc()
        try:
            await self.app(scope, _noting_leave(entry, receive), _noting_end(entry, send))
        except Exception:  # of a client that is gone Serve cancels the call, which is none
            entry.raised = True
            raise
        finally:
            self._open.dec()
            route = getattr(scope.get("route"), "path", "none")
            self._requests.labels(route, entry.outcome).inc()


def _noting_leave(entry: Entry, receive: Receive) -> Receive:
    async def noting() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            entry.gone = True
        return message

    return noting


def _noting_end(entry: Entry, send: Send) -> Send:
    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry.status = message["status"]
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not entry.gone:
            entry.complete = True
        await send(message)

    return noting


def broken(scope: Scope) -> None:
    """Say of a stream that was begun with 200 that it ends with an error."""
    entry: Any = scope.get(_ENTRY)
    if entry is not None:
        entry.broken = True


def install(app: FastAPI) -> None:
    """Count every request of `app`, and tell at `/metrics`. To be called last: what is added later is outside of it."""
    app.add_middleware(Ledger)

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Requests by route and outcome since this process started, in Prometheus' text format."""
        return Response(generate_latest(request.scope["rft.registry"]), media_type=CONTENT_TYPE_PLAIN_0_0_4)
