"""The table of all proofs: a line per kind of fault, summed over the parts that were run separately.

In: tallies of runs with planned faults. Out: lines of a Markdown table, and a log of one JSON object per line, so that
proofs of an hour can be run in parts: `python -m tests.chaos.table LOG…` prints the sums.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

COLUMNS = (
    "faults",
    "store",
    "runs",
    "faults struck",
    "rows",
    "lost",
    "duplicated",
    "phantom",
    "overwritten",
    "unlike",
    "s",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


@dataclass(frozen=True)
class Tally:
    """The result of a number of trials.

    Example: Tally(trials=2, faults=9, rows=24000)
    """

    trials: int = 0
    faults: int = 0
    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    phantom: int = 0
    overwritten: int = 0
    """Number of committed files that changed or disappeared."""
    unlike: int = 0
    """Number of trials whose files differ from those of the fault-free run, or do not verify."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def sound(self) -> bool:
        return replace(self, trials=0, faults=0, rows=0) == Tally()


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Example: Line("kill -9 of a driver", "local disk", Tally(2, 9, 24000), 41.5)
    """

    name: str
    where: str
    tally: Tally
    seconds: float

    def __str__(self) -> str:
        t = self.tally
        return (
            f"| {self.name} | {self.where} | {t.trials:,} | {t.faults:,} | {t.rows:,} | {t.lost} | {t.duplicated} | "
            f"{t.phantom} | {t.overwritten} | {t.unlike} | {self.seconds:.0f} |"
        )


@contextmanager
def line(name: str, where: str, log: Path | None = None) -> Iterator[list[Tally]]:
    """Print a line for the tallies that the block appends, and log it. Raises SystemExit if one is unsound."""
    start = time.monotonic()
    tallies: list[Tally] = []
    yield tallies
    made = Line(name, where, sum(tallies, Tally()), time.monotonic() - start)
    print(made, flush=True)
    if log:
        with log.open("a") as file:
            file.write(json.dumps(asdict(made)) + "\n")
    if not made.tally.sound:
        raise SystemExit(f"{name} on {where}: the run is not what it is without faults; see its folder")


def summed(logs: Sequence[Path]) -> list[Line]:
    """One line for each kind of fault and place, in the order in which they first appear."""
    lines: dict[tuple[str, str], Line] = {}
    for entry in (json.loads(text) for log in logs for text in log.read_text().splitlines()):
        name, where, tally, seconds = entry["name"], entry["where"], Tally(**entry["tally"]), entry["seconds"]
        before = lines.get((name, where), Line(name, where, Tally(), 0.0))
        lines[name, where] = replace(before, tally=before.tally + tally, seconds=before.seconds + seconds)
    return list(lines.values())


if __name__ == "__main__":
    print(HEAD, *summed([Path(name) for name in sys.argv[1:]]), sep="\n")
