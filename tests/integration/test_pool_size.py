"""Actor pools on 8 logical GPUs: they grow where shards wait, shrink where none is left, and start no idle actor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("pool_driver.py")
QUICK = {"RAY_worker_niceness": "0", "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
"""No idle processes, because each takes a second to start."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver prints. Most of its time starts processes."""
    environ = {**os.environ, **QUICK, "PYTHONPATH": str(DRIVER.parents[2])}
    environ.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(DRIVER), str(tmp_path_factory.mktemp("pools"))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shown


def test_a_sampling_stage_grows_from_one_engine_to_one_on_every_gpu(pools: dict[str, Any]) -> None:
    """On a busy machine some processes start when no shard is left for them."""
    assert sum(pools["engines"]["shards"]) == 160
    assert min(pools["engines"]["free"]) == 0
    assert len(pools["engines"]["shards"]) > 4


def test_engines_end_while_others_still_sample_the_last_shards(pools: dict[str, Any]) -> None:
    """At the end four shards take 20 seconds longer than the others, and no shard waits."""
    free = pools["engines"]["free"]
    assert max(free[free.index(0) :]) >= 4


def test_a_stage_of_one_shard_at_a_time_grows_to_its_actors(pools: dict[str, Any]) -> None:
    assert pools["workers"] == {"started": 8, "busy": 8}


def test_fewer_shards_than_actors_start_one_actor_each(pools: dict[str, Any]) -> None:
    assert pools["three"] == {"started": 3, "busy": 3}
