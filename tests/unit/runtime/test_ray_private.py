"""Every internal name that runtime/ray_private.py uses exists and behaves as that module describes."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace

from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.train.v2._internal import constants, exceptions
from ray.train.v2._internal.execution.worker_group import poll

from rft_ray.runtime import ray_private


def test_ray_init_takes_a_node_address_and_a_temporary_folder() -> None:
    source = inspect.getsource(ray_worker.init)
    assert all(f'kwargs.pop("{name}"' in source for name in (*ray_private.LOOPBACK, ray_private.TEMP_FOLDER))


def test_a_node_takes_the_parameters_of_a_worker_on_loopback() -> None:
    fields = inspect.signature(RayParams).parameters
    assert {"gcs_address", "node_ip_address", "node_name", "temp_dir", "num_cpus", "labels"} <= set(fields)
    assert {"min_worker_port", "max_worker_port", "dashboard_agent_listen_port", "object_store_memory"} <= set(fields)
    assert {"head", "shutdown_at_exit", "spawn_reaper"} <= set(inspect.signature(Node).parameters)
    assert callable(Node.dead_processes)


def test_environment_variables_have_these_names() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == ray_private.KEEP_LOOPBACK
    assert constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR == ray_private.HEALTH_CHECK_INTERVAL_S
    assert constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR == ray_private.PREEMPTION_WATCHER


def test_the_loggers_of_pools_warn_of_what_cannot_grow_or_start() -> None:
    modules = [importlib.import_module(name) for name in ray_private.POOL_LOGGERS]
    assert tuple(module.logger.name for module in modules) == ray_private.POOL_LOGGERS
    growing, starting = map(inspect.getsource, modules)
    assert "will not allow it to scale up" in growing
    assert "not enough to run any task" in starting


def test_env_vars_to_propagate_is_a_set_that_can_grow() -> None:
    ray_private.hand_on_ray_address()
    assert "RAY_ADDRESS" in constants.ENV_VARS_TO_PROPAGATE


def test_health_check_failure_is_what_ray_train_wraps() -> None:
    death = RuntimeError("the actor died")
    assert ray_private.health_check_failure(exceptions.WorkerHealthCheckFailedError("failed", death)) is death
    assert ray_private.health_check_failure(ValueError("a worker's own error")) is None


def test_worker_failures_hold_a_workers_own_error_unwrapped() -> None:
    """`ray_group.refused_by` relies on it: no `UserExceptionWithTraceback` among the worker failures."""
    cause = ValueError("no example is left")
    wrapped = exceptions.UserExceptionWithTraceback(cause, "a stack")
    status = SimpleNamespace(worker_statuses={0: SimpleNamespace(error=wrapped)})
    assert poll.WorkerGroupPollStatus.errors.fget(status) == {0: cause}
