"""A run's directory on local disk or S3: create-only atomic commits of immutable files.

In: keys (`completions/tiny-m/p00000-s000.parquet`) and bytes or Arrow tables. Out: files that are
there whole or not at all, where the first commit of a key wins and every later one is told so.
Only the views (`summary.json` and the like, rebuildable at will) are ever replaced; nothing
is deleted. Tables carry their row count, a hash of their values and a hash of the file itself, so
that a torn, truncated or bit-flipped file is named and never taken for data.

Here: the protocol, its errors, what a key may be, and the probe for create-only writes. Back ends: `backends/`.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

VIEWS = frozenset({"summary.json", "study.json", "report.html", "study.html", "config.yaml"})
"""The only keys that `Store.replace` accepts."""

_KEY = re.compile(r"(\.probe/)?[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")


class StoreError(RuntimeError):
    """A store cannot do what was asked. The message says what, where, and what to do."""


class NotFound(StoreError):
    """The store answers, and has nothing under this key."""


class CorruptShard(StoreError):
    """A committed table's bytes are not those that were committed."""


class Store(Protocol):
    """A run's directory. Pickles as its url alone; safe to use from several threads and processes.

    Every method raises StoreError where the store cannot be reached, refuses, or is full, and
    ValueError for a key that is not relative, or has other characters than `A-Za-z0-9._=-/`.
    """

    @property
    def url(self) -> str:
        """Absolute path, or `s3://bucket/prefix`: `open_store(url)` opens the same store."""

    def create(self, key: str, data: bytes) -> bool:
        """Write once. True: this call committed it. False: it was there already, and stays as it was."""

    def create_file(self, key: str, path: Path) -> bool:
        """`create` with the content of a local file, streamed: for model weights. OSError if it has none."""

    def replace(self, key: str, data: bytes) -> None:
        """Write or replace a view, atomically. ValueError for any key outside `VIEWS`."""

    def read(self, key: str) -> bytes:
        """The whole content. Raises NotFound."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy to a local file that appears whole or not at all. Raises NotFound."""

    def exists(self, key: str) -> bool:
        """Whether `key` is committed."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix` (any string: `a/b` also finds `a/bc`), sorted."""

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """`list` with each key's size in bytes."""

    def local_path(self, key: str) -> Path | None:
        """Where `key` lies, or would lie, on local disk; None where the store is not on it."""

    def check(self) -> None:
        """Refuse, with one message, a store that cannot be written or breaks create-only writes."""


def is_key(key: str) -> bool:
    """Whether `key` is a relative path of allowed characters that names none of the store's hidden files."""
    return bool(_KEY.fullmatch(key))


def checked_key(key: str) -> str:
    """`key`, or ValueError where `is_key` says no."""
    if not is_key(key):
        raise ValueError(
            f"bad store key {key!r}: give a relative path of A-Z a-z 0-9 . _ = - whose parts are not empty "
            "and do not start with a dot"
        )
    return key


def checked_view(key: str) -> str:
    """`key`, or ValueError where it is no view: everything else in a store is immutable."""
    if key not in VIEWS:
        raise ValueError(f"refusing to replace {key!r}: only views may be ({', '.join(sorted(VIEWS))})")
    return key


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: renamed to `path` if the block succeeds, removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def explain_os_error(error: OSError, key: str, url: str) -> StoreError:
    """What an operating system's error means for whoever runs the job."""
    what = f"{key} in {url} ({error.strerror})"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(f"disk full: {what}: free some space and run the same command again; nothing was lost")
    return StoreError(f"cannot use {what}: choose a writable folder on a file system with hard links")


def check_create_only(store: Store) -> str:
    """Race writers for one probe key and return it; StoreError unless exactly one wins and its data stays."""
    probe = f".probe/{uuid.uuid4().hex}"
    contents = [f"{probe} {writer}".encode() for writer in range(4)]
    with ThreadPoolExecutor(len(contents)) as pool:
        won = list(pool.map(lambda content: store.create(probe, content), contents))
    late = store.create(probe, b"late")
    if won.count(True) != 1 or late or store.read(probe) != contents[won.index(True)]:
        raise StoreError(
            f"{store.url} does not honour create-only writes: two writers of one key were both told that they "
            "won, or the first was overwritten. Samples could be lost or counted twice here: choose another store"
        )
    return probe
