"""Sampling on logical GPUs of which some fail, and on nodes of which one is lost: every shard is sampled elsewhere."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rft_ray.records import Completion, from_table
from rft_ray.sampling import quarantine
from rft_ray.store import open_store, read_table

DRIVER = Path(__file__).with_name("places_driver.py")
ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",  # no idle processes, because each takes a second to start
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray replaces 127.0.0.1 by the machine's external address
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def run(folder: Path, scenario: str, *options: str) -> tuple[dict[str, Any], str, int]:
    """What the driver returns and prints, and the number of different samples that are committed."""
    environ = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(DRIVER.parents[2])}
    environ.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(DRIVER), scenario, str(folder), *options]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout + done.stderr
    store = open_store(str(folder))
    tables = [from_table(read_table(store, key)[0], Completion) for key in store.list("completions/")]
    rows = [(row.problem_id, row.sample_index) for table in tables for row in table]
    assert len(rows) == len(set(rows))
    assert not quarantine.histories(store)
    shown: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return shown, done.stdout, len(rows)


def test_one_bad_gpu_of_four_takes_no_shard_from_the_others(tmp_path: Path) -> None:
    """GPU 0 is the first one, and fails while the others start, which then take the shards that it had."""
    options = ["engine.max_actors=4", "engine.shards_in_flight=2", "engine.script='slow=0.2:,open-refuse:GPU 0'"]
    result, output, rows = run(tmp_path, "gpus", *options)
    assert (result["error"], rows) == ("", 160)
    [line] = [line for line in output.splitlines() if "cannot load it" in line]
    assert "GPU 0 cannot load it: the engine refuses, by a script" in line
    assert "were stuck" not in output


def test_the_only_engine_at_a_bad_gpu_is_replaced_by_one_at_another(tmp_path: Path) -> None:
    result, output, rows = run(tmp_path, "gpus", "engine.max_actors=1", "engine.script='open-refuse:GPU 0'")
    assert (result["error"], rows) == ("", 160)
    assert "16 shards were stuck" in output


def test_a_model_that_nobody_can_load_is_reported_after_two_places(tmp_path: Path) -> None:
    result, output, rows = run(tmp_path, "gpus", "engine.max_actors=4", "engine.script='open-refuse:'")
    assert rows == 0
    assert result["error"].startswith("sample mA (sft): the engine refuses, by a script (at ")
    assert 2 <= result["error"].count(" GPU ") <= 4
    assert "were stuck" not in output


def test_the_shards_of_a_node_that_is_lost_for_good_are_sampled_within_the_bound(tmp_path: Path) -> None:
    """By another execution, or by the lost actor itself where the other one ends early and leaves it its GPU."""
    options = ["engine.min_actors=2", "engine.max_actors=2", "engine.shards_in_flight=2"]
    options += ["engine.lost_node_minutes=0.25", "engine.script='slow=2:'"]
    result, _, rows = run(tmp_path, "lost", *options)
    assert (result["error"], rows) == ("", 160)
    assert 15 <= result["seconds"] < 400
