"""One model with one engine, served by one process: the HTTP server, the ingress and the engine's front together.

A request then goes through no other process than the engine's own: on two cores Serve's proxy and the way from replica
to replica cost some 20 ms of each (docs/serving.md). The replica listens itself (Serve's "direct ingress",
`serve.runner.listening`), so there can be only one at a port: several models, engines or replicas of the ingress are
served through Serve's proxy.
Source: ray/serve/_private/{replica,node_port_manager,http_util}.py (Ray 2.60).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve._private import replica
from ray.serve._private.http_util import start_asgi_http_server
from ray.serve.llm.ingress import make_fastapi_ingress

from serve import ingress, schemas
from serve.keys import Keys
from serve.local import LocalHandle
from serve.metering import SharedCounter


class Alone(ingress.Ingress):
    """The ingress with the engine of its one model beside it."""

    async def __init__(  # type: ignore[misc]
        self, start: Callable[[], Awaitable[Any]], card: schemas.ModelDetails, **settings: Any
    ) -> None:
        """`start`: makes what answers for the model, as `serve.engine.ModelBeside` does."""
        replica.start_asgi_http_server = _listen_again
        self._server = await start()
        handles: Any = {card.id: LocalHandle(self._server)}
        ingress.Ingress.__init__(self, handles, [card], **settings)

    async def check_health(self) -> None:
        """Serve's check of this replica, which is of no use without its engine."""
        await self._server.check_replica()


async def _listen_again(*arguments: Any, **options: Any) -> Any:
    """Ray's start of a replica's HTTP server, also at a port of which a killed replica's connections are not gone yet.

    They stay for a minute. Ray binds without SO_REUSEADDR, fails, and never tries that port again (ray#60615).
    """
    return await start_asgi_http_server(*arguments, **{**options, "enable_so_reuseport": True})


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
