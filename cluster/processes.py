"""Processes that this project started, told apart from everything else on the machine (Linux).

A process is known by its pid *and* its start time, so a pid that the kernel has given to somebody else
is never signalled. Descendants that left the process tree are found by a mark in their environment.
Standard library only.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "RFT_RAY_CLUSTER"
"""Environment variable that every process of one local cluster inherits; its value is the cluster's id."""
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this boot.

    Example: Process(pid=4711, started=183724) for a process started 1837.24 s after boot.
    """

    pid: int
    started: int
    """Clock ticks after boot."""


def boot_id() -> str:
    """Changes at every boot: pids and start times recorded under another one mean nothing."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Process | None:
    """The running process with this pid; None where there is none, or only a zombie."""
    fields = _stat(pid)
    return Process(pid, int(fields[19])) if fields and fields[0] != "Z" else None


def alive(process: Process) -> bool:
    """Whether this very process runs, not another one that got its pid."""
    return identify(process.pid) == process


def family(leader: Process | None, mark: str) -> list[Process]:
    """Every process of the leader's session, and every one that carries `MARK=mark` in its environment.

    The session of a dead leader is trusted only while no other process has its pid: the kernel gives out no
    pid that is still a session's id.
    """
    taken = leader is not None and identify(leader.pid) not in (leader, None)
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        fields = _stat(pid)
        if not fields or fields[0] == "Z" or pid == os.getpid():
            continue
        ours = leader is not None and not taken and int(fields[3]) == leader.pid
        if ours or wanted in _environment(pid):
            found.append(Process(pid, int(fields[19])))
    return found


def end(processes: Iterable[Process], grace_s: float) -> list[Process]:
    """SIGTERM, at most `grace_s` seconds to go, SIGKILL. Returns those that had to be killed."""
    left = _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if alive(process)]
    killed = _signal(left, signal.SIGKILL)
    for process in killed:
        while alive(process):
            time.sleep(0.01)
    return killed


def free_port(preferred: int = 0) -> int:
    """`preferred` where nothing listens on it, else a port that the kernel chooses. Loopback."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def _signal(processes: Iterable[Process], number: signal.Signals) -> list[Process]:
    """Signal those that run; a process that ends meanwhile is none of our business."""
    reached = []
    for process in processes:
        try:
            if alive(process):
                os.kill(process.pid, number)
                reached.append(process)
        except ProcessLookupError:
            continue
    return reached


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on (0 state, 3 session, 19 start time); [] where it is gone.

    The second field, the command, may hold spaces and brackets: everything up to the last one is skipped.
    """
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return []


def _environment(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
