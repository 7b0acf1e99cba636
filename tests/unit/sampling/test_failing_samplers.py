"""A sampler whose engine fails, in its own process: the process ends, and the failure is recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.store import open_store

SAMPLER = """
import sys
from rft_ray import config
from rft_ray.data.problems import commit_problems
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import open_store
from tests.chaos.small_run import JOBS, PROBLEMS

job = JOBS[0].sampling
store = open_store(sys.argv[1])
commit_problems(store, PROBLEMS)
engine = config.Engine(script=sys.argv[2], stall_seconds=1)
sampler = Sampler(store, [job], engine, False, 0)
print(sampler(next(iter(job.shards()))))
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hang:", "no progress for 1 s while it was sampled"),
        ("oom:", "out of memory"),
        ("empty:", "without a single token"),
    ],
)
def test_the_process_ends_and_the_failure_is_recorded(tmp_path: Path, fault: str, reason: str) -> None:
    command = [sys.executable, "-c", SAMPLER, str(tmp_path), fault]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "ending this process" in ended.stderr
    store = open_store(str(tmp_path))
    [record] = store.list("failures/")
    assert reason in json.loads(store.read(record))["reason"]
    assert not list(store.list("completions/"))


def test_a_refused_model_counts_no_failure_of_a_shard(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAMPLER, str(tmp_path), "open-refuse:"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 0, ended.stderr
    assert "unloadable='the engine refuses, by a script'" in ended.stdout
    assert not list(open_store(str(tmp_path)).list("failures/"))
