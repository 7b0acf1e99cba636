"""Checkpoints of another number of workers or another ZeRO stage: which a run can go on from, and which it converts.

In: the layouts of a checkpoint and of a run. `universal_form.py` converts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Layout = Mapping[str, int | str]


def loadable(saved: Layout, own: Layout) -> bool:
    """Whether a run of the layout `own` can go on from a checkpoint of the layout `saved`: one of the same data.

    Numbers of workers and ZeRO stages may differ.
    """
    return _data(saved) == _data(own)


def needs_conversion(saved: Layout, own: Layout, files: Iterable[str]) -> bool:
    """Whether a loadable checkpoint of these files must be converted before a run of the layout `own` loads it.

    A state that is not divided is loaded without ZeRO by any number of workers.
    """
    if dict(saved) == dict(own):
        return False
    return own["zero_stage"] != 0 or any(name.endswith("optim_states.pt") for name in files)


def describe(layout: Layout) -> str:
    """Example: "2 workers, ZeRO stage 3" """
    workers = int(layout["workers"])
    return f"{workers} worker{'' if workers == 1 else 's'}, ZeRO stage {layout['zero_stage']}"


def _data(layout: Layout) -> dict[str, int | str]:
    return {name: value for name, value in layout.items() if name not in ("workers", "zero_stage")}
