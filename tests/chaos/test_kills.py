"""The short version of `python -m tests.chaos.kills`: a few real kills in one run on three Ray nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.store.backends import faults
from tests.chaos.nodes import ROOT
from tests.chaos.table import summed

pytestmark = pytest.mark.timeout(300)


def test_a_run_with_killed_processes_ends_like_one_without(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    sizes = ["--only", "any", "--kills", "4", "--rows", "4000", "--actors", "2", "--seed", "1"]
    environ = {name: text for name, text in os.environ.items() if name not in (faults.VARIABLE, "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.kills", *sizes, "--folder", str(tmp_path), "--log", str(log)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = summed([log])
    assert line.tally.sound
    assert line.tally.rows == 4000
    [entry] = map(json.loads, log.with_suffix(".runs.jsonl").read_text().splitlines())
    assert len(entry["killed"]) == line.tally.faults >= 2, entry
