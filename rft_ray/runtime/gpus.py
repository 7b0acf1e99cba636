"""The GPUs of this machine, and whether the installed packages can use them. Imports neither Ray nor PyTorch.

Ray counts a machine's GPUs by its driver. With torch's CPU build, which `make setup` installs where there is no GPU or
where it is asked to, a stage that asked for one of them would fail.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

NO_DEVICE = ("", "-1", "NoDevFiles")
"""Words of CUDA_VISIBLE_DEVICES for no device; those after such a one do not count."""


def usable_gpus() -> int:
    """The NVIDIA GPUs of this machine that this process may use; 0 where torch is built for CPUs only.

    By the device files and CUDA_VISIBLE_DEVICES, in which Ray names the GPUs of a job that has asked for some.
    """
    if not built_for_gpus():
        return 0
    here = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return here
    return min(here, len(list(takewhile(lambda device: device not in NO_DEVICE, visible.replace(" ", "").split(",")))))


def built_for_gpus() -> bool:
    """Whether the installed torch is not the CPU build."""
    return "+cpu" not in version("torch")


def ray_options() -> dict[str, int]:
    """Arguments of `ray.init` for a Ray of this process's own: with torch's CPU build it counts no GPUs."""
    return {} if built_for_gpus() else {"num_gpus": 0}
