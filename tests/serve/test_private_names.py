"""Contracts with Ray, vLLM and uvicorn: each private name that the service uses exists, or the test names it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import ray.serve
import uvicorn
import vllm
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve import ray_private, uvicorn_private, vllm_private
from serve.api import openai_bounds


def attributes(listed: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(owner, name) for owner, names in listed.items() for name in names]


def sources(owner: str) -> str:
    """The source of a class `module:name` and of its bases."""
    module, name = owner.split(":")
    kinds = inspect.getmro(getattr(importlib.import_module(module), name))
    return "".join(inspect.getsource(kind) for kind in kinds if kind.__module__.split(".")[0] in ("ray", "vllm"))


@pytest.mark.parametrize(
    ("owner", "name"), attributes(ray_private.ATTRIBUTES) + attributes(vllm_private.ATTRIBUTES), ids=str
)
def test_the_attributes_of_ray_and_vllm_exist(owner: str, name: str) -> None:
    assert re.search(rf"(self\.|def ){name}\b", sources(owner)), f"{owner} has no {name}"


def test_the_functions_of_ray_exist() -> None:
    from ray._common import tls_utils
    from ray.serve._private import http_util, replica

    assert "start_asgi_http_server(" in inspect.getsource(replica)
    assert "set_socket_reuse_port(" in inspect.getsource(http_util.start_asgi_http_server)
    assert "enable_so_reuseport" in inspect.signature(http_util.start_asgi_http_server).parameters
    assert replica.start_asgi_http_server
    assert 'add_port_to_grpc_server(self._server, "[::]:0")' in inspect.getsource(replica)
    functions = (
        tls_utils.add_port_to_grpc_server,
        ray_private._add_port_at_node_address,
    )  # an earlier test replaced it
    assert replica.add_port_to_grpc_server in functions
    assert "ray.util.get_node_ip_address()" in inspect.getsource(replica)  # the address that callers use
    assert {"message", "status_code"} <= set(inspect.signature(ray_private.openai_http_exception()).parameters)


def test_what_the_end_of_serve_uses_exists() -> None:
    from ray.serve import context
    from ray.serve._private.client import ServeControllerClient

    shutdown = inspect.getsource(ServeControllerClient.shutdown)
    assert "self.shutdown_cached_handles()" in shutdown
    assert "self._controller.graceful_shutdown.remote()" in shutdown
    assert "raise_if_no_controller_running" in inspect.signature(context._get_global_client).parameters
    assert context._check_cached_client_alive() == (None, False)
    context._disconnect()


def test_the_headers_by_which_a_client_would_steer_serve_are_those_that_it_reads() -> None:
    """Each function of Serve that reads a header of its own, and the one that is kept."""
    from ray.serve._private import http_util, proxy

    names = {header.decode() for header in ray_private._control_headers()}
    assert names == {
        "serve-multiplexed-model-id",
        "x-session-id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
    }
    reads = inspect.getsource(http_util) + inspect.getsource(proxy)
    constants = set(re.findall(r"SERVE_\w*(?:HEADER|MODEL_ID|SESSION_ID)\b", reads))
    assert constants == {
        "SERVE_MULTIPLEXED_MODEL_ID",
        "SERVE_SESSION_ID",
        "SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER",
        "SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER",
        "SERVE_HTTP_REQUEST_ID_HEADER",
    }


@pytest.mark.parametrize(
    "variable",
    [ray_private.PROXY_CALLBACK, *ray_private.SINGLE_LOOP, *ray_private.direct_ingress_settings(1)],
)
def test_ray_serve_reads_each_variable(variable: str) -> None:
    constants = Path(str(ray.serve.__file__)).parent / "_private" / "constants.py"
    assert f'"{variable}"' in constants.read_text()


def test_the_parameters_of_vllms_token_limit_are_those_that_are_passed() -> None:
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

    assert len(inspect.signature(get_max_tokens).parameters) >= 5
    assert vllm.envs.VLLM_MAX_STOP_STRINGS == openai_bounds.MAX_STOPS
    assert "include_usage" in vllm_private.StreamOptions.model_fields
    for module in ("vllm.renderers.params", "vllm.entrypoints.serve.utils.api_utils"):
        source = re.sub(r'"\s+f?"', "", inspect.getsource(importlib.import_module(module)))
        assert vllm_private.CONTEXT_LENGTH in source
    assert issubclass(vllm_private.EngineDeadError, Exception)
    serving: Any = importlib.import_module("vllm.entrypoints.generate.base.serving").GenerateBaseServing
    event = f"data: {serving.create_streaming_error_response(serving, vllm_private.EngineDeadError())}"
    assert event.startswith(vllm_private.ERROR_EVENT)
    assert issubclass(vllm_private.VLLMClientError, Exception)


@pytest.mark.parametrize("name", uvicorn_private.PROTOCOL_MEMBERS)
def test_the_members_of_uvicorns_protocol_exist(name: str) -> None:
    assert re.search(rf"(self\.|def ){name}\b", inspect.getsource(HttpToolsProtocol)), f"HttpToolsProtocol: no {name}"
    assert "auto" in config.HTTP_PROTOCOLS


def test_the_versions_are_those_that_were_read() -> None:
    assert ray.__version__.startswith(f"{ray_private.VERSION}.")
    assert vllm.__version__.startswith(f"{vllm_private.VERSION}.")
    assert uvicorn.__version__.startswith(f"{uvicorn_private.VERSION}.")
