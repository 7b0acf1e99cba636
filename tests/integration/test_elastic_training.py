"""Training where resources are missing or come late, several models side by side, and a driver that is interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_pool_size import QUICK

DRIVER = Path(__file__).with_name("elastic_driver.py")

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def drive(scenario: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The lines that training prints, and the driver's result."""
    environ = {**os.environ, **QUICK, "PYTHONPATH": str(DRIVER.parents[2])}
    environ.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(DRIVER), scenario, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return lines, json.loads(last)


def test_as_many_models_train_side_by_side_as_the_free_gpus_carry(tmp_path: Path) -> None:
    """Two groups of two workers hold four of five GPUs; the third group starts when one of them ends."""
    _, result = drive("gpus", tmp_path)
    assert result["attempts"] == 3
    assert max(result["together"]) == 2


def test_a_wait_for_resources_is_no_failed_attempt_and_two_models_then_train_side_by_side(tmp_path: Path) -> None:
    """Only one attempt is allowed, and the node comes after both trainings have started to wait."""
    lines, result = drive("late", tmp_path)
    assert result == {"together": 2, "trained": [True, True]}
    assert any(
        line.startswith("  sft of tiny, sft of other: waiting for 1 worker of 1 CPU each, and the cluster has 0 CPUs")
        for line in lines
    )


def test_a_wait_ends_with_what_was_asked_for_and_what_there_is(tmp_path: Path) -> None:
    _, result = drive("never", tmp_path)
    assert result == {
        "error": "sft of tiny: no place within 0.2 minutes for 2 workers of 1 CPU each, and the cluster has 0 CPUs "
        "(0 free): add nodes, lower training.workers, or raise training.wait_minutes",
        "waiting": 0,
    }


def test_an_interrupted_driver_leaves_no_group_behind(tmp_path: Path) -> None:
    _, result = drive("stop", tmp_path)
    assert result == {"free": True, "groups": 0}


def test_the_notice_that_a_node_leaves_makes_a_checkpoint_and_its_loss_is_no_failed_attempt(tmp_path: Path) -> None:
    """Only one attempt is allowed, and checkpoints are due every 20 minutes."""
    _, result = drive("drain", tmp_path)
    assert result["seen"] <= result["resumed"] < result["steps"]
