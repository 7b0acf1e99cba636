"""Progress for people: a line on a stage's rate and time left, and the seconds that each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COUNTED = frozenset({"shards", "blocks", "trained"})
"""Counts of what a stage did, summed over resumed runs; of any other value the newest counts."""


class Stopwatch:
    """Seconds of each stage, summed over all runs of a plan; prints a line when a stage begins and when it ends."""

    def __init__(self, previous: dict[str, Any] | None) -> None:
        """`previous`: the summary of the run that is resumed; None for a new one."""
        self.stages: list[dict[str, Any]] = list(previous["stages"]) if previous else []

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage. What the caller puts into the yielded dictionary is recorded next to the seconds."""
        print(f"{name} …", flush=True)
        values: dict[str, Any] = {}
        started = time.monotonic()
        try:
            yield values
        finally:
            self._note(name, time.monotonic() - started, values)

    def _note(self, name: str, seconds: float, values: dict[str, Any]) -> None:
        entry = next((stage for stage in self.stages if stage["name"] == name), None)
        if entry is None:
            entry = {"name": name, "seconds": 0.0}
            self.stages.append(entry)
        entry["seconds"] = round(entry["seconds"] + seconds, 3)
        for key, value in values.items():
            entry[key] = value + entry.get(key, 0) if key in COUNTED else value
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        print(f"{name}: {seconds:.1f} s" + (f" ({shown})" if shown else ""), flush=True)


class Progress:
    """Prints a line at most every `every_s` seconds: done, total, rate, time left.

    Example: `sample tiny-m: 2,400/4,800 completions, 180/s, 13 s left`
    """

    def __init__(self, label: str, total: int, unit: str, every_s: float = 5.0) -> None:
        self.label, self.total, self.unit, self.every_s = label, total, unit, every_s
        self.done = 0
        self._before_first = 0
        self._started = self._shown = time.monotonic()

    def advance(self, count: int) -> None:
        """Add `count` units, and print a line if one is due."""
        now = time.monotonic()
        if self.done == 0:  # the rate excludes the time until the first units, in which engines start
            self._started, self._before_first, self._shown = now, count, now
        self.done += count
        if now - self._shown >= self.every_s:
            self._shown = now
            print(self.line(now), flush=True)

    def line(self, now: float) -> str:
        """The line of progress at a time of `time.monotonic`."""
        rate = (self.done - self._before_first) / max(now - self._started, 1e-9)
        left = f"{(self.total - self.done) / rate:,.0f} s left" if rate > 0 else "time left unknown"
        return f"  {self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s, {left}"
