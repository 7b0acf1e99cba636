"""Lines that tell a person how far a stage is: rate and time left of its shards, seconds of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COUNTED = frozenset({"shards", "blocks", "trained"})
"""What a stage did, summed over resumed runs; anything else that it reports is a state."""


class Stopwatch:
    """Seconds per stage, over all attempts at this plan; prints one line as each stage begins and ends."""

    def __init__(self, previous: dict[str, Any] | None) -> None:
        self.stages: list[dict[str, Any]] = list(previous["stages"]) if previous else []

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage. What the caller puts into the yielded dictionary stands beside the seconds."""
        print(f"{name} …", flush=True)
        found: dict[str, Any] = {}
        started = time.monotonic()
        try:
            yield found
        finally:
            self._note(name, time.monotonic() - started, found)

    def _note(self, name: str, seconds: float, found: dict[str, Any]) -> None:
        entry = next((stage for stage in self.stages if stage["name"] == name), None)
        if entry is None:
            entry = {"name": name, "seconds": 0.0}
            self.stages.append(entry)
        entry["seconds"] = round(entry["seconds"] + seconds, 3)
        for key, value in found.items():
            entry[key] = value + entry.get(key, 0) if key in COUNTED else value
        shown = ", ".join(f"{key} {value}" for key, value in found.items())
        print(f"{name}: {seconds:.1f} s" + (f" ({shown})" if shown else ""), flush=True)


class Progress:
    """A line at most every few seconds: done, total, rate, time left.

    Example: `sample tiny-m: 2,400/4,800 completions, 180/s, 13 s left`
    """

    def __init__(self, label: str, total: int, unit: str, every_s: float = 5.0) -> None:
        self.label, self.total, self.unit, self.every_s = label, total, unit, every_s
        self.done = 0
        self._before_first = 0
        self._started = self._shown = time.monotonic()

    def advance(self, count: int) -> None:
        now = time.monotonic()
        if self.done == 0:  # the rate is that of running, without the start of engines
            self._started, self._before_first, self._shown = now, count, now
        self.done += count
        if now - self._shown >= self.every_s:
            self._shown = now
            print(self.line(now), flush=True)

    def line(self, now: float) -> str:
        rate = (self.done - self._before_first) / max(now - self._started, 1e-9)
        left = f"{(self.total - self.done) / rate:,.0f} s left" if rate > 0 else "time left unknown"
        return f"  {self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s, {left}"
