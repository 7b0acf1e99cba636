"""Writes a stage's small records in a thread of its own, which waits while the store is out of reach.

In: functions that write one record each, the same one however often they are called. Out: the records, in the order in
which they were added. Whoever adds one never waits for the store.

Limits: what is not written yet is lost with the process; `flush` says what that would be.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from rft_ray.runtime.actor_pool import in_one_line
from rft_ray.store.outages import through_outages

logger = logging.getLogger(__name__)


class RecordWriter:
    """Example: writer = RecordWriter(background=True); writer.add("a.json", write_a); writer.flush(600.0) == {}"""

    def __init__(self, *, background: bool) -> None:
        """`background`: whether a thread writes. Otherwise `add` does, in a process that may end right after it."""
        self._queue: SimpleQueue[Callable[[], object]] | None = SimpleQueue() if background else None
        self._missing: dict[str, str] = {}
        if self._queue:
            threading.Thread(target=self._work, args=(self._queue,), name="records", daemon=True).start()

    def add(self, key: str, write: Callable[[], object], *, needed: bool = True) -> None:
        """Have `write()` called until it has written the record, within the bound of `through_outages`.

        `needed`: whether `flush` reports the record where it is not written.
        """
        if needed:
            self._missing[key] = "not written yet"
        act = partial(self._write, key, write)
        if self._queue:
            self._queue.put(act)
        else:
            act()

    def flush(self, timeout_s: float) -> dict[str, str]:
        """Wait for all that was added before. Returns the needed records that are not written: key -> why."""
        if self._queue:
            done = threading.Event()
            self._queue.put(done.set)
            done.wait(timeout_s)
        return self._missing.copy()

    def _work(self, queue: SimpleQueue[Callable[[], object]]) -> None:
        while True:
            queue.get()()

    def _write(self, key: str, write: Callable[[], object]) -> None:
        try:
            through_outages(write, key)
        except Exception as failure:  # the thread goes on with the next record
            logger.warning("not recorded: %s: %s", key, failure)
            if key in self._missing:
                self._missing[key] = in_one_line(failure)
        else:
            self._missing.pop(key, None)
