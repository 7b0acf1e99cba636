"""The lock of a run: any number of jobs hold it together, a repair or a prune holds it alone.

A repair voids files and a prune deletes them, so no job may read or commit files meanwhile. In: a store. Out: records
`present/<name>.began.json` and `present/<name>.ended.json`, written once, and a lease `present/<name>.lease.json` that
the holder renews. A process first writes its own record and then reads the others, so of two that begin together at
least one sees the other.

A killed process leaves its `began` record without an `ended` one. It counts as ended where this machine shows that its
process id belongs to no process or to another one, or where its lease is not renewed within `LEASE_S` of waiting. Each
waiting process measures that time with its own clock, so the clocks of machines need not agree. Records of earlier
versions have no lease: those of another machine count until `others_ended`.

A holder that was recorded as ended and lives (it was suspended, or cut off from the store for longer than its lease)
sees it at its next renewal. It records itself anew, under another name, so that later repairs and prunes see it; where
one excludes it meanwhile, its block ends with RunLocked.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal

from rft_ray.store.base import NotFound, Store, StoreError
from rft_ray.store.processes import has_ended, machine, started

FOLDER = "present/"
RENEW_S, RETRY_S = 15.0, 3.0
"""Time from a renewal to the next, and from one that failed to the next try."""
LEASE_S = 60.0
"""Time without a renewal after which a holder counts as ended: a holder misses three renewals before."""
POLL_S = 1.0
Kind = Literal["job", "repair", "prune"]


class RunLocked(StoreError):
    """Another process holds the lock of the run; the message names the process and what to do."""


@dataclass(frozen=True)
class Holder:
    """The `began` record of a process that holds the lock.

    Example: Holder("job-5f0c", "job", "node-1 8d41… pid:[4026531836]", "4711", "812345", "1764412345.250", True)
    """

    name: str
    kind: str
    host: str
    """Host name, boot id and PID namespace."""
    pid: str
    started: str
    """Start of the process, in clock ticks since boot."""
    at_unix: str
    leased: bool = False
    """Whether it renews a lease; a holder of an earlier version does not."""


@contextmanager
def run_lock(store: Store, kind: Kind, *, others_ended: bool = False) -> Iterator[None]:
    """Hold the lock of a run for the duration of the block. Raises RunLocked where another holder excludes this one.

    `others_ended`: the caller states that no other process works on the run. Holders that are seen to work exclude all
    the same; the others are recorded as ended.
    """
    presence = _Presence(store, kind)
    ended = threading.Event()
    renewing = threading.Thread(target=presence.renew, args=(ended,), name="run lock", daemon=True)
    renewing.start()
    try:
        _exclude(store, kind, presence.name, others_ended)
        yield
    except KeyboardInterrupt:
        if presence.excluded:
            raise presence.excluded from None
        raise
    finally:
        ended.set()
        renewing.join()
        with suppress(StoreError):  # the work itself is committed: an error here must not hide that
            store.create(f"{FOLDER}{presence.name}.ended.json", b"{}")
    if presence.excluded:
        raise presence.excluded


class _Presence:
    """The records of a holder, under the name that it has at the time."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store, self._kind = store, kind
        self._works_in_main = threading.current_thread() is threading.main_thread()
        self.excluded: RunLocked | None = None
        """Why the holder must end, once it was taken for dead and another one excludes it."""
        self._unchecked = False
        """Whether it has a new name and has not looked yet for others that exclude it."""
        self.name = self._begin(store)

    def renew(self, ended: threading.Event) -> None:
        """Renew the lease until the holder ends. What excludes it meanwhile interrupts the main thread, as Ctrl-C does.

        A holder in another thread, or a process that ignores SIGINT, learns of it at the end of its block.
        """
        store = self._store.hurried()
        renewals, wait_s = 0, RENEW_S
        while not ended.wait(wait_s):
            renewals, wait_s = renewals + 1, RETRY_S
            try:
                store.replace(f"{FOLDER}{self.name}.lease.json", json.dumps({"renewals": renewals}).encode())
                if self._unchecked or store.exists(f"{FOLDER}{self.name}.ended.json"):
                    self._begin_again(store)
            except RunLocked as error:
                self.excluded = error
                if self._works_in_main and not ended.is_set():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            except StoreError:
                continue  # a later try may succeed, within LEASE_S
            wait_s = RENEW_S

    def _begin(self, store: Store) -> str:
        name = f"{self._kind}-{uuid.uuid4().hex}"
        store.create(f"{FOLDER}{name}.began.json", _record(_this_process(name, self._kind)))
        return name

    def _begin_again(self, store: Store) -> None:
        """Raises RunLocked where another holder, which may not see this one, excludes it."""
        if not self._unchecked:
            self.name, self._unchecked = self._begin(store), True
        others = [holder for holder in _holders(store) if holder.name != self.name and not _is_gone(holder)]
        self._unchecked = False
        for holder in others:
            if self._kind != "job" or holder.kind != "job":
                locked = _message(store, self._kind, holder)
                raise RunLocked(f"this {self._kind} was taken for dead, its lease not renewed for a minute: {locked}")


