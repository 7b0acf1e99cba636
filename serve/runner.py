"""Runs a Serve application until a signal, and then ends what it started.

Without an address it starts a Ray of its own on loopback. With one it starts Serve on that cluster, and ends Serve but
not the cluster. A cluster that already runs Serve is refused, because Serve's HTTP address cannot be changed.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rft_ray.config.errors import RunError
from rft_ray.runtime.gpus import ray_options
from rft_ray.runtime.ray_private import KEEP_LOOPBACK, WORKER_NICENESS, temp_folder
from serve import ray_private
from serve.http import listening, proxy_middleware

if TYPE_CHECKING:
    from ray.serve import Application


APP = "rft"
PORTS_TRIED = 100
POLL_S = 0.5
DRAIN_S = 45.0
"""Time of a removed or replaced replica to finish its requests."""
READY_S = 60.0
"""Time of a service whose engines run to answer over HTTP."""
INGRESS = "ingress"
"""The name of the ingress's deployment."""
ENGINE_PREFIX = "model:"
"""Of the names of deployments with an engine; the model's name follows."""
END_TIMEOUT_S = DRAIN_S + 10
SERVE_SETTINGS = {proxy_middleware.VARIABLE: proxy_middleware.IMPORT_PATH} | ray_private.SINGLE_LOOP
"""Variables of Serve's processes."""


class StartError(RunError, RuntimeError):
    """Raised where the service does not start. The message is one line: the reason, and what to do."""


def run_until_stopped(
    build: Callable[[], Application],
    *,
    host: str,
    port: int,
    address: str | None,
    verbose: bool,
    ready: Callable[[str], None],
    single_model: str | None = None,
) -> None:
    """Serve `build()` at host:port, call `ready(url)` once it answers, and return after SIGTERM or SIGINT.

    Prints a line for each engine that comes up, and then the addresses that the service listens at. `single_model`: the
    model of a single replica that listens at the port itself, without Serve's proxy. Raises StartError.
    """
    check_port(host, port)
    began = time.monotonic()
    try:
        _stop_on_signals()
        with _ray(address, verbose, ray_private.direct_ingress_settings(port) if single_model else {}):
            _stop_on_signals()  # Ray has replaced the handlers
            _refuse_running_serve()
            application = build()  # before Serve's proxy starts, which has no route until the application is deployed
            # the proxy of a single replica is not used: it listens on loopback, at any port. Without one Serve starts
            # no HTTP server in a replica either
            with _serve("127.0.0.1" if single_model else host, 0 if single_model else port):
                _stop_on_signals()
                _deploy(application, single_model, began)
                _await_ready(host, port)
                print(listening.describe(listening.listeners(port, joined=address is not None)), flush=True)
                ready(f"http://{_bracketed(host)}:{port}")
                threading.Event().wait()
    except _Stopped:
        print("stopped", flush=True)


def check_port(host: str, port: int) -> None:
    """Raises StartError, which names a free port, where a server cannot listen at `port`."""
    try:
        if _is_free(host, port):
            return
    except OSError as error:
        raise StartError(f"cannot listen on {host}: {error}; give --host an address of this machine") from None
    free = next((p for p in range(port + 1, min(port + PORTS_TRIED, 65536)) if _is_free(host, p)), None)
    hint = f"port {free} is free: --port {free}" if free else "choose another with --port"
    raise StartError(f"port {port} on {host} is in use or not allowed; {hint}")


def _is_free(host: str, port: int) -> bool:
    """Whether a server can listen at the port. Raises OSError where the host is not an address of this machine."""
    if not 0 < port < 65536:
        return False
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
            probe.listen(1)
        except OSError as error:
            if isinstance(error, PermissionError) or error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


class _Stopped(BaseException):
    """Raised in the main thread by SIGTERM or SIGINT."""


