"""Jobs may be many at once; a repair is alone, unless somebody says that what looks present is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.store import open_store
from rft_ray.store.run_lock import Busy, announced
from tests.chaos.small_run import run

DIES = """
import os, sys
from rft_ray.store.run_lock import announced
from rft_ray.store import open_store
with announced(open_store(sys.argv[1]), "job"):
    os._exit(9)
"""


def test_two_jobs_may_be_at_work_and_a_repair_not_beside_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    jobs = announced(store, "job"), announced(store, "job")
    with jobs[0], jobs[1], pytest.raises(Busy, match=f"process {os.getpid()}"), announced(store, "repair"):
        pass
    with announced(store, "repair"), pytest.raises(Busy, match="a repair"), announced(store, "job"):
        pass
    with announced(store, "job"):
        pass


def test_a_killed_job_of_this_machine_is_not_present(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)]).returncode == 9
    with announced(open_store(str(tmp_path)), "repair"):
        pass


def test_a_job_of_another_machine_is_present_until_somebody_says_no(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    far = {"kind": "job", "host": "elsewhere", "pid": "1", "started": "5", "at_unix": "1.0"}
    store.create("present/job-far.began.json", json.dumps(far).encode())
    with pytest.raises(Busy, match="elsewhere"), announced(store, "repair"):
        pass
    with announced(store, "repair", alone=True):
        pass
    with announced(store, "repair"):
        pass


def test_repair_is_refused_while_a_job_runs_and_verify_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(str(tmp_path))
    with announced(open_store(str(tmp_path)), "job"):
        assert main(["verify", str(tmp_path)]) == 0
        assert main(["verify", "--repair", str(tmp_path)]) == 2
        assert "--no-job-runs" in capsys.readouterr().err
    assert main(["verify", "--repair", str(tmp_path)]) == 0
