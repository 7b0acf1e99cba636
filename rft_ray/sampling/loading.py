"""What shows that a model is being loaded, however long it takes: its bytes move.

Out: a value that changes while they do. Downloads count by the byte, by `store/models/arrivals.py`. What else this
process and its children read and write, such as weights that an engine reads in a process of its own, counts in
steps of STEP_BYTES, because idle threads read and write a little too. An engine that waits for another one to open is
watched with that one.

Limits: weights that are mapped into memory count only where they come from a disk, not from the system's cache, which
is fast; and where the system does not count for us (no `/proc/<pid>/io`), only downloads count.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from rft_ray.store.models.arrivals import arrived

STEP_BYTES = 16 << 20
"""An idle Ray worker moves some 20 KB in half an hour."""
_waited = 0
_looked = 0
"""Bytes that it took to find the children, which is a file of every process of the machine."""


def waits() -> None:
    """Called again and again while an engine waits until another one has opened or closed, or was ended."""
    global _waited
    _waited += 1


def moved() -> tuple[int, int, int]:
    """Numbers; a change of any is progress. Called by one thread."""
    return arrived(), _read_and_written() // STEP_BYTES, _waited


def _read_and_written() -> int:
    """Bytes that this process and its children have read and written, through calls of the system or mapped memory."""
    global _looked
    total = 0
    with suppress(psutil.Error, OSError, AttributeError, RuntimeError):  # not counted here
        here = psutil.Process()
        before = here.io_counters().read_chars
        children = here.children(recursive=True)
        _looked += here.io_counters().read_chars - before
        for process in (here, *children):
            with suppress(psutil.Error, OSError, RuntimeError):  # ended meanwhile
                counts = process.io_counters()
                total += counts.read_chars + counts.write_chars + counts.read_bytes
    return total - _looked
