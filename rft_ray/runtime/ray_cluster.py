"""The Ray that a job's driver uses: the cluster that it was submitted to, or one of its own on loopback."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rft_ray.config.errors import ConfigError
from rft_ray.config.hardware import Card, card_of_type
from rft_ray.runtime import gpus, ray_private
from rft_ray.runtime.actor_pool import StageError
from rft_ray.store import Store


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, as a submitted job's does, or start one on loopback.

    Raises ConfigError where RAY_ADDRESS is no address of a cluster.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False)
        except ValueError:  # as for http://HEAD:8265, which `ray job submit` takes
            raise ConfigError(
                f"RAY_ADDRESS={address} is no address of a cluster: write HOST:6379 of its head, or unset it for a Ray "
                "on this machine; http://HEAD:8265 is for `ray job submit`"
            ) from None
        return
    # a checkout that is not installed: workers import this package whatever folder the job was started in
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # engines and trainers are what the cores are for: Ray's own processes and this one must not go before them
    os.environ.setdefault(ray_private.WORKER_NICENESS, "0")
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) and not _keeps_token(
        Path(os.path.expanduser("~/.ray"))
    ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    ray_private.without_token_notice()
    # logical CPUs: actors are few and bound their own threads, so there may be more of them than cores
    ray.init(
        address="local",
        num_cpus=max(8, os.cpu_count() or 1),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        **gpus.ray_options(),
        **ray_private.LOOPBACK,
        **ray_private.temp_folder(),
    )


def _keeps_token(folder: Path) -> bool:
    """Whether Ray finds its token in this folder, or can write one there. A home may be unknown, missing or read-only.

    `folder`: below the home, or below `~` where that is not known.
    """
    if not folder.is_absolute():
        return False
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return os.access(folder / "auth_token", os.R_OK) or (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK))


def uses_gpu(device: Literal["auto", "cpu", "gpu"], resources: Mapping[str, float]) -> bool:
    """Whether actors and workers ask for GPUs, on a cluster with these total resources (`ray.cluster_resources()`).

    `gpu`: yes, also where the cluster has none yet, since it may scale up. `cpu`: no. `auto`: yes where the cluster has
    at least one GPU now. Sampling and training follow this rule.
    """
    return device == "gpu" or (device == "auto" and resources.get("GPU", 0) >= 1)


def cards(resources: Mapping[str, float], planned: Card | None) -> list[Card]:
    """The kinds of GPUs on a cluster with these total resources, as far as the table of cards has them.

    `planned`: the card that the run is planned for, which is taken for its type of Ray's.
    """
    types = (name.removeprefix(_CARD) for name, count in resources.items() if name.startswith(_CARD) and count)
    return sorted({card for name in types if (card := card_of_type(name, planned))}, key=lambda card: card.name)


_CARD = "accelerator_type:"
"""What the name of the resource of a node with GPUs begins with."""


def cpu_cores(nodes: Iterable[Mapping[str, Any]], here: str, cores_here: int) -> int:
    """CPU cores of the living nodes (`ray.nodes()`): their logical CPUs, but on the node `here` no more than it has.

    A Ray that `start_ray` has started counts at least 8 CPUs, whatever the machine has.
    """
    alive = [(node["NodeID"], int(node["Resources"].get("CPU", 0))) for node in nodes if node["Alive"]]
    return sum(min(cpus, cores_here) if name == here else cpus for name, cpus in alive)


def check_shared(store: Store) -> None:
    """Raises StageError where the store is a local folder that some node of the cluster does not see.

    A task on each node looks for a file that the driver has written.
    """
    folder = store.local_path("summary.json")
    if folder is None:
        return
    if f"{os.sep}working_dir_files{os.sep}" in str(folder):
        raise StageError(
            f"the run's store {store.url} lies in Ray's copy of the working directory, which the next submission does "
            "not see: give run.store as an absolute path or as s3://bucket/prefix"
        )
    if blind := _nodes_without(store):
        raise StageError(
            f"the run's store {store.url} is a local folder that these nodes do not share: {', '.join(blind)}; "
            "use a shared disk, or run.store=s3://bucket/prefix"
        )


def _nodes_without(store: Store) -> list[str]:
    """Addresses of the nodes that do not see a file that this process writes into the local store."""
    key = f".probe/{uuid.uuid4().hex}"
    store.create(key, b"shared?")
    path = store.local_path(key)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    exists = ray.remote(num_cpus=0)(os.path.exists)
    probes = [
        exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(path))
        for node in nodes
    ]
    answers = ray.get(probes)
    if path is not None:  # a probe is not part of the run
        path.unlink(missing_ok=True)
    return [node["NodeManagerAddress"] for node, seen in zip(nodes, answers, strict=True) if not seen]
