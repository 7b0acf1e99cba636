"""The lock of a run: any number of jobs hold it together, a repair holds it alone.

A repair voids files, so no job may read or commit files meanwhile. In: a store. Out: create-only records
`present/<name>.began.json` and `present/<name>.ended.json`. A process first writes its own record and then reads the
others, so of a job and a repair that begin together at least one sees the other. A killed process leaves its `began`
record without an `ended` one. On the same machine, process id and start time show that it has ended; a record of
another machine counts until a repair is run with `others_ended`.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psutil

from rft_ray.store.base import Store, StoreError

FOLDER = "present/"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Kind = Literal["job", "repair"]


class RunLocked(StoreError):
    """Another process holds the lock of the run; the message names the process and what to do."""


@contextmanager
def run_lock(store: Store, kind: Kind, *, others_ended: bool = False) -> Iterator[None]:
    """Hold the lock of a run for the duration of the block. Raises RunLocked where a repair and any other holder meet.

    `others_ended`: the caller states that no other process works on the run; all other holders are recorded as ended.
    """
    name = f"{kind}-{uuid.uuid4().hex}"
    store.create(f"{FOLDER}{name}.began.json", json.dumps({"kind": kind, **_this_process()}).encode())
    try:
        for holder in _other_holders(store, name):
            if others_ended:
                store.create(f"{FOLDER}{holder['name']}.ended.json", b"{}")
            elif "repair" in (kind, holder["kind"]):
                raise RunLocked(_message(store, kind, holder))
        yield
    finally:
        with suppress(StoreError):  # the work itself is committed: an error here must not hide that
            store.create(f"{FOLDER}{name}.ended.json", b"{}")


def _message(store: Store, kind: Kind, holder: dict[str, str]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(holder["at_unix"])))
    return (
        f"{store.url} is locked: a {holder['kind']} has been running on it since {since} UTC (process "
        f"{holder['pid']} on {holder['host'].split()[0]}): wait until it ends; if it was killed and nothing else runs, "
        + ("add --no-job-runs" if kind == "repair" else "run verify --repair --no-job-runs first")
    )


def _other_holders(store: Store, name: str) -> list[dict[str, str]]:
    """Records, other than `name`, that have begun, have not ended, and whose process may be alive."""
    keys = [key.removeprefix(FOLDER) for key in store.list(FOLDER)]
    ended = {key.partition(".")[0] for key in keys if ".ended." in key}
    others = sorted({key.partition(".")[0] for key in keys} - ended - {name})
    holders = [json.loads(store.read(f"{FOLDER}{other}.began.json")) | {"name": other} for other in others]
    return [holder for holder in holders if not _has_ended(holder)]


def _this_process() -> dict[str, str]:
    pid = os.getpid()
    return {"host": _host(), "pid": str(pid), "started": _started(pid), "at_unix": f"{time.time():.3f}"}


def _has_ended(holder: dict[str, str]) -> bool:
    """Whether the holder is a process of this machine, and of this process's PID namespace, that has ended."""
    return holder["host"] == _host() and _started(int(holder["pid"])) != holder["started"]


def _host() -> str:
    """Host name, boot id and PID namespace: a process id identifies a process only within all three."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot (field 22 of /proc/<pid>/stat); empty where there is none.

    A process id is used again after its process has ended; the pair of id and start time is not. psutil adds the boot
    time, which moves when the clock is set, so it is subtracted again: stored records hold ticks since boot.
    """
    try:
        since_boot_s = psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.Error:
        return ""
    return str(round(since_boot_s * TICKS_PER_S))
