"""One of two gloo ranks that train a small model in outages of the store, break off, and go on; without Ray.

    python -m tests.integration.outage_driver FOLDER RANK PORT

In: a folder with `base/`. Out: `store/`, and by each rank `met-RANK.json`, the operations that failed at first. One
outage of each of the two attempts takes longer than the time-out of the training's own collectives: of rank 1's rows,
and of rank 0's look at what is committed.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import outages
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.models.committed import commit_model
from rft_ray.training import worker
from rft_ray.training.scratch import claim, release
from rft_ray.training.trainer import Group
from tests.flickering_store import FlickeringStore
from tests.integration.resizing_driver import BREAK_AT, joined, train
from tests.integration.small_training import DATA, PLAIN, RECIPE, SEEDED, TEMPLATE, filled

WORLD, TIMEOUT_S, OUTAGE_S = 2, 15, 18
START = SEEDED
"""The committed model that the training starts from."""


def main(folder: Path, rank: int, port: int) -> None:
    import torch.distributed

    groups = joined(rank, WORLD, port, timeout=timedelta(seconds=TIMEOUT_S))
    outages.OUTAGE_WAIT_S = 0.05
    if rank == 0:
        commit_model(filled(LocalStore(folder / "store")), START, folder / "base", {})
    torch.distributed.barrier()
    settings = Training(
        workers=WORLD, zero_stage=2, micro_batch_size=2, checkpoint_every_steps=BREAK_AT, device="cpu", packing="off"
    )
    job = TrainingJob("tiny", "sft", PLAIN, str(folder / "base"), DATA, RECIPE, TEMPLATE, 0, start=START)
    met = []
    for attempt, (late, key) in {
        "first": (1, DATA.removesuffix("parquet")),
        "second": (0, f"models/{PLAIN}/manifest."),
    }.items():
        store: Any = FlickeringStore(folder / "store", key if rank == late else "-", OUTAGE_S)
        group = Group(attempt, store, settings, False, None, rank, rank, WORLD, workers_of_node=WORLD, **groups)
        with suppress(StoreUnreachable):
            list(store.list(f"work/{PLAIN}/"))  # what `train` itself asks for, to break off
        worker._each_node(group, claim)
        train(group, job, broken_off=attempt == "first")
        worker._each_node(group, release)
        met += store.met
    (folder / f"met-{rank}.json").write_text(json.dumps(met))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
