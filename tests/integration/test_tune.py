"""`rft-ray tune` with real engines on CPUs: one that fits, one without memory for its cache, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ARGUMENTS = [
    "demo",
    "--models=[{name: xs, source: 'tiny:tiny-xs'}]",
    "--problems.train.source=tiny:train:40",
    "--problems.test.source=tiny:test:10",
    "--sampling.samples_per_problem=8",
    "--sampling.samples_per_block=8",
    "--sampling.max_new_tokens=48",
    "--engine.kv_cache_gib=0.1",
    "--engine.max_num_seqs=2",
    "--prompts=8",
]


def tune(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "import sys; from rft_ray.cli.main import main; sys.exit(main())", "tune"]
    return subprocess.Popen(
        [*command, *ARGUMENTS, f"--run.store={folder}/runs", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_fastest_settings_that_fit_are_found(tmp_path: Path) -> None:
    """64 sequences at once sample several times faster than two; a cache of 1 KiB holds no sequence."""
    asked = ["--try", "max_num_seqs=64", "--try", "kv_cache_gib=0.000001", "--minutes=14"]
    out, errors = tune(tmp_path, *asked).communicate(timeout=880)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    fits = {row[0]: row[7] for row in rows}
    assert fits["the config's own"] == fits["max_num_seqs=64"] == "yes", out + errors
    [broken] = [why for settings, why in fits.items() if "kv_cache_gib" in settings]
    assert broken.startswith("no: "), out
    at_once = {row[0]: row[4] for row in rows}
    assert at_once["the config's own"] == "2"
    assert int(at_once["max_num_seqs=64"]) > 16
    assert yaml.safe_load(out[out.index("# rft-ray tune:") :]) == {"engine": {"max_num_seqs": 64}}
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_the_engine_and_prints_what_is_known(tmp_path: Path) -> None:
    search = tune(tmp_path, "--try", "max_num_seqs=64")
    assert search.stdout is not None
    while not search.stdout.readline().startswith("1: "):
        assert search.poll() is None
    engine = []
    while not engine:
        engine = psutil.Process(search.pid).children(recursive=True)
    search.send_signal(signal.SIGINT)
    _, errors = search.communicate(timeout=60)
    assert search.returncode == 130
    assert "stopped: settings that were not tried may be faster" in errors
    assert not [process for process in engine if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
