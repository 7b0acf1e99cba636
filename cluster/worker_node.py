"""Run one worker node of a local cluster on loopback, until a signal or until one of its processes dies.

`ray start --address` replaces 127.0.0.1 by the machine's external address, so that the node listens on every
interface. This script starts the node in the same way, but keeps the address.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.runtime import ray_private


def main() -> int:
    """Start the node, wait until one of its processes dies, and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="the head's address, host:port")
    parser.add_argument("--name", required=True, help="the node's name, as the dashboard shows it")
    parser.add_argument("--cpus", type=int, required=True, help="logical CPUs that the node offers")
    parser.add_argument("--object-store-bytes", type=int, required=True)
    parser.add_argument(
        "--temp-dir",
        required=True,
        help="a folder for this node only; its path must be short, because Ray keeps sockets there",
    )
    arguments = parser.parse_args()
    node = ray_private.start_node(
        gcs_address=arguments.address,
        node_ip_address="127.0.0.1",
        node_name=arguments.name,
        # not shared: a node that unpacks a job's working directory removes it while the driver is using it
        temp_dir=arguments.temp_dir,
        num_cpus=arguments.cpus,
        num_gpus=0,  # the head, on the same machine, has counted its GPUs
        object_store_memory=arguments.object_store_bytes,
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=None,
        labels={},
    )
    print(f"{arguments.name} has joined {arguments.address}", flush=True)
    while not (dead := node.dead_processes()):
        time.sleep(1)
    print(f"{arguments.name} ends: {', '.join(kind for kind, _ in dead)} died", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
