"""How often engines load models in a real stage: 8 logical GPUs, 4 models, each for a corpus and for an evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("loads_driver.py")
QUICK = {"RAY_worker_niceness": "0", "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
"""No idle processes, because each takes a second to start."""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_actor_keeps_to_one_or_two_models_for_corpus_and_evaluation(tmp_path: Path) -> None:
    """Where each actor took the next shard in order, all 8 loaded all 4 models."""
    environ = {**os.environ, **QUICK, "PYTHONPATH": str(DRIVER.parents[2])}
    environ.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(DRIVER), str(tmp_path), "4"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert shown["shards"] == 480
    assert max(shown["loads"]) <= 2
    assert sum(shown["loads"]) <= 12
