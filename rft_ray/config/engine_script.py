"""Planned faults of the scripted engine, to test how a run handles an engine that fails.

In: a script (`engine.script`), `kind:match[:times:folder]` separated by commas. Out: faults that happen at every
request whose question contains `match` (empty: at every request); with `times` and a folder at most so many times,
counted over all processes that share the folder. Kinds: `die` (SIGKILL of the process), `hang`, `freeze` (a hang that
holds the interpreter's lock), `oom`, `raise`, `empty` (samples without a token), `few` (too few samples), `endless` (a
sample far above its bound), `slow=SECONDS`; and while an engine opens, at every place whose name contains `match` (such
as `GPU 1`): `open-refuse`, `open-oom`, `open-hang`, and `open-slow=SECONDS`, which delays each later model too.
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
    "open-slow",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a script. Example: Fault("die", "Tom", 2, "/tmp/marks") or Fault("slow=0.5", "", None, "")"""

    kind: str
    match: str
    times: int | None
    folder: str

    def strikes(self, text: str) -> bool:
        """Whether the fault happens at a request with this question, or at this place; counts it if so."""
        if self.match not in text:
            return False
        return self.times is None or any(self._claim(number) for number in range(self.times))

    def _claim(self, number: int) -> bool:
        """Whether this process is the first to count the fault as number `number`."""
        try:
            Path(self.folder, f"{self.kind}.{number}").open("x").close()
        except FileExistsError:
            return False
        return True


def parse(text: str) -> tuple[Fault, ...]:
    """The faults that a script lists. Raises ValueError."""
    faults = []
    for part in filter(None, text.split(",")):
        kind, _, rest = part.partition(":")
        match, *more = rest.split(":")
        if kind.partition("=")[0] not in KINDS or len(more) not in (0, 2):
            raise ValueError(f"bad fault {part!r}: write kind:match or kind:match:times:folder ({', '.join(KINDS)})")
        faults.append(Fault(kind, match, int(more[0]) if more else None, more[1] if more else ""))
    return tuple(faults)
