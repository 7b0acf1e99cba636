"""Planned faults of a store, for tests: errors, kills and delays before or after chosen operations.

In: a plan, `N:when:kind[:extra]` separated by commas: at the N-th operation (from 1, over all stores that this process
opens), `before` or `after` it is done. Out: stores that fail as planned. The plan is set by RFT_STORE_FAULTS, which
child processes inherit, or in code:

    with faults.injected("7:after:error"):
        run()                       # the seventh operation is done, and its acknowledgement lost

Kinds: `error` (before: the operation is not done; after: its acknowledgement is lost), `kill` (SIGKILL of this
process), `stop` (SIGSTOP: the process hangs until it gets SIGCONT), `die` (an exception that no handler of the product
catches: a kill that can be repeated in one process), `pause` (the thread waits for `Injection.resume`), `slow` (each
operation from the N-th on takes `extra` milliseconds longer, so that a kill from outside falls within an operation).

On S3, `http` in place of `before` or `after` counts requests instead of operations, and `extra` requests in a row fail
(1 if not given): `503` (SlowDown), `500`, `429`, `unsent` (no connection), `lost` (the server acts, but its answer is
lost).

Limits: one plan per process; operations of several threads are counted in the order in which they begin.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from rft_ray.store.base import Store, StoreError

VARIABLE: Final = "RFT_STORE_FAULTS"
PAUSE_TIMEOUT_S = 120.0
T = TypeVar("T")


class Died(BaseException):
    """A simulated kill."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan. Example: Fault(7, "after", "error", 1)"""

    at: int
    when: str
    """`before`, `after` or `http`."""
    kind: str
    times: int = 1
    """`http`: requests that fail in a row. `slow`: milliseconds."""


@dataclass
class Injection:
    """A plan and its counts: the operations and requests begun so far, and the faults that have happened."""

    plan: tuple[Fault, ...]
    operations: int = 0
    requests: int = 0
    struck: list[Fault] = field(default_factory=list)
    paused: threading.Event = field(default_factory=threading.Event)
    _resumed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def resume(self) -> None:
        """Let a paused thread continue."""
        self._resumed.set()

    def operation(self) -> int:
        """Count an operation that begins, and return its number."""
        with self._lock:
            self.operations += 1
            return self.operations

    def strike(self, at: int, when: str, what: str) -> None:
        """Let the fault happen that the plan has for this operation, if any."""
        for fault in self.plan:
            if fault.kind == "slow" and fault.when == when and at >= fault.at:
                time.sleep(fault.times / 1000)
            elif (fault.at, fault.when) == (at, when):
                self.struck.append(fault)
                self._strike(fault, what)

    def http(self) -> Fault | None:
        """Count a request that begins, and return the fault that the plan has for it, if any."""
        with self._lock:
            self.requests += 1
            for fault in self.plan:
                if fault.when == "http" and fault.at <= self.requests < fault.at + fault.times:
                    self.struck.append(fault)
                    return fault
        return None

    def _strike(self, fault: Fault, what: str) -> None:
        if fault.kind == "error":
            raise StoreError(f"{what}: an injected error, {fault.when} operation {fault.at}")
        if fault.kind == "die":
            raise Died(f"{what}: an injected death, {fault.when} operation {fault.at}")
        if fault.kind == "pause":
            self.paused.set()
            self._resumed.wait(PAUSE_TIMEOUT_S)
        else:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[fault.kind])


def parse(text: str) -> tuple[Fault, ...]:
    """The plan that a text describes. Raises ValueError."""
    faults = []
    for part in filter(None, text.split(",")):
        at, when, kind, *times = part.split(":")
        known = HTTP if when == "http" else ("error", "die", "pause", "kill", "stop", "slow")
        if when not in ("before", "after", "http") or kind not in known or len(times) > 1:
            raise ValueError(f"bad fault {part!r}: write N:before|after:kind[:ms] or N:http:kind[:times]")
        faults.append(Fault(int(at), when, kind, *map(int, times)))
    return tuple(faults)


_current: tuple[str, Injection] | None = None


def current() -> Injection:
    """The injection of RFT_STORE_FAULTS. All stores share it, and its counts, while that value stays the same."""
    global _current
    text = os.environ.get(VARIABLE, "")
    if _current is None or _current[0] != text:
        _current = text, Injection(parse(text))
    return _current[1]


