"""What shows that a model is being loaded, however long it takes: its bytes move.

Out: a value that changes while they do. Downloads count by the byte, by `store/models/arrivals.py`. What else this
process and its children read and write, such as weights that an engine reads in a process of its own, counts in
steps of STEP_BYTES, because idle threads read and write a little too.

Limits: weights that are mapped into memory count only where they come from a disk, not from the system's cache, which
is fast; and where the system does not count for us (no `/proc/<pid>/io`), only downloads count.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from rft_ray.store.models.arrivals import arrived

STEP_BYTES = 16 << 20
"""An idle Ray worker moves some 20 KB in half an hour."""


def moved() -> tuple[int, int]:
    """Two numbers; a change of either is progress."""
    return arrived(), _read_and_written() // STEP_BYTES


def _read_and_written() -> int:
    """Bytes that this process and its children have read and written, through calls of the system or mapped memory."""
    total = 0
    with suppress(psutil.Error, OSError):
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            with suppress(psutil.Error, OSError, AttributeError, RuntimeError):  # ended meanwhile, or not counted
                counts = process.io_counters()
                total += counts.read_chars + counts.write_chars + counts.read_bytes
    return total
