"""The list of the addresses that the service listens at: complete, named, and with those beyond loopback marked."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serve.http import listening
from serve.http.listening import GUARDED, Listener

LISTEN = """
import socket, sys
sockets = [socket.create_server((host, 0)) for host in ("127.0.0.1", "0.0.0.0")]
print(*(each.getsockname()[1] for each in sockets), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Two ports of a process that this one started: on loopback, and on every interface."""
    command = [sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        local, exposed = map(int, process.stdout.readline().split())
        yield local, exposed
        process.communicate()


def test_the_sockets_of_started_processes_are_listed_and_those_beyond_loopback_marked(ports: tuple[int, int]) -> None:
    local, exposed = ports
    with socket.create_server(("127.0.0.1", 0)) as own:
        listed = {listener.port: listener for listener in listening.listeners(local, joined=False)}
        assert own.getsockname()[1] in listed
    assert (listed[local].host, listed[local].purpose) == ("127.0.0.1", "HTTP: the service")
    assert not listed[local].beyond_loopback
    assert (listed[exposed].host, listed[exposed].beyond_loopback) == ("0.0.0.0", True)


def test_a_line_an_address_of_use_one_for_the_others_and_what_guards_those_beyond_loopback() -> None:
    service, engine = Listener("127.0.0.1", 8000, "HTTP: the service"), Listener("::1", 9, "vLLM's engine")
    assert listening.describe([service]).splitlines() == ["listening:", "  127.0.0.1:8000         HTTP: the service"]
    loopback = [service, engine]
    assert listening.describe(loopback).splitlines()[2:] == ["  1 port of Ray, Serve and vLLM on loopback"]
    replica = Listener("10.1.2.3", 7, "gRPC of Ray and Serve: replica of limits")
    lines = listening.describe([*loopback, Listener("127.0.0.1", 11, "Ray: gcs_server"), replica]).splitlines()
    assert lines[1].endswith("replica of limits (reachable from other machines)")
    assert lines[2:] == [
        "  127.0.0.1:8000         HTTP: the service",
        "  2 ports of Ray, Serve and vLLM on loopback",
        GUARDED,
    ]
