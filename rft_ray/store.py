"""A run's directory on local disk or S3: create-only atomic commits of immutable files.

In: keys (`completions/tiny-m/p00000-s000.parquet`) and bytes or Arrow tables. Out: files that are
there whole or not at all, where the first commit of a key wins and every later one is told so.
Only the views (`summary.json` and the like, rebuildable at will) are ever replaced; nothing
is deleted. Tables carry their row count, a hash of their values and a hash of the file itself, so
that a torn, truncated or bit-flipped file is named and never taken for data.

Limits: one table is made in memory; a local store needs hard links. S3: see `s3.py`.

    python -m rft_ray.store ls|du|verify|prune URL        (store_cli.py)
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from rft_ray import generations, parquet

VIEWS = frozenset({"summary.json", "study.json", "report.html", "study.html", "config.yaml", "progress.json"})
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


def open_store(url: str) -> Store:
    """The store at a local path or `s3://bucket/prefix`. Touches neither disk nor network.

    S3's endpoint, region and credentials come from the usual AWS variables and files of the
    process that uses the store; a Ray worker needs them as much as the driver. With RFT_STORE_FAULTS set, the store
    fails as that plans: see `faults.py`.
    """
    store = _opened(url)
    if "RFT_STORE_FAULTS" in os.environ:
        from rft_ray import faults

        return faults.FaultyStore(store, faults.current())
    return store


def _opened(url: str) -> Store:
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "s3":
        from rft_ray.s3 import S3Store

        return S3Store(url)
    if separator and scheme != "file":
        raise StoreError(f"cannot open a store of kind {scheme}://: give a local path or s3://bucket/prefix")
    return LocalStore(url.removeprefix("file://"))


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


class LocalStore:
    """A folder. A commit: write and fsync a temporary file, hard-link it to its name, fsync the folders."""

    def __init__(self, path: str | Path) -> None:
        self._root = Path(path).expanduser().absolute()
        self.url = str(self._root)

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str]]:
        return LocalStore, (self.url,)

    def create(self, key: str, data: bytes) -> bool:
        return self._commit(key, lambda file: file.write(data))

    def create_file(self, key: str, path: Path) -> bool:
        with open(path, "rb") as source:
            return self._commit(key, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def replace(self, key: str, data: bytes) -> None:
        final = self.local_path(checked_view(key))
        with self._explained(key), self._written(lambda file: file.write(data)) as temp:
            os.replace(temp, final)
            _sync(*_folders(self._root, final))

    def read(self, key: str) -> bytes:
        with self._explained(key):
            return self._present(key).read_bytes()

    def fetch(self, key: str, path: Path) -> None:
        with self._explained(key), partial_file(path) as partial:
            shutil.copyfile(self._present(key), partial)

    def exists(self, key: str) -> bool:
        with self._explained(key):
            return self.local_path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[str]:
        return (key for key, _ in self.sizes(prefix))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        folder = prefix.rpartition("/")[0]
        if folder and (not is_key(folder) or folder.startswith(".")):
            return
        with self._explained(prefix):
            yield from self._walk(f"{folder}/" if folder else "", prefix)  # not from the root: it may have many folders

    def local_path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def check(self) -> None:
        probe = check_create_only(self)
        with suppress(OSError):
            self.local_path(probe).unlink()

    def _present(self, key: str) -> Path:
        path = self.local_path(key)
        if not path.is_file():
            raise NotFound(f"not found: {key} in {self.url}")
        return path

    def _commit(self, key: str, fill: Callable[[BinaryIO], object]) -> bool:
        """One create-only write of what `fill` writes into a file."""
        final = self.local_path(key)
        with self._explained(key), self._written(fill) as temp:
            final.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.link(temp, final)
            _sync(*_folders(self._root, final))
            if final.is_dir():
                raise StoreError(f"cannot commit {key} in {self.url}: a folder has that name: move it away")
            return os.path.samefile(temp, final)  # also right where NFS loses the answer to a link it made

    @contextmanager
    def _written(self, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
        """A temporary file of this store with what `fill` writes, on disk; gone afterwards."""
        temp = self._root / ".tmp" / uuid.uuid4().hex
        if not temp.parent.is_dir():
            new = [folder for folder in temp.parents if not folder.exists()]
            temp.parent.mkdir(parents=True, exist_ok=True)
            _sync(*(folder.parent for folder in new))
        try:
            with open(temp, "xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield temp
        finally:
            with suppress(OSError):
                temp.unlink()

    def _walk(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys and sizes below `folder` ("" or ending in "/"), in the order of whole keys, as S3 lists them."""
        found: list[os.DirEntry[str]] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / folder) as entries:
            found = [e for e in entries if is_key(e.name)]
        names = [f"{folder}{e.name}" for e in found if e.is_file()]
        names += [f"{folder}{e.name}/" for e in found if e.is_dir(follow_symlinks=False)]
        for name in sorted(names):
            if not name.endswith("/"):
                if name.startswith(prefix):
                    yield name, os.stat(self._root / name).st_size
            elif name.startswith(prefix) or prefix.startswith(name):
                yield from self._walk(name, prefix)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn the operating system's errors into a StoreError that says what to do."""
        try:
            yield
        except OSError as error:
            raise explain_os_error(error, key, self.url) from error


