"""What this project uses of Ray's internals: each name here, and why it is needed. Seen in Ray 2.60.0.

`tests/unit/runtime/test_ray_private.py` fails by name when an upgrade removes one of them. `serve/ray_private.py` holds
those of `serve/`.
"""

from __future__ import annotations

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
KEEP_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable: with "0", Ray does not replace 127.0.0.1 by the machine's outward address."""
WORKER_NICENESS = "RAY_worker_niceness"
"""Environment variable of a node: the niceness of its workers, 15 by default."""
HEALTH_CHECK_INTERVAL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
"""Environment variable: how often Ray Train looks for workers that have ended or died; 2 s by default."""
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Environment variable: with "0", Ray Train takes a preempted node for dead workers and handles nothing else."""

POOL_LOGGERS = (
    "ray.data._internal.actor_autoscaler.default_actor_autoscaler",
    "ray.data._internal.execution.resource_manager",
)
"""Loggers of Ray Data's warnings that an actor pool cannot grow, and that no node has room for an actor."""


def hand_on_ray_address() -> None:
    """Make Ray Train give its helper actors this process's RAY_ADDRESS.

    Adds to the set of names `ray.train.v2._internal.constants.ENV_VARS_TO_PROPAGATE`, which has no public form.
    """
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def start_node(**parameters: Any) -> Node:
    """Start the raylet and the agents of one worker node, which end with this process. Takes the fields of `RayParams`.

    Uses `ray._private.node.Node` and `ray._private.parameter.RayParams`, because `ray start` takes no loopback address:
    it replaces 127.0.0.1 by the machine's outward address. `Node.dead_processes()` returns what has died.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    return Node(RayParams(**parameters), head=False, shutdown_at_exit=True, spawn_reaper=True)


def expect_quick_health_checks() -> None:
    """Let Ray Train notice the end or death of a worker sooner, and take a preempted node for a dead worker."""
    os.environ.setdefault(HEALTH_CHECK_INTERVAL_S, "0.5")
    os.environ.setdefault(PREEMPTION_WATCHER, "0")


def health_check_failure(failure: Exception) -> Exception | None:
    """Why Ray Train holds a worker for dead; None for an error that the worker itself raised.

    Ray Train wraps the reason in `ray.train.v2._internal.exceptions.WorkerHealthCheckFailedError`.
    """
    reason: Exception | None = getattr(failure, "health_check_failure", None)
    return reason


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
