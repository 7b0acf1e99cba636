"""The folder of a node for files that training has on their way: to a remote store, or to a finished model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rft_ray.config import Training


def scratch_folder(settings: Training) -> Path:
    """`training.scratch_folder` on this node, made where it is missing; the system's temporary folder without it."""
    folder = Path(settings.scratch_folder or tempfile.gettempdir()).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
