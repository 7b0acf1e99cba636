"""Bytes of the models that this process waits for, so that a slow download is told from one that stands still.

In: folders in which files grow while this process fetches or waits, whoever writes them (it, another process of the
machine, or one of another node that shares the folder), and sizes of files that are checked. Out: a number that
changes while bytes arrive.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_lock = threading.Lock()
_awaited: Counter[tuple[Path, str]] = Counter()
_checked = 0


@contextmanager
def arriving(folder: Path, pattern: str) -> Iterator[None]:
    """Inside the block, bytes of the files in `folder` that match the glob pattern count as arrived."""
    place = folder, pattern
    with _lock:
        _awaited[place] += 1
    try:
        yield
    finally:
        with _lock:
            _awaited[place] -= 1
            if not _awaited[place]:
                del _awaited[place]


def checked(size: int) -> None:
    """Count the bytes of a file whose hash is known now, whichever process has read it."""
    global _checked
    with _lock:
        _checked += size


def arrived() -> int:
    """Bytes so far. It falls where a file is finished or removed: only a change has a meaning."""
    with _lock:
        places, total = list(_awaited), _checked
    for folder, pattern in places:
        with suppress(OSError):  # a folder that is moved to its name meanwhile
            for path in folder.glob(pattern):
                with suppress(OSError):
                    status = path.stat()
                    total += status.st_size + 512 * status.st_blocks  # of a file that is made at its full size: blocks
    return total
