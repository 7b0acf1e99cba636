"""The store protocol: a run's directory, with create-only atomic commits of immutable files.

In: keys (`corpus/5f0c.parquet`) and bytes. Out: files that exist whole or not at all. The first commit of a key wins;
every later commit of it returns False. Only views (`summary.json` and other files that can be rebuilt at any time) are
replaced, and only training states below `work/` are deleted, once newer ones have taken their place.

Here: the protocol, its errors, the rules for keys, and the check for create-only writes. Back ends: `backends/`. Tables
with hashes of their content: `tables.py`.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rft_ray.config.errors import RunError

VIEWS = frozenset(
    {
        *("summary.json", "study.json", "report.html", "study.html", "config.yaml", "models/README.md"),
        *("completions.jsonl", "completions.parquet"),
    }
)
"""The keys that `Store.replace` accepts, and with them the leases of processes that work on a run."""
_LEASE = re.compile(r"present/[A-Za-z0-9-]+\.lease\.json")

_KEY = re.compile(r"(\.probe/)?[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")


class StoreError(RunError, RuntimeError):
    """An operation of a store has failed. The message says what, where, and what to do."""


class StoreUnreachable(StoreError):
    """The store did not answer, or answered that it is not available: the same operation may succeed later."""

    waited_out = False
    """Whether the operation was tried again for as long as an outage may last."""


class NotFound(StoreError):
    """The store can be reached and has no file under this key."""


class CorruptShard(StoreError):
    """The bytes of a table are not those that were committed."""


class Store(Protocol):
    """A run's directory. Safe to use from several threads and processes.

    Pickles as its URL and the id of the run that it is bound to: the copy checks the same marker.

    Every method raises StoreError where the store cannot be reached, refuses the request or is full, and ValueError for
    a key that is not a relative path of the characters `A-Za-z0-9._=-/`.
    """

    @property
    def url(self) -> str:
        """Absolute path, or `s3://bucket/prefix`: `open_store(url)` opens the same store."""

    def create(self, key: str, data: bytes) -> bool:
        """Write once. True: this call committed the file. False: it was committed before and stays as it is."""

    def create_file(self, key: str, path: Path) -> bool:
        """`create` with the content of a local file, streamed. Raises OSError where that file cannot be read."""

    def replace(self, key: str, data: bytes) -> None:
        """Write or replace a view, atomically. Raises ValueError for a key outside `VIEWS`."""

    def read(self, key: str) -> bytes:
        """The whole content. Raises NotFound."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy to a local file, which appears whole or not at all. Raises NotFound."""

    def exists(self, key: str) -> bool:
        """Whether `key` is committed."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, sorted. A prefix is any string: `a/b` matches `a/bc` too."""

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """As `list`, each key with its size in bytes."""

    def entries(self, folder: str, most: int) -> tuple[str, ...]:
        """Names of at most `most` files and folders directly in `folder` ("" for the root); folders end in "/"."""

    def discard(self, keys: Iterable[str]) -> None:
        """Delete training states; keys without a file are passed over. Raises ValueError for a key outside `work/`."""

    def remove(self, keys: Iterable[str]) -> None:
        """Delete files, as only a prune does, which holds the run's lock; keys without a file are passed over.

        Raises ValueError for a view, and for the run's marker.
        """

    def leftovers(self, older_s: float) -> tuple[tuple[str, int], ...]:
        """Unfinished files of killed writers that are older than this by the storage's clock: names and bytes."""

    def clear(self, older_s: float) -> None:
        """Delete what `leftovers` lists."""

    def bind(self, run_id: str) -> None:
        """Bind this object to a run. A local store then checks at each commit that the run's marker is still there."""

    def hurried(self) -> Store:
        """The same store for what is worth nothing when late: a request is answered, or fails, within about 15 s.

        On local disk no operation has a time-out, and it is the store itself.
        """

    def local_path(self, key: str) -> Path | None:
        """Path of `key` on local disk, committed or not; None where the store is not on local disk."""

    def check(self) -> None:
        """Raises StoreError where the store cannot be written or does not honour create-only writes."""


