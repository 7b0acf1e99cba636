"""Who is at work on a run: so that no file is voided while a job reads it, nor a job begun while files are voided.

In: a store. Out: create-only records `present/<name>.began.json` and `.ended.json`. Any number of jobs may work on
a run at once; a repair wants to be alone. Each puts itself on record first and looks for others afterwards, so that of
a job and a repair that begin together at least one sees the other. A process that was killed leaves its `began`: one of
this machine is looked up, any other counts as present until somebody says that no job runs.
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

from rft_ray.store.base import Store, StoreError

FOLDER = "present/"
Kind = Literal["job", "repair"]


class Busy(StoreError):
    """Somebody else is at work on the run; the message says who and what to do."""


@contextmanager
def announced(store: Store, kind: Kind, *, alone: bool = False) -> Iterator[None]:
    """Be on record within it. `alone`: the caller knows that no other is at work. Raises Busy."""
    name = f"{kind}-{uuid.uuid4().hex}"
    store.create(f"{FOLDER}{name}.began.json", json.dumps({"kind": kind, **_me()}).encode())
    try:
        for who in _others(store, name):
            if alone:
                store.create(f"{FOLDER}{who['name']}.ended.json", b"{}")
                continue
            if "repair" not in (kind, who["kind"]):
                continue
            raise Busy(_told(store, kind, who))
        yield
    finally:
        with suppress(StoreError):  # what it did is done
            store.create(f"{FOLDER}{name}.ended.json", b"{}")


def _told(store: Store, kind: Kind, who: dict[str, str]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(who["at_unix"])))
    return (
        f"{store.url}: a {who['kind']} has been at work on this run since {since} UTC (process {who['pid']} on "
        f"{who['host'].split()[0]}): wait until it has ended; if it was killed, and nothing else runs, "
        + ("add --no-job-runs" if kind == "repair" else "finish it: verify --repair --no-job-runs")
    )


def _others(store: Store, name: str) -> list[dict[str, str]]:
    """Who has begun, not ended, and may be alive."""
    keys = [key.removeprefix(FOLDER) for key in store.list(FOLDER)]
    began = {key.partition(".")[0] for key in keys} - {key.partition(".")[0] for key in keys if ".ended." in key}
    found = [json.loads(store.read(f"{FOLDER}{one}.began.json")) | {"name": one} for one in sorted(began - {name})]
    return [who for who in found if not _is_gone(who)]


def _me() -> dict[str, str]:
    pid = os.getpid()
    return {"host": _host(), "pid": str(pid), "started": _started(pid), "at_unix": f"{time.time():.3f}"}


def _is_gone(who: dict[str, str]) -> bool:
    """Whether it was a process of this machine, as this process sees it, that has ended."""
    return who["host"] == _host() and _started(int(who["pid"])) != who["started"]


def _host() -> str:
    """This machine since it was started, and the process namespace, in which process ids mean something."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none: ids are used again, these are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