@contextmanager
def injected(text: str) -> Iterator[Injection]:
    """Stores opened in the block, in this process or its children, fail as planned; counts start at 0."""
    global _current
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE], _current = text, None
    try:
        yield current()
    finally:
        _current = None
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def wrap(store: Store) -> Store:
    """The store, made to fail as RFT_STORE_FAULTS plans; the store itself where that is not set."""
    return FaultyStore(store, current()) if VARIABLE in os.environ else store


class FaultyStore:
    """A store that fails as an injection plans, before or after each operation of the store that it wraps."""

    def __init__(self, store: Store, injection: Injection) -> None:
        self._store, self._injection = store, injection
        self.url = store.url

    def __reduce__(self) -> tuple[Callable[[Store], Store], tuple[Store]]:
        return wrap, (self._store,)

    def create(self, key: str, data: bytes) -> bool:
        return self._around(f"create {key}", lambda: self._store.create(key, data))

    def create_file(self, key: str, path: Path) -> bool:
        return self._around(f"create {key}", lambda: self._store.create_file(key, path))

    def replace(self, key: str, data: bytes) -> None:
        self._around(f"replace {key}", lambda: self._store.replace(key, data))

    def read(self, key: str) -> bytes:
        return self._around(f"read {key}", lambda: self._store.read(key))

    def fetch(self, key: str, path: Path) -> None:
        self._around(f"fetch {key}", lambda: self._store.fetch(key, path))

    def exists(self, key: str) -> bool:
        return self._around(f"exists {key}", lambda: self._store.exists(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        return iter(self._around(f"list {prefix}", lambda: [*self._store.list(prefix)]))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return iter(self._around(f"sizes {prefix}", lambda: [*self._store.sizes(prefix)]))

    def entries(self, folder: str, most: int) -> tuple[str, ...]:
        return self._around(f"entries {folder}", lambda: self._store.entries(folder, most))

    def discard(self, keys: Iterable[str]) -> None:
        self._around("discard", lambda: self._store.discard(keys))

    def remove(self, keys: Iterable[str]) -> None:
        self._around("remove", lambda: self._store.remove(keys))

    def leftovers(self, older_s: float) -> tuple[tuple[str, int], ...]:
        return self._around("leftovers", lambda: self._store.leftovers(older_s))

    def clear(self, older_s: float) -> None:
        self._around("clear", lambda: self._store.clear(older_s))

    def bind(self, run_id: str) -> None:
        self._store.bind(run_id)

    def hurried(self) -> Store:
        return FaultyStore(self._store.hurried(), self._injection)

    def local_path(self, key: str) -> Path | None:
        return self._store.local_path(key)

    def check(self) -> None:
        self._around("check", self._store.check)

    def _around(self, what: str, act: Callable[[], T]) -> T:
        at = self._injection.operation()
        self._injection.strike(at, "before", what)
        result = act()
        self._injection.strike(at, "after", what)
        return result


# --- HTTP, for S3 ---------------------------------------------------------------------------------

HTTP = ("503", "500", "429", "unsent", "lost")
_CODES = {"503": "SlowDown", "500": "InternalError", "429": "TooManyRequests"}


def hook(client: Any) -> None:
    """Make the requests of a boto3 S3 client fail as the current injection plans."""
    injection = current()
    if any(fault.when == "http" for fault in injection.plan):
        client.meta.events.register("before-send.s3", _Hook(injection))


class _Hook:
    """Answers in place of the server, or breaks the connection before or after the server has acted."""

    def __init__(self, injection: Injection) -> None:
        self._injection = injection

    def __call__(self, request: Any, **_: Any) -> Any:
        from botocore.awsrequest import AWSResponse, HTTPHeaders
        from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
        from botocore.httpsession import URLLib3Session

        fault = self._injection.http()
        if fault is None:
            return None
        if fault.kind == "unsent":
            raise EndpointConnectionError(endpoint_url=request.url)
        if fault.kind == "lost":
            URLLib3Session().send(request)
            raise ReadTimeoutError(endpoint_url=request.url)
        body = f"<Error><Code>{_CODES[fault.kind]}</Code><Message>injected</Message></Error>".encode()
        return AWSResponse(request.url, int(fault.kind), HTTPHeaders(), _Raw(body))


class _Raw(io.BytesIO):
    """A response body with the method that botocore reads it by."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()
