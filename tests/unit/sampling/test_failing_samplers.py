"""A sampler whose engine fails, in its own process: the process ends, and the failure is recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.config import Engine
from rft_ray.data.problems import commit_problems
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import open_store, outages
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable
from tests.chaos.small_run import JOBS, PROBLEMS

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


@pytest.mark.parametrize("method", ["list", "read"])
def test_a_store_that_is_out_of_reach_before_a_shard_is_sampled_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.0)
    job, store = JOBS[0].sampling, open_store(str(tmp_path))
    commit_problems(store, PROBLEMS)
    sampler = Sampler(store, [job], Engine(), False, 0)
    failures, works = [StoreUnreachable("S3 is out of reach")] * 2, getattr(LocalStore, method)

    def flickering(self: LocalStore, key: str) -> object:
        if failures:
            raise failures.pop()
        return works(self, key)

    monkeypatch.setattr(LocalStore, method, flickering)
    assert sampler(next(iter(job.shards()))).rows
    assert not failures


def test_a_refused_model_counts_no_failure_of_a_shard(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAMPLER, str(tmp_path), "open-refuse:"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 0, ended.stderr
    assert "unloadable='the engine refuses, by a script'" in ended.stdout
    assert not list(open_store(str(tmp_path)).list("failures/"))
