"""SHA-256 of the files of models: a large file is read once by all processes of a machine.

In: a path. Out: its hash, from a record in the cache (`RFT_CACHE`) where the file is the one that was hashed: same
path, size, inode and times. A record counts for a day, so that damage to a disk does not stay unnoticed. A process
that needs the hash of a file waits for the one that reads it. `digest_of_file` reads the file whatever is known of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from rft_ray.store.models.arrivals import checked
from rft_ray.store.models.node import cache_root, locked

LARGE = 64 * 2**20
"""Bytes of a file from which its hash is recorded."""
RECORDED_FOR_S = 24 * 3600
_HASH = re.compile("[0-9a-f]{64}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits; not read again while its size, inode and times stay the same."""
    status = path.stat()
    identity = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    known = _remembered if status.st_size < LARGE else _recorded
    digest = known(str(path.absolute()), *identity)
    checked(status.st_size)
    return digest


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file, 64 hex digits, by reading it. Raises OSError, which names the file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed read has none
        raise


@lru_cache(maxsize=1024)
def _remembered(path: str, *identity: int) -> str:
    return digest_of_file(path)


@lru_cache(maxsize=1024)
def _recorded(path: str, *identity: int) -> str:
    """The hash that another process of this machine has recorded, or else the file's, recorded for others."""
    name = hashlib.sha256(f"{path} {identity}".encode()).hexdigest()
    with suppress(OSError):
        record = cache_root() / "hashes" / name
        record.parent.mkdir(parents=True, exist_ok=True)
        with locked(record.with_suffix(".lock")):
            if (known := _read(record)) is None:
                known = digest_of_file(path)
                temporary = record.with_suffix(f".{os.getpid()}.part")
                with suppress(OSError):  # a full disk: the next process reads the file too
                    temporary.write_text(known)
                    temporary.rename(record)
            return known
    return digest_of_file(path)


def _read(record: Path) -> str | None:
    """The hash in a record; None where there is none, or one that is too old, or of a clock that was ahead."""
    with suppress(OSError):
        text = record.read_text()
        if _HASH.fullmatch(text) and 0 <= time.time() - record.stat().st_mtime < RECORDED_FOR_S:
            return text
    return None
