"""A driver with a Ray of its own, of 4 logical A100 GPUs: which of them each engine gets. Prints one JSON object."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

import ray

from rft_ray import config
from rft_ray.runtime import ray_private
from rft_ray.runtime.actor_pool import ShardReceipt, run_actors
from rft_ray.sampling.stage import pool_of
from rft_ray.store.shards import Shard

GPUS = 4


class Placed:
    """Writes the GPUs of its process into a file, and waits until as many engines have done so; two minutes at most."""

    def __init__(self, folder: Path, engines: int) -> None:
        self._folder, self._engines = folder, engines
        folder.joinpath(str(os.getpid())).write_text(json.dumps(sorted(ray.get_gpu_ids())))

    def __call__(self, shard: Shard) -> ShardReceipt:
        deadline = time.monotonic() + 120
        while len(list(self._folder.iterdir())) < self._engines and time.monotonic() < deadline:
            time.sleep(0.1)
        return ShardReceipt(shard.stem)


def places(folder: Path, engines: int, **settings: object) -> list[list[int]]:
    """The GPUs of each engine of a stage with these settings."""
    folder.mkdir()
    given = {"min_actors": engines, "max_actors": engines, "shards_in_flight": 1, **settings}
    pool = pool_of(config.Engine.model_validate(given), gpu=True, cores=2)
    work = [Shard("verdicts", "5" * 16, "f" * 16, block, block, block + 1, 0) for block in range(engines)]
    for _ in run_actors("place", partial(Placed, folder, engines), work, pool, ShardReceipt):
        pass
    return sorted(json.loads(file.read_text()) for file in folder.iterdir())


def main(folder: Path) -> None:
    result = {
        "halves": places(folder / "halves", 4, gpus_per_engine=0.5),
        "pairs": places(folder / "pairs", 2, tensor_parallel_size=2, accelerator_type="A100"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as temp:  # sockets: short paths
        arguments = {"address": "local", "num_cpus": 8, "num_gpus": GPUS, "include_dashboard": False}
        arguments |= {"resources": {"accelerator_type:A100": 1.0}, "object_store_memory": 128 * 2**20}
        ray.init(**arguments, log_to_driver=False, **{ray_private.TEMP_FOLDER: temp}, **ray_private.LOOPBACK)
        main(Path(sys.argv[1]))
        ray.shutdown()