def _exclude(store: Store, kind: Kind, name: str, others_ended: bool) -> None:
    """Raise RunLocked where a holder excludes this one. Record the holders that have ended without saying so."""
    others = [holder for holder in _holders(store) if holder.name != name and not _is_gone(holder)]
    rivals = [holder for holder in others if others_ended or kind != "job" or holder.kind != "job"]
    for holder in rivals:
        if _is_this_machines(holder) and started(int(holder.pid)):
            raise RunLocked(_message(store, kind, holder))
    leased = [holder for holder in rivals if holder.leased]
    if renewed := _first_renewed(store, leased):
        raise RunLocked(_message(store, kind, renewed))
    if not others_ended and len(leased) < len(rivals):
        raise RunLocked(_message(store, kind, next(holder for holder in rivals if not holder.leased)))
    for holder in rivals:
        store.create(f"{FOLDER}{holder.name}.ended.json", b"{}")


def _first_renewed(store: Store, holders: Sequence[Holder]) -> Holder | None:
    """The first of the holders that renews its lease or ends within LEASE_S; None where none does."""
    if not holders:
        return None
    names = ", ".join(f"process {holder.pid} on {holder.host.split()[0]}" for holder in holders)
    print(f"waiting {LEASE_S:.0f} s to see whether {names} still works on {store.url}", flush=True)
    before = {holder: _lease(store, holder) for holder in holders}
    deadline = time.monotonic() + LEASE_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        for holder in holders:
            if _lease(store, holder) != before[holder]:
                return holder
    return None


def _lease(store: Store, holder: Holder) -> bytes:
    with suppress(NotFound):
        return store.read(f"{FOLDER}{holder.name}.lease.json")
    return b""


def _message(store: Store, kind: Kind, holder: Holder) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(holder.at_unix)))
    process = f"process {holder.pid} on {holder.host.split()[0]}"
    if not holder.host.strip("?"):
        process = f"unknown: {FOLDER}{holder.name}.began.json is damaged"
    return (
        f"{store.url} is locked: a {holder.kind} has been running on it since {since} UTC ({process}): wait until it "
        "ends; if it was killed and nothing else runs, "
        + ("run verify --repair --yes --no-job-runs first" if kind == "job" else "add --no-job-runs")
    )


def _holders(store: Store) -> list[Holder]:
    """The holders that have begun and have not ended. A file that is no such record, or is damaged, names one too."""
    keys = [key.removeprefix(FOLDER) for key in store.list(FOLDER)]
    ended = {key.removesuffix(".ended.json") for key in keys if key.endswith(".ended.json")}
    began = {key.removesuffix(".began.json") for key in keys if key.endswith(".began.json")}
    return [_holder(store, name) for name in sorted(began - ended)]


def _holder(store: Store, name: str) -> Holder:
    try:
        record = json.loads(store.read(f"{FOLDER}{name}.began.json"))
        kind, host, pid, since, at_unix = (str(record[key]) for key in ("kind", "host", "pid", "started", "at_unix"))
        int(pid), float(at_unix)
        return Holder(name, kind, host or "?", pid, since, at_unix, leased="leased" in record)
    except (ValueError, KeyError, TypeError):
        return Holder(name, name.partition("-")[0], "?", "0", "", "0")


def _record(holder: Holder) -> bytes:
    return json.dumps({key: value for key, value in asdict(holder).items() if key != "name"}).encode()


def _this_process(name: str, kind: Kind) -> Holder:
    pid = os.getpid()
    return Holder(name, kind, machine(), str(pid), started(pid), f"{time.time():.3f}", leased=True)


def _is_this_machines(holder: Holder) -> bool:
    """Whether this process and the holder are on one machine, in one PID namespace."""
    return holder.host == machine()


def _is_gone(holder: Holder) -> bool:
    """Whether this machine shows that the holder has ended."""
    return has_ended(holder.host, int(holder.pid), holder.started)
