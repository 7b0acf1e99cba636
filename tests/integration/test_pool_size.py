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

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver prints. It takes half a minute on two idle cores: most of it starts processes."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(DRIVER), str(tmp_path_factory.mktemp("pools"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shown


def test_a_sampling_stage_grows_from_one_engine_to_one_on_every_gpu(pools: dict[str, Any]) -> None:
    assert sum(pools["many"]) == 160
    assert len(pools["many"]) == 8


def test_engines_end_while_another_one_still_samples_the_last_shard(pools: dict[str, Any]) -> None:
    """At the end one shard takes 20 seconds longer than the others, and nothing waits."""
    full = pools["free"].index(0)
    assert max(pools["free"][full:]) >= 6


def test_no_more_engines_start_than_the_shards_fill(pools: dict[str, Any]) -> None:
    """Three shards, of which an engine samples two at once."""
    assert sum(pools["few"]) == 3
    assert len(pools["few"]) <= 2


def test_a_stage_of_one_shard_at_a_time_grows_to_its_actors(pools: dict[str, Any]) -> None:
    assert sum(pools["workers"]) == 24
    assert len(pools["workers"]) == 8


def test_fewer_shards_than_actors_get_one_actor_each(pools: dict[str, Any]) -> None:
    assert pools["three"] in ([1, 1, 1], [1, 2])
