"""One of two gloo ranks that save checkpoints and a model together, without a training and without Ray.

    python -m tests.integration.saving_driver FOLDER RANK PORT

In: a folder with `model/`. Out, by each rank: `result-RANK.json`. The time-out of the training's own collectives is
shorter than rank 1's uploads take.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rft_ray.config import Training
from rft_ray.store import StoreError
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import checkpoints, final_weights
from rft_ray.training.agreement import SavingError, from_rank_0, patient_group
from rft_ray.training.checkpoint_writer import CheckpointWriter, Schedule
from rft_ray.training.trainer import Group

WORLD, TIMEOUT_S, UPLOAD_S = 2, 4, 6
JOB = "5f0c5f0c5f0c5f0c"


class SlowStore:
    """A store elsewhere: an upload takes `seconds`, or fails."""

    url = "s3://bucket/slow"

    def __init__(self, path: Path) -> None:
        self._there = LocalStore(path)
        self.seconds, self.full = 0.0, False
        self.uploads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def local_path(self, key: str) -> None:
        return None

    def create_file(self, key: str, path: Path) -> bool:
        time.sleep(self.seconds)
        if self.full:
            raise StoreError(f"S3 failed for {key}")
        self.uploads.append(key.rpartition("/")[2])
        return self._there.create_file(key, path)


def main(folder: Path, rank: int, port: int) -> None:
    import torch.distributed

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=WORLD, timeout=timedelta(seconds=TIMEOUT_S))
    store: Any = SlowStore(folder / "store")
    group = Group(
        *("a", store, Training(workers=WORLD, checkpoint_every_steps=4), False, None, rank, rank, WORLD),
        workers_of_node=WORLD,
        patient=patient_group(),
        background=patient_group(),
    )
    results = {"due": due(group), "saved": saved(group, store), "failed": failed(group, store)}
    results["model"] = model(group, store, folder / "model")
    (folder / f"result-{rank}.json").write_text(json.dumps(results))


def due(group: Group) -> list[int]:
    """The steps at which a checkpoint is due, by minutes that only rank 0 counts as over."""
    writer = CheckpointWriter(group, JOB)
    schedule = Schedule(group, writer, clock=lambda: 0.0 if group.rank else 1e9 * next(ticks))
    return [step for step in range(1, 7) if schedule.due(step)]


ticks = iter(range(100))


def saved(group: Group, store: Any) -> dict[str, Any]:
    """A checkpoint whose upload takes rank 1 longer than a collective may."""
    writer, step = CheckpointWriter(group, JOB), 4
    store.seconds = UPLOAD_S if group.rank else 0.0
    write(group, step)
    began = time.monotonic()
    writer.save(step, 1.5)
    stalled = time.monotonic() - began
    import torch

    for _ in range(20):  # the training's own collectives go on
        torch.distributed.all_reduce(torch.ones(1))
        time.sleep(0.05)
    writer.wait()
    store.seconds = 0.0
    stored = time.monotonic() - began
    (checkpoint,) = from_rank_0(group, lambda: checkpoints.committed(store, JOB))
    return {"stalled": stalled, "stored": stored, "files": sorted(checkpoint.files), "uploads": store.uploads.copy()}


def failed(group: Group, store: Any) -> dict[str, Any]:
    """A checkpoint that rank 1 cannot upload."""
    writer, step = CheckpointWriter(group, JOB), 8
    store.full = group.rank == 1
    write(group, step)
    writer.save(step, 3.0)
    try:
        writer.wait()
        message = ""
    except SavingError as error:
        message = str(error)
    store.full = False
    return {"message": message, "steps": [checkpoint.step for checkpoint in checkpoints.committed(store, JOB)]}


def model(group: Group, store: Any, folder: Path) -> dict[str, Any]:
    """The commit of a model, of which rank 1 uploads its part slowly."""
    store.uploads.clear()
    store.seconds = UPLOAD_S / 2 if group.rank else 0.0
    own = final_weights.divided({path: path.stat().st_size for path in folder.iterdir()}, WORLD)[group.rank]
    final_weights.commit(group, JOB, own, {"rank": group.rank})
    return {"uploads": sorted(store.uploads)}


def write(group: Group, step: int) -> None:
    """The files that a rank has of a checkpoint."""
    folder = checkpoints.local_folder(group.store, f"work/{JOB}/a/checkpoint-{step}", group.scratch)
    names = [f"zero_pp_rank_{group.rank}_mp_rank_00_optim_states.pt", *(["latest"] if group.rank == 0 else [])]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} {step}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
