"""The marker of a run, `run.json`: the first file of every run, created once, by which a run is recognised.

In: bytes. Out: a `RunMarker`. Who writes it and who asks for it: `runs.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

KEY: Final = "run.json"
FORMAT: Final = 1
"""Raised when older versions of this program can no longer read a run."""


@dataclass(frozen=True, slots=True)
class RunMarker:
    """The identity of a run. Example: RunMarker("5f0c…", 1, 1767225600.0)"""

    id: str
    """Random: two runs never have the same one."""
    format: int
    created_unix: float


def encode(marker: RunMarker) -> bytes:
    """The content of `run.json`."""
    return json.dumps(asdict(marker), indent=1).encode()


def decode(data: bytes) -> RunMarker:
    """The marker that `encode` wrote; later versions may add fields. Raises ValueError where it is damaged."""
    try:
        tree = json.loads(data)
        return RunMarker(str(tree["id"]), int(tree["format"]), float(tree["created_unix"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no usable field {error}") from error
