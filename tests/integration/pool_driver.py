"""A driver with a Ray of its own, of 8 logical GPUs: how actor pools grow and shrink. Prints one JSON object."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

import ray

from rft_ray import config
from rft_ray.data.problems import commit_problems
from rft_ray.records import Problem
from rft_ray.runtime import ray_private
from rft_ray.runtime.actor_pool import Pool, ShardReceipt, run_actors
from rft_ray.sampling.stage import sample
from rft_ray.store import open_store, read_table
from rft_ray.store.shards import Shard
from tests.integration.sampling_driver import JOB, PROBLEMS, SET

GPUS = 8


@dataclass(frozen=True, slots=True)
class Receipt(ShardReceipt):
    """A receipt that says which process worked."""

    process: int = 0


class SlowWorker:
    """Takes two seconds for a shard."""

    def __call__(self, shard: Shard) -> Receipt:
        time.sleep(2)
        return Receipt(shard.stem, process=os.getpid())


def processes(shards: int, most: int) -> list[int]:
    """Shards by process of a stage that works on one shard at a time."""
    work = [Shard("verdicts", "5" * 16, "f" * 16, block, block, block + 1, 0) for block in range(shards)]
    return sorted(Counter(r.process for r in run_actors("wait", SlowWorker, work, Pool(1, most), Receipt)).values())


def engines(folder: str, problems: int, samples: int, script: str) -> list[int]:
    """Shards by engine of a sampling stage that may use every GPU, and works on two shards at once in each."""
    options = ["models=[{name: a, source: x}]", "sampling.engine=scripted", f"engine.script='{script}'"]
    engine = config.load(None, [*options, f"engine.max_actors={GPUS}", "engine.shards_in_flight=2"]).engine
    store = open_store(folder)
    commit_problems(store, SET)
    job = replace(JOB, problems=problems, problems_per_block=1, samples_per_problem=samples)
    sample([job], store, engine, run_seed=0)
    metadata = [read_table(store, key)[1] for key in store.list("completions/")]
    return sorted(Counter(json.loads(shard["engine"])["incarnation"] for shard in metadata).values())


def watch(free: list[float], stop: threading.Event) -> None:
    """Append the number of free GPUs, each half second, until it is stopped."""
    while not stop.wait(0.5):
        free.append(ray.available_resources().get("GPU", 0))


def main(folder: str) -> None:
    free: list[float] = []
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(free, stop))
    watcher.start()
    last: Problem = PROBLEMS[-1]
    many = engines(f"{folder}/many", 40, 8, f"slow=2:,slow=20:{last.question[:25]}")
    stop.set()
    watcher.join()
    few = engines(f"{folder}/few", 3, 2, "slow=2:")
    print(json.dumps({"many": many, "free": free, "few": few, "workers": processes(24, 8), "three": processes(3, 8)}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as temp:  # sockets: short paths
        arguments = {"address": "local", "num_cpus": 16, "num_gpus": GPUS, "include_dashboard": False}
        arguments |= {"object_store_memory": 128 * 2**20, "log_to_driver": False, ray_private.TEMP_FOLDER: temp}
        ray.init(**arguments, **ray_private.LOOPBACK)
        main(sys.argv[1])
        ray.shutdown()
