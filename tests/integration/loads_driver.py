"""A driver with a Ray of its own, of 8 logical GPUs: how often engines load models. Prints one JSON object.

`loads_driver.py FOLDER MODELS`: each model is sampled for a corpus and for an evaluation. Every load takes LOAD_S.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

import ray

from rft_ray import config
from rft_ray.data.problems import commit_problems
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.runtime import ray_private
from rft_ray.sampling.stage import sample
from rft_ray.store import open_store, read_table
from tests.integration.sampling_driver import JOB, SET, SETTINGS

GPUS = 8
LOAD_S, SHARD_S = 4, 0.5


def jobs(models: int) -> list[SamplingJob]:
    """For each model 80 shards to collect and 40 greedy ones, which are half as many samples."""
    collected = [
        replace(JOB, model=ModelRef(f"m{i}", "sft", f"{i:x}" * 16), problems_per_block=1, samples_per_problem=4)
        for i in range(models)
    ]
    greedy = replace(SETTINGS, temperature=0.0, samples_per_block=1)
    return collected + [replace(job, settings=greedy, samples_per_problem=1) for job in collected]


def main(folder: str, models: int) -> None:
    script = f"open-slow={LOAD_S}:,slow={SHARD_S}:"
    options = ["models=[{name: a, source: x}]", "sampling.engine=scripted", f"engine.script='{script}'"]
    options += [f"engine.min_actors={GPUS}", f"engine.max_actors={GPUS}", "engine.shards_in_flight=2"]
    store = open_store(folder)
    commit_problems(store, SET)
    began = time.monotonic()
    sample(jobs(models), store, config.load(None, options).engine, run_seed=0)
    seconds = time.monotonic() - began
    loads: dict[str, int] = {}
    ended: dict[str, float] = {}
    keys = list(store.list("completions/"))
    for key in keys:
        metadata = read_table(store, key)[1]
        source = json.loads(metadata["engine"])
        name = source["incarnation"]
        loads[name] = max(loads.get(name, 0), source["swaps"] + 1)
        ended[name] = max(ended.get(name, 0), float(metadata["ended_unix"]))
    spread = max(ended.values()) - min(ended.values())
    print(json.dumps({"loads": sorted(loads.values()), "shards": len(keys), "seconds": seconds, "spread_s": spread}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as temp:  # sockets: short paths
        arguments = {"address": "local", "num_cpus": 16, "num_gpus": GPUS, "include_dashboard": False}
        arguments |= {"object_store_memory": 128 * 2**20, "log_to_driver": False, ray_private.TEMP_FOLDER: temp}
        ray.init(**arguments, **ray_private.LOOPBACK)
        main(sys.argv[1], int(sys.argv[2]))
        ray.shutdown()
