"""Run a Serve application until a signal, and end what was started: an application -> exit.

Without an address a Ray of its own is started, on loopback; with one, Serve is started on that cluster and ended
again, and the cluster stays. A cluster that runs Serve already is left alone: its HTTP address cannot be changed.
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

from serve.http import proxy_middleware

if TYPE_CHECKING:
    from ray.serve import Application


APP = "rft"
PORTS_TRIED = 100
POLL_S = 0.5
DRAIN_S = 45.0
"""What a replica that is taken away or replaced may take to finish what it has begun."""
END_TIMEOUT_S = DRAIN_S + 10
SERVE_SETTINGS = {
    proxy_middleware.VARIABLE: proxy_middleware.IMPORT_PATH,
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
}
"""Of Serve's processes. One event loop in each: every message of a stream would go through three. What a replica has
loaded before its first request is left out of garbage collection, as `vllm serve` does too."""


def listening(port: int) -> dict[str, str]:
    """Settings of Serve by which its one ingress replica listens at a port itself, and again when it is replaced."""
    prefix = "RAY_SERVE_DIRECT_INGRESS_"
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        f"{prefix}MIN_HTTP_PORT": str(port),
        f"{prefix}MAX_HTTP_PORT": str(port + 1),  # not itself
        f"{prefix}MIN_DRAINING_PERIOD_S": "0",  # no load balancer is to learn of it
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # the next one needs the port
    }


class StartError(RuntimeError):
    """The service did not start. One line: why, and what to do."""


def run_until_stopped(
    build: Callable[[], Application],
    *,
    host: str,
    port: int,
    address: str | None,
    verbose: bool,
    ready: Callable[[str], None],
    alone: bool = False,
) -> None:
    """Serve `build()` at host:port, call `ready(url)` once it answers, and return after SIGTERM or SIGINT.

    `alone`: its one replica listens there itself, without Serve's proxy. Raises StartError.
    """
    check_port(host, port)
    try:
        _end_by_signals()
        with _ray(address, verbose, listening(port) if alone else {}), _serve(host, 0 if alone else port):
            _end_by_signals()  # Ray has put handlers of its own
            _deploy(build())
            ready(f"http://{_bracketed(host)}:{port}")
            threading.Event().wait()
    except _Stopped:
        print("stopped", flush=True)


def check_port(host: str, port: int) -> None:
    """Raise StartError, naming a free port, where `port` cannot be listened on."""
    try:
        if _is_free(host, port):
            return
    except OSError as error:
        raise StartError(f"cannot listen on {host}: {error}; give an address of this machine with --host") from None
    free = next((p for p in range(port + 1, min(port + PORTS_TRIED, 65536)) if _is_free(host, p)), None)
    hint = f"port {free} is free: --port {free}" if free else "choose another with --port"
    raise StartError(f"port {port} on {host} is taken or not allowed; {hint}")


def _is_free(host: str, port: int) -> bool:
    """Raises OSError where the host is no address of this machine."""
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
    """A signal asks this process to end."""


def _end_by_signals() -> None:
    """Turn the first SIGTERM or SIGINT into _Stopped, and ignore those that come while things are being ended."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


@contextmanager
def _ray(address: str | None, verbose: bool, settings: dict[str, str]) -> Iterator[None]:
    """A Ray of this process's own, or a connection to one that runs."""
    if address is None:
        root = str(Path(__file__).resolve().parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray listens on the machine's outward address
        os.environ["RAY_AUTH_MODE"] = "token"  # each replica has a gRPC port on every interface that unpickles
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # who asks may be on the same cores: Ray's own is 15
    import ray

    options: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    options["runtime_env"] = {"env_vars": SERVE_SETTINGS | settings}
    try:
        ray.init(**options, log_to_driver=verbose, logging_level=logging.INFO if verbose else logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"connect to Ray at {address}" if address else "start Ray"
        raise StartError(f"cannot {where}: {_last_line(str(error))}") from None
    if not verbose:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # of this process: the engines' own logs stay as they are
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _serve(host: str, port: int) -> Iterator[None]:
    """Serve, with an HTTP proxy on the head node; ended with every application on it."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    running = serve.status()
    if running.proxies or running.applications:
        names = ", ".join(running.applications) or "none"
        raise StartError(
            f"Ray Serve runs on this cluster already (applications: {names}): leave --address out, or deploy "
            "serve.app:build into it with `serve deploy`"
        )
    try:
        # port 0: without a proxy Serve has no replica listen either, so there is one, at a port that nobody asks
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        yield
    finally:
        ending = threading.Thread(target=serve.shutdown, daemon=True)
        ending.start()  # not waited for without end: Ray itself may have got the signal, and be gone
        ending.join(END_TIMEOUT_S)


def _deploy(application: Application) -> None:
    """Deploy, and wait until every engine has answered. What it waits for is printed once."""
    from ray import serve

    target = serve.RunTarget(application, name=APP, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    told: set[str] = set()
    while (state := serve.status().applications[APP]).status != "RUNNING":
        messages = [deployment.message for deployment in state.deployments.values() if deployment.message]
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise StartError(f"an engine did not start: {_last_line(messages[-1] if messages else state.message)}")
        for message in messages:
            reason = message.partition(" This may ")[0]
            if "scheduled" in reason and reason not in told:
                told.add(reason)
                print(f"waiting: {_last_line(message)}", flush=True)
        time.sleep(POLL_S)


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
