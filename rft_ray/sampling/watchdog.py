"""A hung engine does not return: a thread that ends its process instead.

In: what is under way, and a number that grows with every answer. Out: after `limit_s` without either changing, one
call of `stalled`, which is expected not to return. Where even this thread cannot run, because a library hangs with the
interpreter's lock held, a timer of the C library ends the process, with the stack of every thread in its log
(`faulthandler`).
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
"""Looks per limit: a stall is seen at most a tenth of the limit late."""


class Watchdog:
    """`hard`: whether the timer may end this process, which must then be a worker's."""

    def __init__(
        self, limit_s: float, progress: Callable[[], int], stalled: Callable[[str, list[str]], None], *, hard: bool
    ) -> None:
        self._limit_s, self._progress, self._stalled, self._hard = limit_s, progress, stalled, hard
        self._lock = threading.Lock()
        self._under_way: list[str] = []
        self._changes = 0
        self._thread: threading.Thread | None = None

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Within it the process must get on. Several may be under way at once."""
        with self._lock:
            self._changes += 1
            self._under_way.append(what)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            self._arm(True)  # here: what is done next may freeze before the thread runs
        try:
            yield
        finally:
            with self._lock:
                self._changes += 1
                self._under_way.remove(what)

    def _watch(self) -> None:
        seen, since = (-1, -1), time.monotonic()
        while True:
            with self._lock:
                now, under_way = (self._changes, self._progress()), list(self._under_way)
                self._arm(bool(under_way))
            if now != seen or not under_way:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= self._limit_s:
                self._stalled(f"no answer for {self._limit_s:g} s", under_way)
                since = time.monotonic()
            time.sleep(self._limit_s / TICKS)

    def _arm(self, on: bool) -> None:
        if not self._hard:
            return
        faulthandler.cancel_dump_traceback_later()
        if on:
            with suppress(AttributeError, io.UnsupportedOperation, ValueError):  # no log that C could write to
                faulthandler.dump_traceback_later(2 * self._limit_s, exit=True, file=sys.stderr)
