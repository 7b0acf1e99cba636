"""The Ray that a job's driver uses: the cluster it was submitted to, or one of its own on loopback."""

from __future__ import annotations

import os
from pathlib import Path


def prepare_environment() -> None:
    """What must be said before anything imports Ray: a Ray of our own listens on loopback only."""
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else 127.0.0.1 becomes the outward address


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (a submitted job's own), else start one on loopback."""
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(log_to_driver=False)
        return
    # a checkout that is not installed: workers import this package whatever folder the job was started in
    root = str(Path(__file__).resolve().parents[1])
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
