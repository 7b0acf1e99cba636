"""Processes as records name them, so that one which has ended is told from one which lives, or may live elsewhere.

In: what a process said of itself: its machine, its id there, and when it started. Out: whether it is certain that it
has ended. Limits: Linux; elsewhere, and of an earlier boot, no process is seen to have ended.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """Host name, boot id and PID namespace: a process id identifies a process only within all three.

    Machines may have one host name, and the first namespace has the same number on every machine.
    """
    parts = [socket.gethostname()]  # alone where the system does not tell the others
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def started(pid: int) -> str:
    """When a process started, in clock ticks since boot (field 22 of /proc/<pid>/stat); empty where there is none.

    A process id is used again after its process has ended; the pair of id and start time is not. psutil adds the boot
    time, which moves when the clock is set, so it is subtracted again: stored records hold ticks since boot.
    """
    try:
        since_boot_s = psutil.Process(pid).create_time() - psutil.boot_time()
    except (psutil.Error, ValueError, OverflowError):  # the last two: no process can have such an id
        return ""
    return str(round(since_boot_s * TICKS_PER_S))


def has_ended(place: str, pid: int, since: str) -> bool:
    """Whether this machine shows that a process has ended: its id belongs to another process, or to none.

    `place`, `since`: as its own `machine` and `started` were. Where `/proc` hides other users' processes (`hidepid`),
    the absence of one shows nothing.
    """
    if place != machine() or len(place.split()) != 3:
        return False
    now = started(pid)
    return now != since if now else _shows_all_processes()


def _shows_all_processes() -> bool:
    """Whether `/proc` shows the first process of this PID namespace, which belongs to root."""
    return os.path.isdir("/proc/1")
