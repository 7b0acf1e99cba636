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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rft_ray.config.errors import RunError
from serve import ray_private
from serve.http import proxy_middleware

if TYPE_CHECKING:
    from ray.serve import Application


APP = "rft"
PORTS_TRIED = 100
POLL_S = 0.5
DRAIN_S = 45.0
"""Time of a removed or replaced replica to finish its requests."""
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
    single_process: bool = False,
) -> None:
    """Serve `build()` at host:port, call `ready(url)` once it answers, and return after SIGTERM or SIGINT.

    `single_process`: the one replica listens at the port itself, without Serve's proxy. Raises StartError.
    """
    check_port(host, port)
    try:
        _stop_on_signals()
        with (
            _ray(address, verbose, ray_private.direct_ingress_settings(port) if single_process else {}),
            _serve(host, 0 if single_process else port),
        ):
            _stop_on_signals()  # Ray has replaced the handlers
            _deploy(build())
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
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # otherwise Ray listens on the machine's external address
        os.environ["RAY_AUTH_MODE"] = "token"  # each replica unpickles what arrives at its gRPC port on every interface
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # clients may use the same cores; Ray's own niceness is 15
    import ray

    options: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
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


@contextmanager
def _serve(host: str, port: int) -> Iterator[None]:
    """Serve with an HTTP proxy on the head node; ended with all its applications."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    running = serve.status()
    if running.proxies or running.applications:
        names = ", ".join(running.applications) or "none"
        raise StartError(
            f"this cluster already runs Ray Serve (applications: {names}): omit --address, or deploy "
            "serve.app:build into it with `serve deploy`"
        )
    try:
        # port 0: without a proxy Serve starts no HTTP server in a replica either, so the proxy gets an unused port
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        yield
    finally:
        ending = threading.Thread(target=serve.shutdown, daemon=True)
        ending.start()  # in a thread with a time limit: Ray may have got the signal too, and have ended
        ending.join(END_TIMEOUT_S)


def _deploy(application: Application) -> None:
    """Deploy, and wait until all engines answer. Prints once what it waits for. Raises StartError."""
    from ray import serve

    target = serve.RunTarget(application, name=APP, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    printed: set[str] = set()
    while (state := serve.status().applications[APP]).status != "RUNNING":
        messages = [deployment.message for deployment in state.deployments.values() if deployment.message]
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise StartError(f"an engine did not start: {_last_line(messages[-1] if messages else state.message)}")
        for message in messages:
            reason = message.partition(" This may ")[0]
            if "scheduled" in reason and reason not in printed:
                printed.add(reason)
                print(f"waiting: {_last_line(message)}", flush=True)
        time.sleep(POLL_S)


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
