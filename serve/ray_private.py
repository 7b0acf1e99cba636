"""Names of Ray 2.60 that this service uses and Ray does not promise, each with the reason.

`tests/serve/test_private_names.py` fails with the name of each one that an upgrade of Ray removes. Ray is imported
inside the functions: `serve.runner` needs the names of the variables before Ray is set up.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any

VERSION = "2.60"
PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Variable: the import path of a function that returns the middlewares of Serve's HTTP proxy. Serve has no argument."""
SINGLE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
}
"""Variables: one event loop in each process, because a stream's every message would cross three of them; and what a
replica loads before its first request is left out of garbage collection, as `vllm serve` does too."""
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "ray.serve.llm.ingress:OpenAiIngress": ("_default_serve_handles", "_get_configured_serve_handle"),
    "ray.serve.llm.deployment:LLMServer": ("_llm_config", "_batch_output_stream"),
    "ray.llm._internal.serve.engines.vllm.vllm_engine:VLLMEngine": ("_oai_serving_chat", "_engine_client"),
}
"""Attributes that the functions below and `serve.replicas.model_server.ModelServer` read or override, by class."""


@cache
def _control_headers() -> frozenset[bytes]:
    """Names of the headers by which a client steers Serve, with `-` for `_`; `X-Request-Id` is not among them."""
    from ray.serve._private import constants

    names = (
        constants.SERVE_MULTIPLEXED_MODEL_ID,
        constants.SERVE_SESSION_ID,
        constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
    )
    return frozenset(name.lower().replace("_", "-").encode() for name in names)


def without_control_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a request without those that name a multiplexed model or a session for Serve, set a request's
    time, or keep it from being cancelled with its client.

    Serve reads them before any key is checked: it remembers each model's name, and fails where a value is not UTF-8.
    """
    steering = _control_headers()
    return [(name, value) for name, value in headers if name.lower().replace(b"_", b"-") not in steering]


def direct_ingress_settings(port: int) -> dict[str, str]:
    """Variables by which the one ingress replica listens at a port itself, and again when it is replaced.

    Serve has this "direct ingress" for load balancers, and no argument for it.
    """
    prefix = "RAY_SERVE_DIRECT_INGRESS_"
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        f"{prefix}MIN_HTTP_PORT": str(port),
        f"{prefix}MAX_HTTP_PORT": str(port + 1),  # exclusive
        f"{prefix}MIN_DRAINING_PERIOD_S": "0",  # there is no load balancer to notify
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # the next replica needs the port
    }


def end_serve(timeout_s: float) -> None:
    """End Serve on this cluster with all its applications. Nothing happens where Serve or Ray has ended.

    As `serve.shutdown`, which waits for at most 30 s, and whose call the controller never answers: it ends itself. Ray
    would repeat the call then, and print that it failed.
    """
    import ray
    from ray.serve import context

    client, was_connected = context._check_cached_client_alive()
    if client is None and not was_connected:
        client = context._get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        client.shutdown_cached_handles()
        with suppress(ray.exceptions.RayError):  # that the controller has ended, or out of time
            ray.get(client._controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=timeout_s)
    context._disconnect()


def openai_http_exception() -> type[Exception]:
    """The exception that `OpenAiIngress` raises for an error of the engine; `ray.serve.llm` does not export it."""
    from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException

    exception: type[Exception] = OpenAIHTTPException
    return exception


def deployment_handles(ingress: Any) -> dict[str, Any]:
    """The handles of an `OpenAiIngress` by model. It keeps them for itself, and health checks need them."""
    handles: dict[str, Any] = ingress._default_serve_handles
    return handles


def streaming_handle(ingress: Any, model: str) -> Any:
    """The handle that an `OpenAiIngress` streams a model's answers with; `/solve` uses the same one."""
    return ingress._get_configured_serve_handle(model)


def chat_layer(engine: Any) -> Any:
    """vLLM's chat server inside an `LLMServer`'s engine: `/solve` needs its rendered prompt, and not its JSON."""
    return engine._oai_serving_chat


def engine_client(engine: Any) -> Any:
    """vLLM's engine inside an `LLMServer`'s engine: `/solve` samples below the OpenAI layer."""
    return engine._engine_client


def listen_on_node_address() -> None:
    """Let this process's replica listen for Serve's gRPC at its node's address, which its callers use.

    Ray listens on every interface, without a setting for it. The node's address is 127.0.0.1 in a Ray that this service
    starts. To be called in the constructor of a deployment: Ray listens after it.
    """
    from ray.serve._private import replica

    replica.add_port_to_grpc_server = _add_port_at_node_address


def _add_port_at_node_address(server: Any, address: str) -> Any:
    """Add a port of Ray's address `[::]:PORT` to a gRPC server, at the node's address. Returns the port."""
    import ray.util
    from ray._common.tls_utils import add_port_to_grpc_server

    host, port = ray.util.get_node_ip_address(), address.rpartition(":")[2]
    return add_port_to_grpc_server(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def replace_http_server_start(start: Callable[..., Any]) -> None:
    """Let this process's replica start its HTTP server with `start`. Ray gives up a port that is taken (ray#60615)."""
    from ray.serve._private import replica

    replica.start_asgi_http_server = start


async def start_http_server(*arguments: Any, **options: Any) -> Any:
    """Start a replica's HTTP server, with SO_REUSEADDR on its socket. Raises RuntimeError where it cannot listen.

    Ray can set SO_REUSEPORT only, with which two services would share a port without an error.
    """
    from ray.serve._private import http_util

    http_util.set_socket_reuse_port = _reuse_address
    return await http_util.start_asgi_http_server(*arguments, **{**options, "enable_so_reuseport": True})


def _reuse_address(sock: socket.socket) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return True