def is_key(key: str) -> bool:
    """Whether `key` is a relative path of allowed characters that names none of the store's hidden files."""
    return bool(_KEY.fullmatch(key))


def checked_key(key: str) -> str:
    """`key`. Raises ValueError where it is no key."""
    if not is_key(key):
        raise ValueError(
            f"bad store key {key!r}: give a relative path of A-Z a-z 0-9 . _ = - whose parts are not empty "
            "and do not start with a dot"
        )
    return key


def checked_view(key: str) -> str:
    """`key`. Raises ValueError where it is no view: every other file is immutable."""
    if key not in VIEWS and not _LEASE.fullmatch(key):
        raise ValueError(f"cannot replace {key!r}: only views can be replaced ({', '.join(sorted(VIEWS))})")
    return key


def checked_work(key: str) -> str:
    """`key`. Raises ValueError unless it is below `work/`, whose files a run can lose and still be complete."""
    if not checked_key(key).startswith("work/"):
        raise ValueError(f"cannot delete {key!r}: only files below work/ can be deleted")
    return key


def checked_removable(key: str) -> str:
    """`key`. Raises ValueError where it is a view or the run's marker, without which the folder would be no run."""
    if checked_key(key) in VIEWS or key == "run.json":
        raise ValueError(f"cannot delete {key!r}: it is part of every run")
    return key


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`: renamed to `path` if the block succeeds, removed if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(paths: Iterable[Path]) -> None:
    """Make the contents of these files, and the names in these folders, survive a loss of power."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def explain_os_error(error: OSError, key: str, url: str) -> StoreError:
    """The StoreError for an error of the operating system: what it means and what to do."""
    what = f"{key} in {url} ({error.strerror})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(f"disk full: {what}: free some space and run the same command again; nothing was lost")
    if error.errno == errno.EROFS:
        return StoreError(f"read-only disk: {what}: mount it writable and run the same command again; nothing was lost")
    if error.errno == errno.EIO:
        return StoreError(
            f"defective disk: {what}: the kernel's log says which; copy the run to a sound disk and run the same "
            "command there, which makes again what cannot be copied"
        )
    return StoreError(f"cannot use {what}: choose a writable folder on a file system with hard links")


PROBE_ROUNDS, PROBE_WRITERS, PROBE_BYTES = 10, 4, 16 << 10
"""A server that checks and then writes, without a lock, is found out only where two writes meet between the two: many
rounds, many writers at once, and bodies that take a while."""


def check_create_only(store: Store) -> list[str]:
    """Write probe keys from several threads at once and return them.

    Raises StoreError unless exactly one write of each key wins and its data stays.
    """
    probes = [f".probe/{uuid.uuid4().hex}" for _ in range(PROBE_ROUNDS)]
    barrier = threading.Barrier(PROBE_WRITERS)

    def create(probe: str, content: bytes) -> bool:
        barrier.wait()
        return store.create(probe, content)

    with ThreadPoolExecutor(PROBE_WRITERS) as pool:
        list(pool.map(store.exists, [f"{probes[0]}-none"] * PROBE_WRITERS))  # makes the connections
        for probe in probes:
            contents = [f"{probe} {writer} ".encode().ljust(PROBE_BYTES, b".") for writer in range(PROBE_WRITERS)]
            won = list(pool.map(create, [probe] * PROBE_WRITERS, contents))
            late = store.create(probe, b"late")
            if won.count(True) != 1 or late or store.read(probe) != contents[won.index(True)]:
                raise StoreError(
                    f"{store.url} does not honour create-only writes: two writes of one key both succeeded, or the "
                    "first was overwritten. Samples could be lost or counted twice: choose another store"
                )
    return probes