def _stop_on_signals() -> None:
    """Raise _Stopped at the first SIGTERM or SIGINT, and ignore later ones while the service ends."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


@contextmanager
def _ray(address: str | None, verbose: bool, settings: dict[str, str]) -> Iterator[None]:
    """A Ray of this process, or a connection to a running one."""
    if address is None:
        root = str(Path(__file__).resolve().parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        os.environ[KEEP_LOOPBACK] = "0"
        os.environ["RAY_AUTH_MODE"] = "token"  # each replica unpickles what arrives at its gRPC port on every interface
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(WORKER_NICENESS, "0")  # clients may use the same cores; Ray's own niceness is 15
    import ray

    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"address": "local", "include_dashboard": False, **ray_options(), **temp_folder()}
    options["runtime_env"] = {"env_vars": SERVE_SETTINGS | settings}
    try:
        ray.init(**options, log_to_driver=verbose, logging_level=logging.INFO if verbose else logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"connect to Ray at {address}" if address else "start Ray"
        raise StartError(f"cannot {where}: {_last_line(str(error))}") from None
    if not verbose:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # in this process only: the engines' logs are unchanged
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_running_serve() -> None:
    """Raises StartError where the cluster runs Serve."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # not earlier: the import sets it
    running = serve.status()
    if running.proxies or running.applications:
        names = ", ".join(running.applications) or "none"
        raise StartError(
            f"this cluster already runs Ray Serve (applications: {names}): omit --address, or deploy "
            "serve.app:build into it with `serve deploy`"
        )


@contextmanager
def _serve(host: str, port: int) -> Iterator[None]:
    """Serve with an HTTP proxy on the head node; ended with all its applications."""
    from ray import serve

    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        yield
    finally:
        ending = threading.Thread(target=ray_private.end_serve, args=(END_TIMEOUT_S,), daemon=True)
        ending.start()  # in a thread with a time limit: Ray may have got the signal too, and have ended
        ending.join(END_TIMEOUT_S)


class EngineProgress:
    """Prints a line for each engine that comes up. An engine counts as up once it has answered a first request.

    Example: EngineProgress(None, time.monotonic()).print_new({"model:tiny-m-rft": {"RUNNING": 1}})
    """

    def __init__(self, single_model: str | None, began: float) -> None:
        self._single_model, self._began = single_model, began
        self._up = Counter[str]()

    def print_new(self, replicas: Mapping[str, Mapping[str, int]]) -> None:
        """Print the engines that have come up since the last call. `replicas`: numbers by deployment and state."""
        for deployment, states in replicas.items():
            model = self._model(deployment)
            running = states.get("RUNNING", 0) if model else 0
            for _ in range(running - self._up[deployment]):
                print(f"engine of {model}: up after {time.monotonic() - self._began:.0f} s", flush=True)
            self._up[deployment] = max(running, self._up[deployment])

    def _model(self, deployment: str) -> str:
        """The model of a deployment's engines; empty where it has none."""
        if self._single_model:
            return self._single_model if deployment == INGRESS else ""
        return deployment.removeprefix(ENGINE_PREFIX) if deployment.startswith(ENGINE_PREFIX) else ""


def _deploy(application: Application, single_model: str | None = None, began: float | None = None) -> None:
    """Deploy, and wait until all engines answer. Prints once what it waits for. Raises StartError."""
    from ray import serve

    progress = EngineProgress(single_model, time.monotonic() if began is None else began)
    target = serve.RunTarget(application, name=APP, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    printed: set[str] = set()
    while True:
        state = serve.status().applications[APP]
        progress.print_new({name: deployment.replica_states for name, deployment in state.deployments.items()})
        if state.status == "RUNNING":
            return
        messages = [deployment.message for deployment in state.deployments.values() if deployment.message]
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise StartError(f"an engine did not start: {_last_line(messages[-1] if messages else state.message)}")
        for message in messages:
            reason = message.partition(" This may ")[0]
            if "scheduled" in reason and reason not in printed:
                printed.add(reason)
                print(f"waiting: {_last_line(message)}", flush=True)
        time.sleep(POLL_S)


def _await_ready(host: str, port: int) -> None:
    """Wait until `/readyz` answers 200. Raises StartError after `READY_S`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url, deadline = f"http://{_bracketed(name)}:{port}/readyz", time.monotonic() + READY_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment
    while True:
        try:
            with opener.open(url, timeout=READY_S):
                return
        except OSError as error:  # a status other than 200, or no connection
            if time.monotonic() > deadline:
                raise StartError(f"the engines run, but {url} does not answer: {error}") from None
        time.sleep(POLL_S)


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
