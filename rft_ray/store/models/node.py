"""What the processes of one machine share: the folder of the cache, and locks between them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CACHE = "RFT_CACHE"
"""Environment variable: the folder in which downloaded and converted models are kept."""


def cache_root() -> Path:
    """The folder of the cache, which need not exist."""
    return Path(os.environ.get(CACHE) or "~/.cache/rft-ray").expanduser().absolute()


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file; the system releases it when the process ends for any reason.

    Yields False where the file system has no locks: then several processes can build the same folder, and the copy of
    the last one stays.
    """
    with open(path, "w") as file:
        is_locked = False
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            is_locked = True
        yield is_locked
