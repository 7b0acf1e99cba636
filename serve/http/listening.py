"""The addresses that the service listens at: its processes on this machine -> a line for each that others may call.

A Ray that the service starts listens on loopback, and so does everything in it but HTTP with `--host`. In a cluster
that the service joins, Serve's replicas listen at their nodes' addresses for Ray and Serve; Ray's token guards these
ports where the cluster has one (RAY_AUTH_MODE=token).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

from serve.access.guard import is_loopback

SERVE_TITLES = ("ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")
"""How Ray names the processes of Serve."""
SERVICE = "HTTP: the service"
GUARDED = "Ray's token guards the ports that are not HTTP; API keys guard HTTP."


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """One listening TCP address, and what listens there.

    Example: Listener("127.0.0.1", 8000, "HTTP: the service")
    """

    host: str
    port: int
    purpose: str

    @property
    def beyond_loopback(self) -> bool:
        return not is_loopback(self.host)

    def __str__(self) -> str:
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{address:<22} {self.purpose}" + (" (reachable from other machines)" if self.beyond_loopback else "")


def describe(listeners: Iterable[Listener]) -> str:
    """A line for each listener beyond loopback and for the service, and one for the others, which are on loopback."""
    ordered = sorted(listeners, key=lambda listener: (not listener.beyond_loopback, listener))
    shown = [listener for listener in ordered if listener.beyond_loopback or listener.purpose == SERVICE]
    lines = ["listening:", *(f"  {listener}" for listener in shown)]
    if others := len(ordered) - len(shown):
        lines.append(f"  {others} port{'s' * (others > 1)} of Ray, Serve and vLLM on loopback")
    return "\n".join([*lines, GUARDED] if any(listener.beyond_loopback for listener in shown) else lines)


def listeners(http_port: int, *, joined: bool) -> set[Listener]:
    """The listeners of this process, of all processes that it started, and where `joined` of Serve's on this node."""
    return {
        Listener(host, port, _purpose(process, port, http_port))
        for process in _processes(joined)
        for host, port in _addresses(process)
    }


def _processes(joined: bool) -> Iterator[psutil.Process]:
    own = psutil.Process()
    yield own
    yield from own.children(recursive=True)
    if joined:
        yield from (process for process in psutil.process_iter() if _title(process).startswith(SERVE_TITLES))


def _addresses(process: psutil.Process) -> list[tuple[str, int]]:
    """The addresses that a process listens at; none where it has ended or belongs to another user."""
    with suppress(psutil.Error):
        sockets = process.net_connections(kind="tcp")
        addresses = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]
        return [(address.ip.removeprefix("::ffff:"), address.port) for address in addresses]  # an IPv4 address in IPv6
    return []


def _purpose(process: psutil.Process, port: int, http_port: int) -> str:
    """What a process listens for at a port."""
    if port == http_port:
        return SERVICE
    title = _title(process)
    if title.startswith("ray::ServeReplica"):
        return f"gRPC of Ray and Serve: replica of {title.partition(':rft:')[2]}"
    if title.startswith("ray::ProxyActor"):
        return "HTTP and gRPC: Serve's proxy"
    if title.startswith("VLLM::"):
        return "vLLM's engine"
    if process.pid == psutil.Process().pid:
        return "gRPC of Ray: this process"
    return f"Ray: {title.removeprefix('ray::').rpartition('/')[2] or 'a process'}"


def _title(process: psutil.Process) -> str:
    """The first word of a process's command line, which Ray and vLLM replace by the process's title."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).split(" ")[0]
    return ""
