"""Planned faults and times of the scripted engine, to test how a run handles an engine that fails or takes its time.

In: a script (`engine.script`), `kind:match[:times:folder]` separated by commas. Out: faults that happen at every
request whose question contains `match` (empty: at every request); with `times` and a folder at most so many times,
counted over all processes that share the folder. Kinds: `die` (SIGKILL of the process), `hang`, `freeze` (a hang that
holds the interpreter's lock), `oom`, `raise`, `empty` (samples without a token), `few` (too few samples), `endless` (a
sample far above its bound), `slow=SECONDS`; and while an engine opens, at every place whose name contains `match` (such
as `GPU 1`): `open-refuse`, `open-oom`, `open-hang`, and `open-slow=SECONDS`, which delays each later
model too.

`step=SECONDS` is no fault: each decoding step of the engine takes so long and adds a token to each of at most
`engine.max_num_seqs` sequences, those of all requests together, as in vLLM's continuous batching.
"""

from __future__ import annotations

import math
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
STEP = "step"


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
    step_seconds(text)
    faults = []
    for part in _parts(text):
        kind, _, rest = part.partition(":")
        if kind.partition("=")[0] == STEP:
            continue
        match, *more = rest.split(":")
        if kind.partition("=")[0] not in KINDS or len(more) not in (0, 2):
            raise ValueError(
                f"bad fault {part!r}: write kind:match, kind:match:times:folder ({', '.join(KINDS)}), or step=SECONDS"
            )
        faults.append(Fault(kind, match, int(more[0]) if more else None, more[1] if more else ""))
    return tuple(faults)


def step_seconds(text: str) -> float:
    """Seconds of a decoding step of the engine with this script; 0 where it answers at once. Raises ValueError."""
    steps = [part.partition("=")[2] for part in _parts(text) if part.partition("=")[0] == STEP]
    try:
        seconds = [float(step) for step in steps]
    except ValueError:
        raise ValueError(f"bad step {steps!r}: write step=SECONDS, such as step=0.02") from None
    if len(seconds) > 1 or not all(0 < step < math.inf for step in seconds):
        raise ValueError(f"bad step {steps!r}: write step=SECONDS once, with a number above 0")
    return sum(seconds)


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part]