def _folders(root: Path, path: Path) -> list[Path]:
    """The folders whose entries lead from the root to `path`."""
    return [folder for folder in path.parents if folder.is_relative_to(root)]


def _sync(*folders: Path) -> None:
    """Make the names in these folders survive a power cut."""
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


@dataclass(frozen=True)
class Receipt:
    """What `commit_table` did.

    Example: Receipt("completions/tiny-m/p00000-s000.parquet", 512, 48213, True, 0.012)
    """

    key: str
    rows: int
    bytes: int
    """Size of the Parquet file."""
    committed_here: bool
    """False where the key was there already: `rows` and `bytes` are then not those of the store's file."""
    seconds: float


def present(store: Store, key: str) -> str | None:
    """Where the file that `key` names without a generation lies now; None where it is not there, or void."""
    stem, _, ending = generations.split(key)
    return generations.living(store.list(f"{stem}.")).get((stem, ending))


def writable(store: Store, key: str) -> str:
    """Where the file that `key` names is to be created: a generation past its newest tombstone."""
    if generations.is_numbered(key):
        return key
    return generations.to_write(key, store.list(f"{generations.split(key)[0]}."))


def commit_table(store: Store, key: str, table: pa.Table, metadata: dict[str, str]) -> Receipt:
    """Commit `table` as one immutable Parquet file; the same table and metadata give the same bytes.

    A key without a generation is that of the first one that is not void.

    Column types: see `parquet.encode`. ValueError for metadata keys that start with `store.`.
    """
    start = time.perf_counter()
    data = parquet.encode(table, metadata)
    key = writable(store, key)
    committed = store.create(key, data)
    return Receipt(key, table.num_rows, len(data), committed, time.perf_counter() - start)


def read_table(store: Store, key: str) -> tuple[pa.Table, dict[str, str]]:
    """The table and metadata that `commit_table` put there. Raises NotFound and CorruptShard."""
    if not generations.is_numbered(key):
        named, key = key, present(store, key) or ""
        if not key:
            raise NotFound(f"not found: {named} in {store.url}")
    try:
        return parquet.decode(store.read(key))
    except parquet.Damaged as damage:
        raise CorruptShard(
            f"corrupt shard {key} in {store.url}: {damage}. Put an intact copy in its place, or run "
            f"`python -m rft_ray.store verify --repair {store.url}` and then the same command again: only this "
            "shard, and what was made from it, is then made anew"
        ) from damage


if __name__ == "__main__":
    from rft_ray.store_cli import main

    raise SystemExit(main())
