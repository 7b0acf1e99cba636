"""Copies of the training's state in the host's memory, from which checkpoints are written while the training goes on.

In: the states that DeepSpeed would write itself. Out: the same files, later. The training waits for the copy, which
takes seconds, and not for the disk. Where the host has too little memory, DeepSpeed writes the file at once.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from rft_ray.training.device_memory import host_memory_left

HOST_SHARE = 0.5
"""Share of the host's free memory that the copies of all its workers may take."""


class Snapshot:
    """The state of one file, as it was when this was made: nothing that the training changes later is in it."""

    def __init__(self, state: Any, path: Path) -> None:
        self.path = path
        self._tensors: list[Any] = []
        self._rest = io.BytesIO()
        _Pickler(self._rest, self._tensors).dump(state)

    @property
    def bytes(self) -> int:
        """Memory that `copy` takes."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def copy(self) -> None:
        """Replace the training's tensors by copies of their values."""
        self._tensors = [tensor.detach().to("cpu", copy=True) for tensor in self._tensors]

    def write(self) -> None:
        """Write the file, as `torch.save` would have."""
        import torch

        self._rest.seek(0)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_Unpickler(self._rest, self._tensors).load(), self.path)


class Snapshots:
    """The snapshots of the next checkpoint, taken on behalf of DeepSpeed."""

    def __init__(self, workers_of_host: int) -> None:
        self._workers = workers_of_host
        self._kept: list[Snapshot] = []

    def keep(self, state: Any, path: str) -> bool:
        """Copy a state that is to be written to `path`. False: there is not enough memory, and nothing was done."""
        snapshot = Snapshot(state, Path(path))
        if snapshot.bytes * self._workers > HOST_SHARE * host_memory_left():
            return False
        snapshot.copy()
        self._kept.append(snapshot)
        return True

    def take(self) -> list[Snapshot]:
        """The snapshots since the last call."""
        kept, self._kept = self._kept, []
        return kept


class _Pickler(pickle.Pickler):
    """Pickles everything but tensors, of which it collects each once."""

    def __init__(self, file: io.BytesIO, tensors: list[Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._tensors = tensors
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        import torch

        if not isinstance(value, torch.Tensor):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._tensors)
            self._tensors.append(value)
        return self._numbers[id(value)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Any]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, number: int) -> Any:
        return self._tensors[number]
