"""One of several gloo ranks that train small models, break off, and go on in another ZeRO stage; without Ray.

    python -m tests.integration.resizing_driver FOLDER RANK WORLD PORT

In: a folder with `base/` and `runs.json`, a list of `Run`s. Out: `stores/<name>` of each run; by rank 0, `losses.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import committed_model
from rft_ray.training import worker
from rft_ray.training.agreement import patient_group, wait_for_all
from rft_ray.training.checkpoints import MANIFEST
from rft_ray.training.scratch import claim, release
from rft_ray.training.trainer import Group, forget_deepspeed
from tests.integration.small_training import DATA, PLAIN, TEMPLATE, filled

BREAK_AT = 2
"""Step after which a run is broken off where it is asked to; the checkpoint is of this step."""


@dataclass(frozen=True)
class Run:
    """Example: Run("to 3", 3, {"dtype": "float32"}, after="from 0")"""

    name: str
    zero_stage: int
    recipe: dict[str, Any]
    broken_off: bool = False
    after: str = ""
    """The run whose checkpoint this one begins with."""


class BrokenOff(Exception):
    """Raised by every rank once the checkpoint of the step is committed."""


def joined(rank: int, world: int, port: int, **options: Any) -> dict[str, Any]:
    """Join the ranks. `options`: of DeepSpeed's `init_distributed`. Returns the process groups that a `Group` has."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world)}
    import deepspeed
    import ray
    import torch

    from rft_ray.training import transformers_private

    ray.get_runtime_context = lambda: SimpleNamespace(get_node_id=lambda: "here")  # which would start a cluster
    worker.PreemptionNotice = lambda nodes: lambda: False
    transformers_private.switch_off_shm_comm()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, **options)
    return {"patient": patient_group(), "background": patient_group()}


def main(folder: Path, rank: int, world: int, port: int) -> None:
    import torch

    groups = joined(rank, world, port)
    for run in (Run(**run) for run in json.loads((folder / "runs.json").read_text())):
        store = LocalStore(folder / "stores" / run.name)
        if rank == 0:
            filled(store)
            if run.after:
                left = LocalStore(folder / "stores" / run.after).local_path(f"work/{PLAIN}")
                shutil.copytree(left, store.local_path(f"work/{PLAIN}"))
        torch.distributed.barrier()
        settings = Training(
            workers=world, zero_stage=run.zero_stage, micro_batch_size=10, checkpoint_every_steps=BREAK_AT, device="cpu"
        )
        group = Group("attempt", store, settings, False, None, rank, rank, world, workers_of_node=world, **groups)
        job = TrainingJob("tiny", "sft", PLAIN, str(folder / "base"), DATA, Recipe(**run.recipe), TEMPLATE, 0)
        worker._each_node(group, claim)
        train(group, job, broken_off=run.broken_off)
        worker._each_node(group, release)
        if rank == 0:
            print(run.name, summary(store), flush=True)


def train(group: Group, job: TrainingJob, *, broken_off: bool) -> None:
    """The job as a worker trains it, to its end or to the first checkpoint."""
    from transformers import TrainerCallback

    trainers: list[Any] = []

    class BreakOff(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == BREAK_AT:
                while not any(key.endswith(MANIFEST) for key in group.store.list(f"work/{PLAIN}/")):
                    time.sleep(0.01)
                wait_for_all(group)
                raise BrokenOff

    def make_trainer(*arguments: Any) -> Any:
        trainers.append(make(*arguments))
        if broken_off:
            trainers[0].add_callback(BreakOff())
        return trainers[0]

    make, worker.make_trainer = worker.make_trainer, make_trainer
    try:
        worker._train_one(group, job)
    except BrokenOff:
        trainers[0].deepspeed.destroy()
    finally:
        worker.make_trainer = make
        forget_deepspeed()


def summary(store: LocalStore) -> str:
    manifest = committed_model(store, PLAIN)
    return "broken off" if manifest is None else str(manifest.metadata["training"]["final_loss"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
