"""One worker node of a local cluster, on loopback: join a running head, stay until a signal or until a part dies.

`ray start --address` turns 127.0.0.1 into the machine's outward address, and then the node listens on every
interface. This does what it does after that step, with the address left alone.
"""

from __future__ import annotations

import argparse
import sys
import time

from ray._private.node import Node
from ray._private.parameter import RayParams


def start(address: str, name: str, cpus: int, object_store_bytes: int, temp: str) -> Node:
    """Start the raylet and the agents of one node; they end with this process.

    `temp`: a folder of this node's own. In one that nodes share, a node that unpacks a job's working directory takes
    it away under the driver's feet.
    """
    parameters = RayParams(
        gcs_address=address,
        node_ip_address="127.0.0.1",
        node_name=name,
        temp_dir=temp,
        num_cpus=cpus,
        object_store_memory=object_store_bytes,
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=None,
        labels={},
    )
    return Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="the head's address, host:port")
    parser.add_argument("--name", required=True, help="the node's name, as the dashboard shows it")
    parser.add_argument("--cpus", type=int, required=True, help="logical CPUs that the node offers")
    parser.add_argument("--object-store-bytes", type=int, required=True)
    parser.add_argument("--temp-dir", required=True, help="a short path of this node's own: Ray keeps sockets there")
    arguments = parser.parse_args()
    node = start(arguments.address, arguments.name, arguments.cpus, arguments.object_store_bytes, arguments.temp_dir)
    print(f"{arguments.name} has joined {arguments.address}", flush=True)
    while not (dead := node.dead_processes()):
        time.sleep(1)
    print(f"{arguments.name} ends: {', '.join(kind for kind, _ in dead)} died", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
