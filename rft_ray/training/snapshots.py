"""Copies of the training's state in the host's memory, from which checkpoints are written while the training goes on.

In: the states that DeepSpeed would write itself. Out: the same files, later. The training waits for the copy, which
takes seconds, and not for the disk. Where the host has too little memory, DeepSpeed writes the file at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

from rft_ray.training.device_memory import host_memory_left

HOST_SHARE = 0.5
"""Share of the host's free memory that the copies of all its workers may take."""


class Snapshot:
    """The state of one file, as it was when this was made: nothing that the training changes later is in it."""

    def __init__(self, state: Any, path: Path) -> None:
        tensors = list(_tensors(state))
        places = {_place(tensor): tensor for tensor in tensors}
        copies = {place: tensor.detach().to("cpu", copy=True) for place, tensor in places.items()}
        self._state = deepcopy(state, {id(tensor): copies[_place(tensor)] for tensor in tensors})
        self._path = path

    def write(self) -> None:
        """Write the file, as `torch.save` would have."""
        import torch

        self._path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self._state, self._path)


class Snapshots:
    """The snapshots of the next checkpoint, taken on behalf of DeepSpeed."""

    def __init__(self, workers_of_host: int) -> None:
        self._workers = workers_of_host
        self._kept: list[Snapshot] = []

    def keep(self, state: Any, path: str) -> bool:
        """Copy a state that is to be written to `path`. False: there is not enough memory, and nothing was done."""
        if bytes_of(state) * self._workers > HOST_SHARE * host_memory_left():
            return False
        self._kept.append(Snapshot(state, Path(path)))
        return True

    def take(self) -> list[Snapshot]:
        """The snapshots since the last call."""
        kept, self._kept = self._kept, []
        return kept


def bytes_of(state: Any) -> int:
    """Bytes of the tensors in a state; one that is there twice, as of tied weights, counts once."""
    return sum(tensor.nbytes for tensor in {_place(tensor): tensor for tensor in _tensors(state)}.values())


def _place(tensor: Any) -> tuple[Any, ...]:
    """What tensors of the same memory have in common: a state names tied weights by a tensor each."""
    storage = tensor.untyped_storage().data_ptr() or id(tensor)  # none: an empty tensor
    return storage, tensor.device, tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()


def _tensors(state: Any) -> Iterator[Any]:
    """The tensors in nested dictionaries, lists and tuples; a tensor that is there twice comes twice."""
    import torch

    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        yield from chain.from_iterable(map(_tensors, state.values()))
    elif isinstance(state, list | tuple):
        yield from chain.from_iterable(map(_tensors, state))
