"""Any number of jobs hold a run's lock; a repair holds it alone, or states that the others have ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.store import Store, open_store
from rft_ray.store.run_lock import RunLocked, run_lock
from tests.chaos.small_run import run

DIES = """
import os, sys
from rft_ray.store.run_lock import run_lock
from rft_ray.store import open_store
with run_lock(open_store(sys.argv[1]), "job"):
    os._exit(9)
"""


def test_two_jobs_hold_the_lock_together_and_a_repair_excludes_both(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    jobs = run_lock(store, "job"), run_lock(store, "job")
    with jobs[0], jobs[1], pytest.raises(RunLocked, match=f"process {os.getpid()}"), run_lock(store, "repair"):
        pass
    with run_lock(store, "repair"), pytest.raises(RunLocked, match="a repair"), run_lock(store, "job"):
        pass
    with run_lock(store, "job"):
        pass


def test_a_killed_job_of_this_machine_holds_no_lock(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)]).returncode == 9
    with run_lock(open_store(str(tmp_path)), "repair"):
        pass


def test_a_job_of_another_machine_holds_the_lock_until_a_repair_states_that_it_ended(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    far = {"kind": "job", "host": "elsewhere", "pid": "1", "started": "5", "at_unix": "1.0"}
    store.create("present/job-far.began.json", json.dumps(far).encode())
    with pytest.raises(RunLocked, match="elsewhere"), run_lock(store, "repair"):
        pass
    with run_lock(store, "repair", others_ended=True):
        pass
    with run_lock(store, "repair"):
        pass


def record(store: Store, started: str) -> None:
    """The `began` record of this process as earlier versions wrote it, but for `started`."""
    with run_lock(store, "job"):
        [key] = [key for key in store.list("present/") if ".began." in key]
        own = json.loads(store.read(key))
    store.create("present/job-0.began.json", json.dumps({**own, "started": started}).encode())


def test_a_record_of_an_earlier_version_is_compared_by_its_ticks_since_boot(tmp_path: Path) -> None:
    """Earlier versions stored field 22 of /proc/<pid>/stat as text."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    alive, ended = open_store(str(tmp_path / "alive")), open_store(str(tmp_path / "ended"))
    record(alive, ticks)
    with pytest.raises(RunLocked, match=f"process {os.getpid()}"), run_lock(alive, "repair"):
        pass
    record(ended, str(int(ticks) - 1))
    with run_lock(ended, "repair"):
        pass


def test_repair_is_refused_while_a_job_runs_and_verify_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(str(tmp_path))
    with run_lock(open_store(str(tmp_path)), "job"):
        assert main(["verify", str(tmp_path)]) == 0
        assert main(["verify", "--repair", str(tmp_path)]) == 2
        assert "--no-job-runs" in capsys.readouterr().err
    assert main(["verify", "--repair", str(tmp_path)]) == 0
