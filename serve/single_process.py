"""One model with one engine, served by one process: the HTTP server, the ingress and the engine's front together.

A request then goes through no other process than the engine's own: on two cores Serve's proxy and the way from replica
to replica cost some 20 ms of each (docs/serving.md). The replica listens itself (Serve's "direct ingress",
`serve.runner.listening`), so there can be only one at a port: several models, engines or replicas of the ingress are
served through Serve's proxy.
Source: ray/serve/_private/{replica,node_port_manager,http_util}.py (Ray 2.60).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve._private import http_util, replica
from ray.serve.llm.ingress import make_fastapi_ingress

from serve import ingress
from serve.access.api_keys import Keys
from serve.access.rate_limiter import SharedCounter
from serve.api import schemas
from serve.replicas.local_handle import LocalHandle

PORT_EVERY_S = 0.5
"""Between two looks at a port that another process holds."""


class Alone(ingress.Ingress):
    """The ingress with the engine of its one model beside it."""

    async def __init__(  # type: ignore[misc]
        self, start: Callable[[], Awaitable[Any]], card: schemas.ModelDetails, **settings: Any
    ) -> None:
        """`start`: makes what answers for the model, as `serve.replicas.model_server.ModelBeside` does."""
        replica.start_asgi_http_server = _listen
        self._server = await start()
        handles: Any = {card.id: LocalHandle(self._server)}
        ingress.Ingress.__init__(self, handles, [card], **settings)

    async def check_health(self) -> None:
        """Serve's check of this replica, which is of no use without its engine."""
        await self._server.check_replica()


async def _listen(*arguments: Any, **options: Any) -> Any:
    """Ray's start of a replica's HTTP server, which waits for its port.

    A killed replica's connections hold the port for a minute against who does not say SO_REUSEADDR. Ray does not, and a
    port that it could not have once it never tries again (ray#60615).
    """
    http_util.set_socket_reuse_port = _reuse_address  # without SO_REUSEPORT, by which two services would share a port
    told = False
    while True:
        try:
            return await http_util.start_asgi_http_server(*arguments, **{**options, "enable_so_reuseport": True})
        except RuntimeError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
            if not told:
                logging.getLogger("ray.serve").error("%s Another process listens there: waiting until it ends.", error)
            told = True
            await asyncio.sleep(PORT_EVERY_S)


def _reuse_address(sock: socket.socket) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return True


def deploy(
    start: Callable[[], Awaitable[Any]],
    options: Mapping[str, Any],
    card: schemas.ModelDetails,
    keys: Keys,
    *,
    seeds: bool,
    capacity: int,
    max_tokens: int = schemas.MAX_TOKENS,
    cors_origins: Sequence[str] = (),
) -> Application:
    """The Serve application. `options`: of the engine's deployment."""
    app = ingress.fastapi_app(keys, cors_origins=cors_origins, names_requests=False)
    routed = make_fastapi_ingress(Alone, endpoint_map=ingress.ENDPOINTS, app=app)
    counter = serve.deployment(SharedCounter, name="limits", **ingress.OPTIONS).bind()
    merged = {**ingress.OPTIONS, **options, "name": "ingress"}
    settings = {"seeds": seeds, "capacity": capacity, "max_tokens": max_tokens}
    return serve.deployment(routed, **merged).bind(start, card, counter=counter, **settings)
