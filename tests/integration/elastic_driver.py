"""A driver with a Ray of its own, to train where resources are missing, appear late, or leave: `elastic_driver.py
SCENARIO FOLDER`.

Scenarios: `gpus` (three models on five logical GPUs, whose groups hold two each and do nothing), `late` (two models at
once; the node for them comes when both wait), `never` (no node comes), `drain` (the node is announced to leave, and
leaves) and `stop` (the driver is interrupted while it trains). Prints what training prints, then one JSON object.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # before rft_ray, which need not be installed

import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from rft_ray.config import Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store.backends.local import LocalStore
from rft_ray.training.checkpoints import committed, work_folder
from rft_ray.training.results import STARTED, TrainingError
from rft_ray.training.side_by_side import Groups
from rft_ray.training.stage import _train_missing, train
from tests.integration.places_driver import free_port
from tests.integration.small_training import (
    DATA,
    PLAIN,
    RECIPE,
    SAME_STEPS,
    SEEDED,
    SETTINGS,
    TEMPLATE,
    filled,
    written_base,
)

SMALL = {"object_store_memory": 128 * 2**20, "node_ip_address": "127.0.0.1"}
PREEMPTED = 2
"""`DRAIN_NODE_REASON_PREEMPTION` of Ray's autoscaler.proto."""
ONE = SETTINGS.model_copy(update={"workers": 1})


def started(folder: Path) -> Cluster:
    """A cluster whose head has no CPUs; this process joins it."""
    cluster = Cluster(shutdown_at_exit=False)
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": free_port()}
    cluster.add_node(num_cpus=0, temp_dir=f"{folder}/0", **dashboard, **SMALL)
    ray.init(address=cluster.address, log_to_driver=False)
    return cluster


def placed() -> int:
    """Worker groups that have their resources."""
    return sum(group["state"] == "CREATED" for group in placement_group_table().values())


def waiting() -> int:
    return sum(group["state"] == "PENDING" for group in placement_group_table().values())


def until(condition: Callable[[], bool], seconds: float = 300) -> bool:
    """Whether the condition came true in this time."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held


def hold(marker: str, folder: str) -> None:
    """Take the place of a worker group: mark its beginning, note who else holds GPUs, and keep them for a while."""
    Path(marker).parent.mkdir(parents=True, exist_ok=True)
    Path(marker).touch()
    here = Path(folder, str(os.getpid()))
    here.touch()
    time.sleep(8)
    together = sum(not path.suffix for path in Path(folder).iterdir())
    here.rename(here.with_suffix(f".{together}"))


def gpus(cluster: Cluster, jobs: list[TrainingJob], store: LocalStore, folder: Path) -> dict[str, Any]:
    """How many groups held GPUs at once, with the settings' defaults."""
    cluster.add_node(num_cpus=8, num_gpus=5, temp_dir=f"{folder}/1", **SMALL)
    jobs.append(replace(jobs[0], model="third", fingerprint=SAME_STEPS))
    held = folder / "held"
    held.mkdir()

    def start(group: list[TrainingJob], attempt: str, *_: object, **__: object) -> Any:
        [job] = group
        marker = store.local_path(f"{work_folder(job.fingerprint, attempt)}/{STARTED}")
        return ray.remote(num_gpus=2)(hold).remote(str(marker), str(held))

    settings = Training(workers=2)
    with Groups(store, settings, None, gpu=True, jobs=len(jobs), start=start) as groups:
        attempts = _train_missing(jobs, groups, store, settings)
    others = [int(path.suffix[1:]) for path in held.iterdir()]
    return {"attempts": len(attempts), "together": sorted(others)}


def late(cluster: Cluster, jobs: list[TrainingJob], store: LocalStore, folder: Path) -> dict[str, Any]:
    """The most groups that had their resources at once, and whether each model is committed by its first attempt."""
    together: list[int] = []

    def add() -> None:
        until(lambda: waiting() == 2)
        time.sleep(8)
        cluster.add_node(num_cpus=2, temp_dir=f"{folder}/1", **SMALL)
        while not ended.wait(0.2):
            together.append(placed())

    ended = threading.Event()
    thread = threading.Thread(target=add, daemon=True)
    thread.start()
    settings = ONE.model_copy(update={"parallel_jobs": 2, "max_attempts": 1, "wait_minutes": 20})
    results = train(jobs, store.url, settings, print)
    ended.set()
    thread.join()
    return {"together": max(together), "trained": [result.committed_here for result in results]}


def never(cluster: Cluster, jobs: list[TrainingJob], store: LocalStore, folder: Path) -> dict[str, Any]:
    """The error of a wait that ends."""
    try:
        train(jobs, store.url, Training(workers=2, device="cpu", wait_minutes=0.2))
    except TrainingError as error:
        return {"error": str(error), "waiting": waiting()}
    return {}


def stop(cluster: Cluster, jobs: list[TrainingJob], store: LocalStore, folder: Path) -> dict[str, Any]:
    """Whether the groups' CPUs are free again after the driver was interrupted."""
    cluster.add_node(num_cpus=2, temp_dir=f"{folder}/1", **SMALL)

    def interrupt() -> None:
        until(lambda: placed() == 2)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        train(jobs, store.url, ONE.model_copy(update={"parallel_jobs": 2}), print)
    except KeyboardInterrupt:
        return {"free": until(lambda: ray.available_resources().get("CPU") == 2, 60), "groups": placed()}
    return {}


def drain(cluster: Cluster, jobs: list[TrainingJob], store: LocalStore, folder: Path) -> dict[str, Any]:
    """How a training goes on whose node is taken away after a notice, where only the notice makes a checkpoint."""
    node = cluster.add_node(num_cpus=1, temp_dir=f"{folder}/1", **SMALL)
    job = replace(jobs[0], recipe=RECIPE.model_copy(update={"epochs": 400}))
    seen: list[int] = []

    def leave() -> None:
        until(lambda: bool(seen))
        deadline = int(1000 * (time.time() + 600))
        client = ray._private.worker.global_worker.gcs_client
        client.drain_node(node.node_id, PREEMPTED, "the spot node ends", deadline)
        until(lambda: bool(committed(store, PLAIN)))
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, temp_dir=f"{folder}/2", **SMALL)

    threading.Thread(target=leave, daemon=True).start()
    settings = ONE.model_copy(update={"max_attempts": 1, "checkpoint_every_steps": None})
    [result] = train([job], store.url, settings, lambda progress: seen.append(progress.step))
    return {"seen": seen[0], "resumed": result.record.resumed_at_step, "steps": result.record.steps}


def main(scenario: str, folder: Path) -> None:
    store = filled(LocalStore(folder / "store"))
    job = TrainingJob("tiny", "sft", PLAIN, str(written_base(folder / "base")), DATA, RECIPE, TEMPLATE, 0)
    jobs = [job, replace(job, model="other", fingerprint=SEEDED, seed=1)]
    with tempfile.TemporaryDirectory(prefix="rft", ignore_cleanup_errors=True) as temp:  # sockets: short paths
        cluster = started(Path(temp))
        try:
            result = {"gpus": gpus, "late": late, "never": never, "drain": drain, "stop": stop}[scenario](
                cluster, jobs, store, Path(temp)
            )
        finally:
            ray.shutdown()
            cluster.shutdown()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
