"""The Ray that a job's driver uses: the cluster it was submitted to, or one of its own on loopback."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rft_ray.config import Training
from rft_ray.runtime.actor_pool import StageError
from rft_ray.store import Store


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (a submitted job's own), else start one on loopback."""
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(log_to_driver=False)
        return
    # a checkout that is not installed: workers import this package whatever folder the job was started in
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    import ray

    # logical CPUs: actors are few and bound their own threads, so there may be more of them than cores
    ray.init(
        address="local",
        num_cpus=max(8, os.cpu_count() or 1),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
    )


def cluster_has_gpu(device: str) -> bool:
    """Whether actors ask for GPUs: as the config says, or `auto`: if the cluster has one now."""
    return device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)


def check_shared(store: Store) -> None:
    """Refuse a local-disk store that some node of the cluster does not see. Each node is probed. Raises StageError."""
    if store.local_path("summary.json") is None:
        return
    if f"{os.sep}working_dir_files{os.sep}" in str(store.local_path("summary.json")):
        raise StageError(
            f"the run's store {store.url} lies in Ray's copy of the working directory, which the next submission does "
            "not see: give run.store as an absolute path or as s3://bucket/prefix"
        )
    key = f".probe/{uuid.uuid4().hex}"
    store.create(key, b"shared?")
    path = store.local_path(key)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    probe = ray.remote(num_cpus=0)(os.path.exists)
    seen = [probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)) for n in nodes]
    blind = [
        node["NodeManagerAddress"]
        for node, there in zip(nodes, ray.get([task.remote(str(path)) for task in seen]), strict=True)
        if not there
    ]
    if path is not None:  # a probe is no commit
        path.unlink(missing_ok=True)
    if blind:
        raise StageError(
            f"the run's store {store.url} is a local folder that these nodes do not share: {', '.join(blind)}; "
            "use a shared disk, or run.store=s3://bucket/prefix"
        )


def uses_gpu(settings: Training) -> bool:
    """Whether the workers ask for GPUs."""
    import ray

    if settings.device == "auto":
        return bool(ray.cluster_resources().get("GPU", 0) > 0)
    return settings.device == "gpu"
