"""Engines on 4 logical GPUs: several on one GPU, and several groups of GPUs on one node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.test_pool_size import QUICK

DRIVER = Path(__file__).with_name("gpu_places_driver.py")
Places = dict[str, list[list[int]]]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """What the driver prints. Most of its time starts processes."""
    environ = {**QUICK, **os.environ, "PYTHONPATH": str(DRIVER.parents[2])}
    environ.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(DRIVER), str(tmp_path_factory.mktemp("places"))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    shown: Places = json.loads(done.stdout.splitlines()[-1])
    return shown


def test_four_engines_of_half_a_gpu_take_two_gpus(places: Places) -> None:
    assert all(len(gpus) == 1 for gpus in places["halves"])
    assert sorted(Counter(gpu for [gpu] in places["halves"]).values()) == [2, 2]


def test_engines_of_two_gpus_on_one_node_have_gpus_of_their_own(places: Places) -> None:
    """They ask for a type of GPU that the node has."""
    assert [len(gpus) for gpus in places["pairs"]] == [2, 2]
    assert len({gpu for gpus in places["pairs"] for gpu in gpus}) == 4
