"""One model with one engine in one process: the HTTP server, the ingress and the engine's front end together.

A request crosses no other process than the engine's own. On two cores Serve's proxy and the call from replica to
replica cost some 20 ms of each request (docs/serving.md). The replica listens itself (Serve's "direct ingress",
`serve.ray_private.direct_ingress_settings`), so there is one at a port: several models, engines or ingress replicas are
served through Serve's proxy.
Source: ray/serve/_private/{replica,node_port_manager,http_util}.py (Ray 2.60).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application

from serve import ingress, ray_private
from serve.access.api_keys import Keys
from serve.access.rate_limiter import SharedCounter
from serve.api import schemas
from serve.llm import make_fastapi_ingress
from serve.replicas.local_handle import LocalHandle
from serve.runner import INGRESS

PORT_EVERY_S = 0.5
"""Between two attempts at a port that another process holds."""


class SingleProcessIngress(ingress.Ingress):
    """The ingress of one model, with the model's engine in the same process."""

    async def __init__(  # type: ignore[misc]
        self, start: Callable[[], Awaitable[Any]], card: schemas.ModelDetails, host: str, **settings: Any
    ) -> None:
        """`start`: returns the model's server, a `serve.replicas.model_server.InProcessModelServer`.

        `host`: where the replica listens. Serve's own host is that of its proxy, which nobody uses here.
        """
        ray_private.replace_http_server_start(partial(_listen, host))
        self._server = await start()
        handles: Any = {card.id: LocalHandle(self._server)}
        ingress.Ingress.__init__(self, handles, [card], **settings)

    async def check_health(self) -> None:
        """Serve's check of this replica: that of its engine."""
        await self._server.check_replica()


async def _listen(host: str, app: Any, http: Any, **options: Any) -> Any:
    """Start the replica's HTTP server at `host` as Ray does, but wait until the port is free.

    The connections of a killed replica hold the port for a minute against a socket without SO_REUSEADDR. Ray does not
    set it, and never tries a port again that it could not have (ray#60615).
    """
    logged = False
    while True:
        try:
            return await ray_private.start_http_server(app, http.model_copy(update={"host": host}), **options)
        except RuntimeError as error:
            if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
                raise
            if not logged:
                logging.getLogger("ray.serve").error("%s Another process listens there: waiting until it exits.", error)
            logged = True
            await asyncio.sleep(PORT_EVERY_S)


def deploy(
    start: Callable[[], Awaitable[Any]],
    options: Mapping[str, Any],
    card: schemas.ModelDetails,
    keys: Keys,
    *,
    host: str,
    gpu: bool,
    capacity: int,
    max_tokens: int = schemas.MAX_TOKENS,
    cors_origins: Sequence[str] = (),
) -> Application:
    """The Serve application. `options`: those of the engine's deployment. `host`: where the replica listens."""
    app = ingress.fastapi_app(keys, cors_origins=cors_origins, sends_request_id=False)
    routed = make_fastapi_ingress(SingleProcessIngress, endpoint_map=ingress.ENDPOINTS, app=app)
    counter = serve.deployment(SharedCounter, name="limits", **ingress.OPTIONS).bind()
    merged = {**ingress.OPTIONS, **options, "name": INGRESS}
    settings = {"gpu": gpu, "capacity": capacity, "max_tokens": max_tokens}
    return serve.deployment(routed, **merged).bind(start, card, host, counter=counter, **settings)
