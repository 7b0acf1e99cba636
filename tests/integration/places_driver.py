"""A driver with a Ray of its own, to sample while places or nodes fail: `places_driver.py SCENARIO FOLDER`.

Scenarios, which options of the config may follow: `gpus` (four logical GPUs on one node), and `lost` (two nodes with a
GPU each, one of which is killed while it samples and never comes back). Prints what the stage prints, then one JSON
object: the stage's error, if any, and the seconds that it took after the loss.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

import ray
from ray.cluster_utils import Cluster

from rft_ray import config
from rft_ray.data.problems import commit_problems
from rft_ray.runtime import ray_private
from rft_ray.runtime.actor_pool import StageError
from rft_ray.sampling.stage import sample
from rft_ray.store import Store, open_store, read_table
from tests.integration.sampling_driver import JOB, SET

QUIET = {"include_dashboard": False, "object_store_memory": 128 * 2**20}


def sampled(store: Store, options: list[str]) -> dict[str, Any]:
    """The error that the stage ends with, or none."""
    overrides = ["models=[{name: a, source: x}]", "sampling.engine=scripted", *options]
    commit_problems(store, SET)
    try:
        sample([JOB], store, config.load(None, overrides).engine, run_seed=0)
    except StageError as error:
        return {"error": str(error)}
    return {"error": ""}


def gpus(store: Store, folder: str, options: list[str]) -> dict[str, Any]:
    """Sample on one node with four logical GPUs."""
    arguments = {"address": "local", "num_cpus": 8, "num_gpus": 4, "log_to_driver": False, **QUIET}
    ray.init(**arguments, **{ray_private.TEMP_FOLDER: folder}, **ray_private.LOOPBACK)
    return sampled(store, options)


def lost(store: Store, folder: str, options: list[str]) -> dict[str, Any]:
    """Sample on two nodes with a GPU each; the second one is removed when it has sampled a shard."""
    cluster = Cluster(shutdown_at_exit=False)
    first = {"node_ip_address": "127.0.0.1", "temp_dir": f"{folder}/1", "dashboard_port": free_port(), **QUIET}
    cluster.add_node(num_cpus=2, num_gpus=1, **first)
    ray.init(address=cluster.address, log_to_driver=False)
    second = cluster.add_node(num_cpus=2, num_gpus=1, node_ip_address="127.0.0.1", temp_dir=f"{folder}/2")
    cluster.wait_for_nodes()
    removed: list[float] = []

    def remove() -> None:
        while len(engines(store)) < 2:  # each engine has committed a shard, and works on the next ones
            time.sleep(0.5)
        cluster.remove_node(second, allow_graceful=False)
        removed.append(time.monotonic())

    threading.Thread(target=remove, daemon=True).start()
    result = sampled(store, options)
    result["seconds"] = time.monotonic() - removed[0] if removed else -1
    ray.shutdown()
    cluster.shutdown()
    return result


def engines(store: Store) -> set[str]:
    """The engines that have committed shards."""
    metadata = [read_table(store, key)[1] for key in store.list("completions/")]
    return {str(json.loads(shard["engine"])["incarnation"]) for shard in metadata}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(scenario: str, url: str, options: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as folder:  # sockets: short paths
        for name in "12":
            os.mkdir(f"{folder}/{name}")
        result = {"gpus": gpus, "lost": lost}[scenario](open_store(url), folder, options)
        print(json.dumps(result), flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
