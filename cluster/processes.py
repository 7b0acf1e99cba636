"""Find and end the processes that this project started, and no others (Linux).

A process is identified by its pid *and* its start time, so a pid that the kernel has reused is never signalled.
Descendants that left the process tree are found by a variable in their environment. Standard library only.
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
    """The kernel's id of this boot. Pids and start times of another boot are not valid."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Process | None:
    """The running process with this pid; None if there is none or it is a zombie."""
    fields = _stat(pid)
    return Process(pid, int(fields[19])) if fields and fields[0] != "Z" else None


def alive(process: Process) -> bool:
    """Whether this process runs, and not another process with the same pid."""
    return identify(process.pid) == process


def family(leader: Process | None, mark: str) -> list[Process]:
    """All processes of the leader's session, and all processes with `MARK=mark` in their environment.

    The session is ignored when another process has the leader's pid: the kernel does not reuse a pid that is still the
    id of a session, so the leader's session has ended.
    """
    reused = leader is not None and identify(leader.pid) not in (leader, None)
    wanted = f"{MARK}={mark}".encode()
    members = []
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        fields = _stat(pid)
        if not fields or fields[0] == "Z" or pid == os.getpid():
            continue
        ours = leader is not None and not reused and int(fields[3]) == leader.pid
        if ours or wanted in _environment(pid):
            members.append(Process(pid, int(fields[19])))
    return members


def end(processes: Iterable[Process], grace_s: float) -> list[Process]:
    """Send SIGTERM, wait at most `grace_s` seconds, then send SIGKILL. Returns the processes that were killed."""
    running = _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while running and time.monotonic() < deadline:
        time.sleep(0.05)
        running = [process for process in running if alive(process)]
    killed = _signal(running, signal.SIGKILL)
    for process in killed:
        while alive(process):
            time.sleep(0.01)
    return killed


def free_port(preferred: int = 0) -> int:
    """`preferred` if it is free on loopback, otherwise a port that the kernel chooses. Raises OSError without any."""
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
    """Signal the processes that run, ignoring those that end meanwhile. Returns the signalled ones."""
    signalled = []
    for process in processes:
        try:
            if alive(process):
                os.kill(process.pid, number)
                signalled.append(process)
        except ProcessLookupError:
            continue
    return signalled


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat after the command (0 state, 3 session, 19 start time); [] if there is no such process.

    The command may contain spaces and brackets, so everything up to the last closing bracket is skipped.
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
