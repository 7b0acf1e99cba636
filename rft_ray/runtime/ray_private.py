"""What this project uses of Ray's internals: each name here, and why it is needed. Seen in Ray 2.60.0.

`tests/unit/runtime/test_ray_private.py` fails by name when an upgrade removes one of them. `serve/ray_private.py` holds
those of `serve/`.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray._private.node import Node

LOOPBACK = {"_node_ip_address": "127.0.0.1"}
"""Argument of `ray.init`: a local Ray listens on loopback only. No public argument sets a node's address."""
TEMP_FOLDER = "_temp_dir"
"""Argument of `ray.init`: the folder of Ray's sockets and logs, to keep the paths of sockets short."""
SOCKET = "session_2026-11-30_19-47-01_323580_4194304/sockets/plasma_store"
"""The longest path of a socket in the folder of Ray's sockets and logs; a whole path has 107 bytes at most."""
KEEP_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable: with "0", Ray does not replace 127.0.0.1 by the machine's outward address."""
WORKER_NICENESS = "RAY_worker_niceness"
"""Environment variable of a node: the niceness of its workers, 15 by default."""
HEALTH_CHECK_INTERVAL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""Environment variable: how often Ray Train looks for workers that have ended or died; 2 s by default."""
START_TIMEOUT_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Environment variable: how long Ray Train waits for its workers to be placed; 60 s by default."""
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Environment variable: with "0", Ray Train takes a preempted node for dead workers and handles nothing else."""

POOL_LOGGERS = (
    "ray.data._internal.actor_autoscaler.default_actor_autoscaler",
    "ray.data._internal.execution.resource_manager",
)
"""Loggers of Ray Data's warnings that an actor pool cannot grow, and that no node has room for an actor."""

TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"
"""Logger of Ray's warning that a local Ray asks for a token, which is as intended, or that it asks for none."""


def without_token_notice() -> None:
    """Leave out the warning of TOKEN_LOGGER that a Ray which this process starts asks for a token."""
    logging.getLogger(TOKEN_LOGGER).addFilter(_is_no_token_notice)


def _is_no_token_notice(record: logging.LogRecord) -> bool:
    return "authentication is enabled" not in record.getMessage()


def temp_folder() -> dict[str, str]:
    """Arguments of `ray.init`: Ray's default folder for sockets where that of RAY_TMPDIR or TMPDIR is too long."""
    folder = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))
    return {TEMP_FOLDER: "/tmp/ray"} if len(os.fsencode(f"{folder}/ray/{SOCKET}")) > 107 else {}


def start_node(**parameters: Any) -> Node:
    """Start the raylet and the agents of one worker node, which end with this process. Takes the fields of `RayParams`.

    Uses `ray._private.node.Node` and `ray._private.parameter.RayParams`, because `ray start` takes no loopback address:
    it replaces 127.0.0.1 by the machine's outward address. `Node.dead_processes()` returns what has died.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    return Node(RayParams(**parameters), head=False, shutdown_at_exit=True, spawn_reaper=True)


def object_store_bytes() -> int:
    """Bytes in the object stores of all living nodes of the cluster that this process is connected to.

    Uses `ray._private.internal_api.get_memory_info_reply`: the public state API needs the dashboard. The node that it
    asks, asks the others.
    """
    import ray
    from ray._private.internal_api import get_memory_info_reply

    node = next(node for node in ray.nodes() if node["Alive"])
    reply = get_memory_info_reply(None, node["NodeManagerAddress"], node["NodeManagerPort"])
    return int(reply.store_stats.object_store_bytes_used)


def train_environment(gcs_address: str, wait_s: float) -> dict[str, str]:
    """Environment of the process that starts a Ray Train run, which hands it on to Ray Train's own actors.

    The end or death of a worker is noticed soon, a preempted node is taken for a dead worker, and workers may wait
    `wait_s` for their resources. By RAY_ADDRESS, Ray Train's placement-group cleaner asks this cluster for the
    controller, and no other of the machine: it ends the workers of a controller that its cluster does not know.
    """
    wanted = {HEALTH_CHECK_INTERVAL_S: "0.5", PREEMPTION_WATCHER: "0"}
    environment = {name: os.environ.get(name, value) for name, value in wanted.items()}
    return {**environment, START_TIMEOUT_S: str(math.ceil(wait_s)), "RAY_ADDRESS": gcs_address}


def lacked_resources(failure: Exception) -> bool:
    """Whether a Ray Train run has failed because its workers found no place in time.

    Ray Train wraps `ray.train.v2._internal.exceptions.WorkerGroupStartupTimeoutError`.
    """
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(getattr(failure, "controller_failure", None), WorkerGroupStartupTimeoutError)


def health_check_failure(failure: Exception) -> Exception | None:
    """Why Ray Train holds a worker for dead; None for an error that the worker itself raised.

    Ray Train wraps the reason in `ray.train.v2._internal.exceptions.WorkerHealthCheckFailedError`.
    """
    reason: Exception | None = getattr(failure, "health_check_failure", None)
    return reason


def draining_nodes() -> set[str]:
    """Ids of the nodes that are to leave the cluster: `ray._private.state.state.get_draining_nodes`, with deadlines."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def was_preempted(failure: Exception) -> bool:
    """Whether a Ray Train run has failed because a node was taken away after a notice (`RayActorError.preempted`)."""
    failures: dict[int, Exception] = getattr(failure, "worker_failures", {})
    return any(getattr(health_check_failure(each), "preempted", False) for each in failures.values())


@dataclass(frozen=True, slots=True)
class PoolState:
    """The actors of a Ray Data execution. Example: PoolState(working=7, restarting=1, pending=0)"""

    working: int
    """Living actors that have tasks."""
    restarting: int
    """Actors that have tasks and whose process or node is gone, until Ray has started them again."""
    pending: int
    """Actors that have not started yet."""


class StopCheck:
    """Asks a function once a second whether a Ray Data execution is to end, and ends it if so.

    For `DataContext.custom_execution_callback_classes`, whose members Ray Data calls without arguments to get an object
    with the methods of `ray.data._internal.execution.execution_callback.ExecutionCallback`. What `on_execution_step`
    raises ends the execution. Ray Data copies the context within this process, and sends it to the actors, where no
    execution runs.
    """

    def __init__(self, ends: Callable[[PoolState], bool] = lambda pool: False) -> None:
        self._ends, self._asked = ends, 0.0
        self.stopped = False
        """Whether it has ended an execution."""

    def __call__(self) -> StopCheck:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> StopCheck:
        return self

    def __reduce__(self) -> tuple[type[StopCheck], tuple[()]]:
        return StopCheck, ()

    def before_execution_starts(self, executor: Any) -> None:
        pass

    def after_execution_succeeds(self, executor: Any) -> None:
        pass

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        pass

    def on_execution_step(self, executor: Any) -> None:
        if time.monotonic() - self._asked < 1:
            return
        self._asked = time.monotonic()
        if self._ends(pool_state(executor)):
            self.stopped = True
            raise RuntimeError("the execution is ended by its caller")


def pool_state(executor: Any) -> PoolState:
    """The actors of an execution: of `StreamingExecutor._topology`, `_ActorPool._running_actors` and its states."""
    pools = [pool for operator in executor._topology for pool in operator.get_autoscaling_actor_pools()]
    busy = [state for pool in pools for state in pool._running_actors.values() if state.num_tasks_in_flight]
    restarting = sum(state.is_restarting for state in busy)
    return PoolState(len(busy) - restarting, restarting, sum(pool.num_pending_actors() for pool in pools))
