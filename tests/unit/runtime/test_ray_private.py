"""Every internal name that runtime/ray_private.py uses exists and behaves as that module describes."""

from __future__ import annotations

import importlib
import inspect
import logging
import pickle
from types import SimpleNamespace

import pytest
from ray._private import internal_api, ray_constants
from ray._private import worker as ray_worker
from ray._private.authentication import authentication_token_setup
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.actor_pool_map_operator import (
    ActorPoolMapOperator,
    _ActorPool,
    _ActorState,
)
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data._internal.planner import planner
from ray.train import ControllerError
from ray.train.v2._internal import constants, exceptions
from ray.train.v2._internal.execution.worker_group import poll

from rft_ray.runtime import ray_private


def test_a_long_temporary_folder_is_left_for_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for name in ("TMPDIR", "RAY_TMPDIR"):
        for folder in (f"/{'x' * 20}", f"/{'x' * 60}"):
            monkeypatch.setenv(name, folder)
            chosen = ray_private.temp_folder().get(ray_private.TEMP_FOLDER, f"{folder}/ray")
            assert len(f"{chosen}/{ray_private.SOCKET}") <= 107
    assert ray_private.temp_folder() == {ray_private.TEMP_FOLDER: "/tmp/ray"}


def test_ray_init_takes_a_node_address_and_a_temporary_folder() -> None:
    source = inspect.getsource(ray_worker.init)
    assert all(f'kwargs.pop("{name}"' in source for name in (*ray_private.LOOPBACK, ray_private.TEMP_FOLDER))


def test_a_node_takes_the_parameters_of_a_worker_on_loopback() -> None:
    fields = inspect.signature(RayParams).parameters
    assert {"gcs_address", "node_ip_address", "node_name", "temp_dir", "num_cpus", "labels"} <= set(fields)
    assert {"min_worker_port", "max_worker_port", "dashboard_agent_listen_port", "object_store_memory"} <= set(fields)
    assert {"head", "shutdown_at_exit", "spawn_reaper"} <= set(inspect.signature(Node).parameters)
    assert callable(Node.dead_processes)


def test_that_a_local_ray_asks_for_a_token_is_no_warning_and_that_it_asks_for_none_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_logger = logging.getLogger(ray_private.TOKEN_LOGGER)
    monkeypatch.setattr(token_logger, "filters", [])
    monkeypatch.setattr(token_logger, "propagate", True)
    token_logger.addHandler(caplog.handler)
    ray_private.without_token_notice()
    try:
        authentication_token_setup._warn_token_auth_enabled()
        assert not caplog.records
        authentication_token_setup._warn_token_auth_disabled()
        assert caplog.records
    finally:
        token_logger.removeHandler(caplog.handler)


def test_environment_variables_have_these_names() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == ray_private.KEEP_LOOPBACK
    assert constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR == ray_private.HEALTH_CHECK_INTERVAL_S
    assert constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR == ray_private.START_TIMEOUT_S
    assert constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR == ray_private.PREEMPTION_WATCHER


def test_the_loggers_of_pools_warn_of_what_cannot_grow_or_start() -> None:
    modules = [importlib.import_module(name) for name in ray_private.POOL_LOGGERS]
    assert tuple(module.logger.name for module in modules) == ray_private.POOL_LOGGERS
    growing, starting = map(inspect.getsource, modules)
    assert "will not allow it to scale up" in growing
    assert "not enough to run any task" in starting


def test_a_stop_check_has_the_methods_of_a_callback_and_ray_data_calls_it_for_one() -> None:
    methods = {name for name in vars(ExecutionCallback) if not name.startswith("_")}
    assert methods <= set(vars(ray_private.StopCheck))
    assert "cls() for cls in logical_plan.context.execution_callback_classes" in inspect.getsource(planner)
    check = ray_private.StopCheck()
    context = DataContext()
    context.custom_execution_callback_classes = [check]
    assert context.copy().execution_callback_classes[-1]() is check  # type: ignore[call-arg]
    assert isinstance(pickle.loads(pickle.dumps(check)), ray_private.StopCheck)


def test_a_stop_check_asks_once_a_second_and_ends_the_execution() -> None:
    asked: list[ray_private.PoolState] = []
    check = ray_private.StopCheck(lambda pool: bool(asked.append(pool)) or True)
    with pytest.raises(RuntimeError, match="ended by its caller"):
        check.on_execution_step(SimpleNamespace(_topology={}))
    check.on_execution_step(SimpleNamespace(_topology={}))
    assert asked == [ray_private.PoolState(0, 0, 0)]
    assert check.stopped


def test_the_state_of_a_pool_counts_the_actors_that_have_tasks() -> None:
    states = [_ActorState(3, "n1", False), _ActorState(1, "n2", True), _ActorState(0, "n3", True)]
    pool = SimpleNamespace(_running_actors=dict(enumerate(states)), num_pending_actors=lambda: 2)
    operators = [SimpleNamespace(get_autoscaling_actor_pools=pools.copy) for pools in ([], [pool])]
    assert ray_private.pool_state(SimpleNamespace(_topology=operators)) == ray_private.PoolState(1, 1, 2)
    assert "self._running_actors: Dict[ActorHandle, _ActorState]" in inspect.getsource(_ActorPool)
    assert callable(ActorPoolMapOperator.get_autoscaling_actor_pools)
    assert callable(_ActorPool.num_pending_actors)
    assert "self._topology" in inspect.getsource(StreamingExecutor)


def test_a_node_tells_the_bytes_in_all_object_stores_without_a_state() -> None:
    """Of a state, only `node_table` is used, and only without an address."""
    source = inspect.getsource(internal_api.get_memory_info_reply)
    assert list(inspect.signature(internal_api.get_memory_info_reply).parameters)[:3] == [
        *("state", "node_manager_address", "node_manager_port")
    ]
    assert source.count("state.") == 1
    assert "state.node_table()" in source
    assert "object_store_bytes_used" in inspect.getsource(internal_api.store_stats_summary)


def test_the_environment_of_a_training_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ray_private.HEALTH_CHECK_INTERVAL_S, "7")
    environment = ray_private.train_environment("127.0.0.1:1", 90.5)
    assert environment[ray_private.HEALTH_CHECK_INTERVAL_S] == "7"
    assert environment[ray_private.START_TIMEOUT_S] == "91"
    assert environment["RAY_ADDRESS"] == "127.0.0.1:1"


def test_workers_without_a_place_are_what_ray_train_wraps() -> None:
    error = ControllerError(exceptions.WorkerGroupStartupTimeoutError(num_workers=2))
    assert ray_private.lacked_resources(error)
    assert not ray_private.lacked_resources(ControllerError(exceptions.WorkerGroupStartupFailedError("died")))
    assert not ray_private.lacked_resources(ValueError("a worker's own error"))


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
