"""Checkpoints of another number of workers: what may be loaded, and in which form.

In: a complete checkpoint and its layout. Out: a folder in DeepSpeed's universal form, which any number of workers
loads: one file per tensor of a parameter, merged from the parts of all ranks.

Limits: DeepSpeed's forms of ZeRO 1 and 2 are alike, and that of ZeRO 3 is another; neither is loaded by the other.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path

Layout = Mapping[str, int | str]


def loadable(saved: Layout, own: Layout) -> bool:
    """Whether a run of the layout `own` can go on from a checkpoint of the layout `saved`: of the same data, and alike.

    Without ZeRO every rank has the whole state. Numbers of workers may differ.
    """
    if _without_division(saved) != _without_division(own):
        return False
    return _form(int(saved["zero_stage"])) == _form(int(own["zero_stage"]))


def needs_universal_form(saved: Layout, own: Layout, files: Iterable[str]) -> bool:
    """Whether a loadable checkpoint of these files must be merged first: each rank has a part of the state."""
    return dict(saved) != dict(own) and any(name.endswith("optim_states.pt") for name in files)


def describe(layout: Layout) -> str:
    """Example: "2 workers, ZeRO stage 3" """
    workers = int(layout["workers"])
    return f"{workers} worker{'' if workers == 1 else 's'}, ZeRO stage {layout['zero_stage']}"


def to_universal_form(checkpoint: Path, out: Path) -> Path:
    """Write a checkpoint in universal form to a new folder `out`, with the trainer's own files. Returns `out`.

    Takes as much space as the checkpoint, and twice as much meanwhile.
    """
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    step = (checkpoint / "latest").read_text().strip()
    arguments = Namespace(
        input_folder=str(checkpoint / step),
        output_folder=str(out / step),
        num_extract_workers=1,  # in this process: a forked one would hang on the training's threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    return out


def _without_division(layout: Layout) -> dict[str, int | str]:
    return {name: value for name, value in layout.items() if name not in ("workers", "zero_stage")}


def _form(zero_stage: int) -> int:
    return {0: 0, 1: 1, 2: 1, 3: 3}[zero_stage]
