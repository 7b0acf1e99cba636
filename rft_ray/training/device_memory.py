"""A training worker's own device and host: whether activations are kept, how many threads an optimizer on CPUs has, and
how much memory is left.

In: the job's settings and what the worker sees of its node. Out: decisions that change speed and memory and, but for
floating-point rounding, no weight.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.config.hardware import Card, card_of_device
from rft_ray.plan.memory import training_memory
from rft_ray.plan.memory_plan import training_settings
from rft_ray.plan.model_shape import shape_of
from rft_ray.store.models.folder import parameters, read_json

USABLE = 0.94
"""Share of a device's memory that is planned with, where its card is not in the table: that of cards that are."""


def checkpoints_activations(base: Path, settings: Training, recipe: Recipe, card: Card | None) -> bool:
    """Whether activations are computed again instead of kept, with `auto` resolved. `card`: None for a CPU."""
    if settings.activation_checkpointing != "auto":
        return settings.activation_checkpointing == "on"
    if card is None:
        return False
    shape = shape_of(read_json(base / "config.json", str(base)), parameters(base))
    if shape is None:  # nothing is known: the slower choice fits more often
        return True
    return training_memory(shape, training_settings(settings, recipe, shape), card).checkpointing


def card_here(gpu: bool) -> Card | None:
    """The card of this process; None without a GPU.

    It is made up from the device's memory where the table lacks it, and where the device is a part of a card (MIG, a
    virtual GPU), whose name it has.
    """
    if not gpu:
        return None
    import torch

    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    card = card_of_device(device.name)
    if card and card.memory_gib * 2**30 <= device.total_memory:
        return card
    return Card(device.name, int(USABLE * device.total_memory / 1e9), 0)


def host_memory_left(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of the host's memory that can still be taken, within this container's limit."""
    import psutil

    left = [psutil.virtual_memory().available]
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such cgroup, or `max`
            stat = (cgroup / limit).with_name("memory.stat").read_text().splitlines()
            reclaimable = sum(int(line.split()[1]) for line in stat if line.startswith(f"{cache} "))
            left.append(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()) + reclaimable)
    return max(0, min(left))


def cpu_threads(nodes: Iterable[Mapping[str, Any]], here: str, workers: int) -> int:
    """Threads of one of this node's `workers` training workers, for an optimizer whose state is in the host's memory.

    All of the node's cores, shared evenly: its logical CPUs (`ray.nodes()`), and no more than this process may use. Ray
    alone would set one thread, for the one CPU that a worker asks for.
    """
    logical = next((int(node["Resources"].get("CPU", 0)) for node in nodes if node["NodeID"] == here), 0)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(logical or usable, usable) // workers)
