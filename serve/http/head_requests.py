"""HEAD on each path that answers GET: an ASGI middleware that has the application answer GET, and drops the body.

FastAPI adds HEAD to no route (RFC 9110, 9.3.2: a server should answer it as GET without the content).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Answers HEAD as GET without a body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        as_get = {**scope, "method": "GET"}  # a copy: the HTTP server reads its own scope's method
        try:
            await self.app(as_get, receive, sending)
        finally:
            scope.update({name: as_get[name] for name in ("route",) if name in as_get})
