"""The figures of one phase of `benchmarks/fleet.py`, from the spans of its shards, and the table of them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rft_ray.evaluation.gpu_use import union_seconds

SAMPLES, PROBLEMS_PER_BLOCK = 100, 20
MAX_IDLE, MAX_DRIVER_MIB = 0.03, 1024


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the table. Example: Phase("S3", 32, 300_000, 1.0, s3=True)"""

    name: str
    actors: int
    completions: int
    slow: float
    s3: bool = False
    leave_s: float = 0.0
    """Seconds from one node's leaving to the next; 0: no node leaves."""

    @property
    def problems(self) -> int:
        """Problems in whole blocks, with SAMPLES completions each."""
        blocks = max(1, round(self.completions / SAMPLES / PROBLEMS_PER_BLOCK))
        return blocks * PROBLEMS_PER_BLOCK


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured in a phase; the module's docstring explains the columns."""

    completions: int
    shards: int
    wall_s: float
    first_s: float
    idle: float
    idle_with_tail: float
    full: float
    tail_s: float
    driver_mib: float
    driver_cpu_s: float
    objects_mib: tuple[float, float]
    """Most in the first half and in the second half of the stage."""
    reads_s: float
    requests: dict[str, int]
    """Requests of the stage to S3, by kind; empty on local disk."""
    engines: int
    """Processes with an engine that committed a shard."""
    left: int = 0
    """Nodes that left."""


@dataclass(frozen=True, slots=True)
class Span:
    """The time that one shard was in an engine, in seconds on the clock of `time.time`."""

    engine: str
    start: float
    end: float
    tokens: int


def idle_share(shards: Sequence[Span], *, tail: bool = False, own_end: bool = False) -> float:
    """Share of the engines' time in which they had no shard, each from its first shard until the last one is begun.

    `tail`: until the last shard of all ends. `own_end`: an engine's time ends with its last shard, because its node may
    have left then.
    """
    last = max(shard.end if tail else shard.start for shard in shards)
    by_engine: dict[str, list[Span]] = defaultdict(list)
    for shard in shards:
        by_engine[shard.engine].append(shard)
    held = busy = 0.0
    for own in by_engine.values():
        until = min(last, max(shard.end for shard in own)) if own_end else last
        held += max(0.0, until - min(shard.start for shard in own))
        busy += union_seconds((shard.start, min(shard.end, until)) for shard in own if shard.start < until)
    return 1 - busy / held if held else 0.0


def full_share(shards: Sequence[Span], tokens_per_s: float) -> float:
    """Tokens of the shards as a share of what their engines can make from their first to their last shard."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for shard in shards:
        first[shard.engine] = min(first.get(shard.engine, shard.start), shard.start)
        last[shard.engine] = max(last.get(shard.engine, shard.end), shard.end)
    seconds = sum(last[engine] - first[engine] for engine in first)
    return sum(shard.tokens for shard in shards) / (seconds * tokens_per_s)


HEAD = "| | actors | completions | wall | first | idle | full | tail | driver | objects | reads | S3 requests a shard |"


def row(phase: Phase, figures: Figures) -> str:
    """One row of the table."""
    each = ", ".join(f"{count / figures.shards:.2f} {kind}" for kind, count in sorted(figures.requests.items()))
    more = f" ({figures.left} left, {figures.engines} engines)" if phase.leave_s else ""
    cells = [
        f"{phase.name}{more}",
        str(phase.actors),
        f"{figures.completions:,}",
        f"{figures.wall_s:.0f} s",
        f"{figures.first_s:.0f} s",
        f"{100 * figures.idle:.1f} %, {100 * figures.idle_with_tail:.1f} %",
        f"{100 * figures.full:.1f} %",
        f"{figures.tail_s:.0f} s",
        f"{figures.driver_mib:.0f} MiB, {figures.driver_cpu_s:.0f} s",
        " / ".join(f"{half:.1f}" for half in figures.objects_mib) + " MiB",
        f"{figures.reads_s:.1f} s",
        each or "-",
    ]
    return "| " + " | ".join(cells) + " |"


def beyond(figures: Figures) -> list[str]:
    """What is not as the project wants it."""
    wrong = [f"idle {100 * figures.idle:.1f} % > {100 * MAX_IDLE:.0f} %"] if figures.idle > MAX_IDLE else []
    over = figures.driver_mib > MAX_DRIVER_MIB
    return wrong + ([f"driver {figures.driver_mib:.0f} MiB > {MAX_DRIVER_MIB} MiB"] if over else [])
