"""Faults of the scripted engine, on purpose: to try everything around an engine that misbehaves.

In: a script (`engine.script`), `kind:match[:times:folder]` with commas between. Out: engines that fail as it says, at
every request whose question holds `match` (empty: at every one). With `times` and a folder, only so often, over all
processes that share the folder. Kinds: `die` (SIGKILL of the process), `hang`, `freeze` (with the interpreter's lock
held), `oom`, `raise`, `empty` (answers without a token), `few` (answers are lacking), `endless` (far more than was
asked for), `slow=SECONDS`; while an engine opens, whatever `match` says: `open-refuse`, `open-oom`, `open-hang`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KINDS = (
    "die",
    "hang",
    "freeze",
    "oom",
    "raise",
    "empty",
    "few",
    "endless",
    "slow",
    "open-refuse",
    "open-oom",
    "open-hang",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Example: Fault("die", "Tom", 2, "/tmp/marks") or Fault("slow=0.5", "", None, "")"""

    kind: str
    match: str
    times: int | None
    folder: str

    def strikes(self, question: str) -> bool:
        """Whether it is this one's turn; counts it."""
        if self.match not in question:
            return False
        return self.times is None or any(self._first(turn) for turn in range(self.times))

    def _first(self, turn: int) -> bool:
        try:
            Path(self.folder, f"{self.kind}.{turn}").open("x").close()
        except FileExistsError:
            return False
        return True


def parse(text: str) -> tuple[Fault, ...]:
    """The faults that a script says. Raises ValueError."""
    faults = []
    for part in filter(None, text.split(",")):
        kind, _, rest = part.partition(":")
        match, *more = rest.split(":")
        if kind.partition("=")[0] not in KINDS or len(more) not in (0, 2):
            raise ValueError(f"bad fault {part!r}: write kind:match or kind:match:times:folder ({', '.join(KINDS)})")
        faults.append(Fault(kind, match, int(more[0]) if more else None, more[1] if more else ""))
    return tuple(faults)
