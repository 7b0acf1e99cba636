"""The GPUs of this machine, and whether the installed packages can use them. Imports neither Ray nor PyTorch.

Ray counts a machine's GPUs by its driver. With torch's CPU build, which `make setup` installs where there is no GPU or
where it is asked to, a stage that asked for one of them would fail.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path


def usable_gpus() -> int:
    """The number of NVIDIA GPUs of this machine, by its device files; 0 where torch is built for CPUs only."""
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if built_for_gpus() else 0


def built_for_gpus() -> bool:
    """Whether the installed torch is not the CPU build."""
    return "+cpu" not in version("torch")


def ray_options() -> dict[str, int]:
    """Arguments of `ray.init` for a Ray of this process's own: with torch's CPU build it counts no GPUs."""
    return {} if built_for_gpus() else {"num_gpus": 0}
