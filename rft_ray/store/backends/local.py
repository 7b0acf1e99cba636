"""A store on local disk. A commit is a temporary file, fsync and a hard link, which fails where the name exists.

The root can be a network file system that goes away: what is written to its mount point then lands on the disk of one
node. So only the first write may create the root, and a store that is bound to a run checks before each write, and
where a file is missing, that the run's marker is still there. While it is not, or while the file system's server does
not answer, the store is out of reach (StoreUnreachable), and holds no file less. A disk of this machine has no server:
its EIO is a defect.

Limits: the file system must have hard links.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import psutil

from rft_ray.store import marker
from rft_ray.store.base import (
    NotFound,
    StoreError,
    StoreUnreachable,
    check_create_only,
    checked_key,
    checked_removable,
    checked_view,
    checked_work,
    explain_os_error,
    is_key,
    partial_file,
    sync,
)

_TEMPORARY = ".tmp"
_AWAY = frozenset(
    {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)
"""What a network file system answers while its server does not."""
_ON_DISK = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "jfs", "bcachefs", "overlay", "tmpfs"})
"""File systems without a server."""
_GONE = "Check that its file system is mounted, then run the same command again: what was committed stays"


class LocalStore:
    """A folder as a store. To commit: write and fsync a temporary file, link it to its name, fsync the folders."""

    def __init__(self, path: str | Path, run_id: str = "") -> None:
        """`run_id`: see `bind`; empty: bound to no run."""
        self._root = Path(path).expanduser().absolute()
        self.url = str(self._root)
        self._run_id = run_id
        self._marker: tuple[int, int] | None = None
        """Device and inode of the run's marker, once it is known to be that of this run."""
        self._was_open = bool(run_id)

    def __reduce__(self) -> tuple[type[LocalStore], tuple[str, str]]:
        return LocalStore, (self.url, self._run_id)

    def create(self, key: str, data: bytes) -> bool:
        return self._commit(key, lambda file: file.write(data))

    def create_file(self, key: str, path: Path) -> bool:
        with open(path, "rb") as source:
            return self._commit(key, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def replace(self, key: str, data: bytes) -> None:
        final = self.local_path(checked_view(key))
        with self._explained(key), self._written(lambda file: file.write(data)) as temp:
            os.replace(temp, final)
            sync(_folders(self._root, final))

    def read(self, key: str) -> bytes:
        with self._explained(key):
            return self._present(key).read_bytes()

    def fetch(self, key: str, path: Path) -> None:
        with self._explained(key), partial_file(path) as partial:
            shutil.copyfile(self._present(key), partial)

    def exists(self, key: str) -> bool:
        with self._explained(key):
            return self._is_file(self.local_path(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        return (key for key, _ in self.sizes(prefix))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        folder = prefix.rpartition("/")[0]
        if folder and (not is_key(folder) or folder.startswith(".")):
            return
        with self._explained(prefix):
            parts = folder.split("/") if folder else []
            above = tuple(_identity(self._root.joinpath(*parts[:depth])) for depth in range(len(parts)))
            # not from the root, which can have many folders
            found = self._walk(f"{folder}/" if folder else "", prefix, above)
            yield from found
            self._check_run()  # what went away meanwhile would end the listing early

    def entries(self, folder: str, most: int) -> tuple[str, ...]:
        path = self._root / checked_key(folder) if folder else self._root
        with self._explained(folder), suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as scanned:
            visible = (entry for entry in scanned if not entry.name.startswith("."))
            return tuple(sorted(entry.name + "/" * entry.is_dir() for entry in islice(visible, most)))
        return ()

    def discard(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self.local_path(checked_work(key))
            with self._explained(key):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # a folder that is not empty
                for folder in _folders(self._root / "work", path):
                    folder.rmdir()

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._explained(key):
                self.local_path(checked_removable(key)).unlink(missing_ok=True)

    def leftovers(self, older_s: float) -> tuple[tuple[str, int], ...]:
        old = []
        for path in sorted(self._root.glob(f"{_TEMPORARY}/*")):
            with suppress(FileNotFoundError):  # its writer has just finished it
                status = path.stat()
                if time.time() - status.st_mtime > older_s:
                    old.append((f"{_TEMPORARY}/{path.name}", status.st_size))
        return tuple(old)

    def clear(self, older_s: float) -> None:
        for name, _ in self.leftovers(older_s):
            with self._explained(name):
                (self._root / name).unlink(missing_ok=True)

    def bind(self, run_id: str) -> None:
        self._run_id, self._marker, self._was_open = run_id, None, True

    def hurried(self) -> LocalStore:
        return self

    def local_path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def check(self) -> None:
        for probe in check_create_only(self):
            with suppress(OSError):
                self.local_path(probe).unlink()

    def _present(self, key: str) -> Path:
        path = self.local_path(key)
        if not self._is_file(path):
            raise NotFound(f"not found: {key} in {self.url}")
        return path

    def _is_file(self, path: Path) -> bool:
        """Raises StoreUnreachable where the file is missing with the whole run."""
        there = path.is_file()
        if not there:
            self._check_run()
        return there

    def _commit(self, key: str, fill: Callable[[BinaryIO], object]) -> bool:
        """Commit the file that `fill` writes. Returns whether this call committed it."""
        final = self.local_path(key)
        with self._explained(key), self._written(fill) as temp:
            self._make_folder(final.parent)
            with suppress(FileExistsError):
                os.link(temp, final)
            sync(_folders(self._root, final))
            if final.is_dir():
                raise StoreError(f"cannot commit {key} in {self.url}: a folder has that name: move it away")
            return os.path.samefile(temp, final)  # right even where NFS makes the link and loses its answer

    @contextmanager
    def _written(self, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
        """A temporary file of this store that `fill` has written and that is synced; removed after the block."""
        self._check_root()
        temp = self._root / _TEMPORARY / uuid.uuid4().hex
        if not temp.parent.is_dir():
            self._make_folder(temp.parent)
            sync([self._root])
        try:
            with open(temp, "xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield temp
        finally:
            with suppress(OSError):
                temp.unlink()

    def _check_root(self) -> None:
        """Create the root before the first write. Raises StoreError where it went away since, or the run's marker."""
        self._check_run()
        if not self._was_open:
            new = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
            self._root.mkdir(parents=True, exist_ok=True)
            sync(folder.parent for folder in new)
            self._was_open = True

    def _check_run(self) -> None:
        """Raises StoreError where a run, or a root, that was there before is not."""
        if self._run_id:
            self._check_marker()
        elif self._was_open and not os.path.isdir(self._root):  # False for any error
            raise StoreUnreachable(f"the folder {self.url} went away while it was in use. {_GONE}")

    def _check_marker(self) -> None:
        """Raises StoreError unless the marker of this run is in the root. One `stat`, while it is the same file."""
        path = self._root / marker.KEY
        kind: type[StoreError] = StoreError
        try:
            status = path.stat()
            place = status.st_dev, status.st_ino
            if place == self._marker:
                return
            if marker.decode(path.read_bytes()).id == self._run_id:  # first seen, or mounted again
                self._marker = place
                return
        except FileNotFoundError:
            kind = StoreUnreachable
        except OSError as error:
            if error.errno == errno.EIO and not self._is_away(error):
                raise explain_os_error(error, marker.KEY, self.url) from error
            kind = StoreUnreachable if self._is_away(error) else StoreError
        except ValueError:
            pass  # damaged
        raise kind(f"the run {self.url} went away: {marker.KEY} is missing, damaged or of another run. {_GONE}")

    def _make_folder(self, folder: Path) -> None:
        """Create a folder below the root, and those on the way to it, but never the root."""
        if not folder.is_dir():
            for path in reversed([path for path in (folder, *folder.parents) if self._root in path.parents]):
                path.mkdir(exist_ok=True)

    def _walk(self, folder: str, prefix: str, above: tuple[tuple[int, int] | None, ...]) -> Iterator[tuple[str, int]]:
        """Keys and sizes below `folder` ("" or ending in "/"), in the order of whole keys, as S3 lists them.

        Links to files and folders are followed, except to a folder of `above`, the identities of those on the way here.
        """
        entries: list[os.DirEntry[str]] = []
        here = _identity(self._root / folder)
        if here is None or here in above:
            return
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / folder) as scanned:
            entries = [entry for entry in scanned if is_key(entry.name)]
        names = [f"{folder}{entry.name}" for entry in entries if entry.is_file()]
        names += [f"{folder}{entry.name}/" for entry in entries if entry.is_dir()]
        for name in sorted(names):
            if not name.endswith("/"):
                if name.startswith(prefix):
                    with suppress(FileNotFoundError):  # deleted since the scan
                        yield name, os.stat(self._root / name).st_size
            elif name.startswith(prefix) or prefix.startswith(name):
                yield from self._walk(name, prefix, (*above, here))

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn errors of the operating system into a StoreError that says what to do."""
        try:
            yield
        except OSError as error:
            if self._is_away(error):
                raise StoreUnreachable(f"out of reach: {key} in {self.url} ({error.strerror}). {_GONE}") from error
            self._check_run()
            raise explain_os_error(error, key, self.url) from error

    def _is_away(self, error: OSError) -> bool:
        """Whether an error says that the server of the file system does not answer."""
        return error.errno in _AWAY and not (error.errno == errno.EIO and _file_system(self._root) in _ON_DISK)


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, as in `mount`; empty where it is not known."""
    real = os.path.realpath(path)
    mounts = [part for part in psutil.disk_partitions(all=True) if Path(real).is_relative_to(part.mountpoint)]
    return max(reversed(mounts), key=lambda part: len(part.mountpoint)).fstype if mounts else ""  # the last one on top


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file or folder, links followed; None where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None


def _folders(root: Path, path: Path) -> list[Path]:
    """The folders on the way from the root to `path`."""
    return [folder for folder in path.parents if folder.is_relative_to(root)]
