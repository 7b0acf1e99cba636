"""A thread that notices when an engine hangs, since a hung call does not return.

In: the operations in progress, and a value that changes while the engine works. Out: a call of `stalled` after
`limit_s` without a change of either; it is expected to end the process. Where no Python thread can run, because a
library hangs while it holds the interpreter's lock, a timer of `faulthandler` ends the process and writes the stack of
every thread to its log.
"""

from __future__ import annotations

import faulthandler
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TICKS = 10
"""Checks per limit: a stall is noticed at most a tenth of the limit late."""


class Watchdog:
    """Calls `stalled` with a reason and the operations in progress when none of them makes progress."""

    def __init__(
        self, limit_s: float, progress: Callable[[], object], stalled: Callable[[str, list[str]], None], *, hard: bool
    ) -> None:
        """`progress`: a value that changes while the engine works. `hard`: whether the timer may end this process."""
        self._limit_s, self._progress, self._stalled, self._hard = limit_s, progress, stalled, hard
        self._lock = threading.Lock()
        self._in_progress: list[str] = []
        self._changes = 0
        self._thread: threading.Thread | None = None

    @contextmanager
    def during(self, operation: str) -> Iterator[None]:
        """Watch an operation inside the block. Several may be in progress at once."""
        with self._lock:
            self._changes += 1
            self._in_progress.append(operation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._arm(True)  # now: the operation may hold the interpreter's lock before the thread runs
        try:
            yield
        finally:
            with self._lock:
                self._changes += 1
                self._in_progress.remove(operation)

    def _watch(self) -> None:
        seen: object = None
        since = time.monotonic()
        while True:
            progress = self._progress()
            with self._lock:
                now, in_progress = (self._changes, progress), list(self._in_progress)
                self._arm(bool(in_progress))
            if now != seen or not in_progress:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= self._limit_s:
                self._stalled(f"no progress for {self._limit_s:g} s", in_progress)
                since = time.monotonic()
            time.sleep(self._limit_s / TICKS)

    def _arm(self, on: bool) -> None:
        if not self._hard:
            return
        faulthandler.cancel_dump_traceback_later()
        if on:
            with suppress(AttributeError, io.UnsupportedOperation, ValueError):  # standard error has no file descriptor
                faulthandler.dump_traceback_later(2 * self._limit_s, exit=True, file=sys.stderr)
