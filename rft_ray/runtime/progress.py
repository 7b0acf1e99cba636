"""Progress for people: a line on a stage's rate and time left, and the seconds that each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

COUNTED = frozenset({"shards", "blocks", "trained"})
"""Counts of what a stage did, summed over resumed runs; of any other value the newest counts."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """The seconds of one stage, summed over the runs of a plan, and what it did.

    Example: StageTime("sample", 990.771, {"shards": 120})
    """

    name: str
    seconds: float = 0.0
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What the stage reports, by name: JSON values."""

    def resumed(self, seconds: float, counts: Mapping[str, Any]) -> StageTime:
        """The stage after another run of it."""
        summed = {
            name: value + self.counts.get(name, 0) if name in COUNTED else value for name, value in counts.items()
        }
        return StageTime(self.name, round(self.seconds + seconds, 3), {**self.counts, **summed})

    def as_data(self) -> dict[str, Any]:
        """The stage in JSON: the counts next to `name` and `seconds`."""
        return {"name": self.name, "seconds": self.seconds, **self.counts}


def _with_nested_counts(stage: Any) -> Any:
    """A stage as `StageTime.as_data` gives it -> the fields of StageTime; any other value as it is."""
    if not isinstance(stage, dict):
        return stage
    times = {name: stage[name] for name in ("name", "seconds") if name in stage}
    return {**times, "counts": {name: value for name, value in stage.items() if name not in times}}


StoredStageTime = Annotated[StageTime, BeforeValidator(_with_nested_counts), PlainSerializer(StageTime.as_data)]
"""A StageTime that pydantic reads from the JSON of `as_data` and writes as such."""


class Stopwatch:
    """Seconds of each stage, summed over all runs of a plan; prints a line when a stage begins and when it ends."""

    def __init__(self, previous: Sequence[StageTime] = ()) -> None:
        """`previous`: the stages of the run that is resumed."""
        self._stages = {stage.name: stage for stage in previous}

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """The stages so far, in the order of their first run."""
        return tuple(self._stages.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage. What the caller puts into the yielded dictionary is recorded next to the seconds."""
        print(f"{name} …", flush=True)
        values: dict[str, Any] = {}
        started, ending = time.monotonic(), "failed after "
        try:
            yield values
            ending = ""
        except KeyboardInterrupt:
            ending = "stopped after "
            raise
        finally:
            seconds = time.monotonic() - started
            self._stages[name] = self._stages.get(name, StageTime(name)).resumed(seconds, values)
            print(f"{name}: {ending}{seconds:.1f} s{_shown(values)}", flush=True)


def _shown(values: Mapping[str, Any]) -> str:
    """What a stage reports, for its line. Example: ` (gold 24, paths 11, 11 of tiny-m)`"""
    parts: list[str] = []
    for name, value in values.items():
        counted = isinstance(value, Mapping)
        parts += (
            [f"{count:,} of {whose}" for whose, count in value.items()]
            if counted
            else [f"{name.replace('_', ' ')} {value:,}"]
        )
    return f" ({', '.join(parts)})" if parts else ""


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
