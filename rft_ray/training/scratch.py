"""The folder of a node for files that training has on their way: to a remote store, or to a finished model.

In: `training.scratch_folder`, and the attempts at a run's trainings, of which several can be on one node: those of two
jobs, and one that was taken for dead. Out: a folder of each attempt's own, which no other deletes while it lives.

Limits: on a file system without locks the folders of killed attempts stay.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from rft_ray.config import Training
from rft_ray.store.models.node import locked
from rft_ray.training.results import TrainingError

_LOCK = ".held"
_held: dict[Path, TextIO] = {}
"""The locks of this process, which the system releases when it ends for any reason."""


def scratch_folder(settings: Training) -> Path:
    """`training.scratch_folder` on this node, made where it is missing; the system's temporary folder without it.

    Raises TrainingError where it cannot be made.
    """
    folder = Path(settings.scratch_folder or tempfile.gettempdir())
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user without a home
        raise TrainingError(
            f"training.scratch_folder {folder} cannot be used on this node ({error}): give a folder that can be "
            "written on every node"
        ) from error
    return folder


def claim(folder: Path) -> None:
    """Make a folder that is this process's until it ends, and delete those next to it that no process holds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock"):
        for other in folder.parent.iterdir():
            if other.is_dir() and other != folder and not _is_held(other):
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        _held[folder] = file = (folder / _LOCK).open("w")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def release(folder: Path) -> None:
    """Delete a folder that this process holds."""
    shutil.rmtree(folder, ignore_errors=True)
    if file := _held.pop(folder, None):
        file.close()


def _is_held(folder: Path) -> bool:
    """Whether a process holds the folder, or may hold it."""
    try:
        with (folder / _LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
