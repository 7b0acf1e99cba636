"""A driver with a Ray of its own, of 8 logical GPUs: how actor pools grow and shrink. Prints one JSON object."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

import ray

from rft_ray import config
from rft_ray.data.problems import commit_problems
from rft_ray.runtime import ray_private
from rft_ray.runtime.actor_pool import Pool, ShardReceipt, run_actors
from rft_ray.sampling.stage import sample
from rft_ray.store import open_store, read_table
from rft_ray.store.shards import Shard
from tests.integration.sampling_driver import JOB, PROBLEMS, SET

GPUS = 8


class Meeting:
    """Waits with each shard until so many processes have one; at most two minutes."""

    def __init__(self, folder: Path, processes: int) -> None:
        self._folder, self._processes = folder, processes
        folder.joinpath(f"{os.getpid()}.started").touch()

    def __call__(self, shard: Shard) -> ShardReceipt:
        self._folder.joinpath(f"{os.getpid()}.busy").touch()
        deadline = time.monotonic() + 120
        while len(list(self._folder.glob("*.busy"))) < self._processes and time.monotonic() < deadline:
            time.sleep(0.1)
        return ShardReceipt(shard.stem)


def workers(folder: Path, shards: int, most: int) -> dict[str, int]:
    """Processes with a worker, and those that got a shard, in a stage that works on one shard at a time."""
    folder.mkdir()
    work = [Shard("verdicts", "5" * 16, "f" * 16, block, block, block + 1, 0) for block in range(shards)]
    make = partial(Meeting, folder, min(shards, most))
    for _ in run_actors("meet", make, work, Pool(1, most), ShardReceipt):
        pass
    return {name: len(list(folder.glob(f"*.{name}"))) for name in ("started", "busy")}


def engines(folder: Path, problems: int, samples: int, script: str) -> dict[str, list[float]]:
    """Shards by engine, and free GPUs by half second, of a sampling stage that may use every GPU.

    An engine works on two shards at once.
    """
    options = ["models=[{name: a, source: x}]", "sampling.engine=scripted", f"engine.script='{script}'"]
    engine = config.load(None, [*options, f"engine.max_actors={GPUS}", "engine.shards_in_flight=2"]).engine
    store = open_store(str(folder))
    commit_problems(store, SET)
    free: list[float] = []
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(free, stop), daemon=True)
    watcher.start()
    job = replace(JOB, problems=problems, problems_per_block=1, samples_per_problem=samples)
    sample([job], store, engine, run_seed=0)
    stop.set()
    watcher.join()
    metadata = [read_table(store, key)[1] for key in store.list("completions/")]
    shards = Counter(json.loads(shard["engine"])["incarnation"] for shard in metadata)
    return {"shards": sorted(shards.values()), "free": free}


def watch(free: list[float], stop: threading.Event) -> None:
    """Append the number of free GPUs, each half second, until it is stopped."""
    while not stop.wait(0.5):
        free.append(ray.available_resources().get("GPU", 0))


def main(folder: Path) -> None:
    last = PROBLEMS[-1].question[:25]
    result = {
        "engines": engines(folder / "engines", 40, 8, f"slow=2:,slow=20:{last}"),
        "workers": workers(folder / "workers", 24, 8),
        "three": workers(folder / "three", 3, 8),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as temp:  # sockets: short paths
        arguments = {"address": "local", "num_cpus": 16, "num_gpus": GPUS, "include_dashboard": False}
        arguments |= {"object_store_memory": 128 * 2**20, "log_to_driver": False, ray_private.TEMP_FOLDER: temp}
        ray.init(**arguments, **ray_private.LOOPBACK)
        main(Path(sys.argv[1]))
        ray.shutdown()
