"""What the processes of one machine share: the folder of the cache, and locks between them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CACHE = "RFT_CACHE"
"""Environment variable: the folder in which downloaded and converted models are kept."""


def cache_root() -> Path:
    """The folder of the cache, which need not exist. Raises OSError where the user has no home, and names none."""
    try:
        return Path(os.environ.get(CACHE) or "~/.cache/rft-ray").expanduser().absolute()
    except RuntimeError as error:  # a user id without an entry, as in a container
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder") from error


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
