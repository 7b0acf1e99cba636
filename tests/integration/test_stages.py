"""Sampling, verification and path selection on Ray with the scripted engine: kills, actor counts, stores, models."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.corpus.selector import select_paths
from rft_ray.corpus.verifier import verify
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import ModelRef, PathJob, SamplingJob, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.runtime import actor_pool
from rft_ray.sampling.stage import sample
from rft_ray.store import Store, open_store, read_table
from tests.s3server import S3Server

PROBLEMS = in_order(generate(200, split="train", seed=1, steps=(1, 2)), 0)
SET = ProblemSet(tuple(PROBLEMS), 200, "5" * 16)
SETTINGS = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine="scripted")
SCRIPTED = config.Engine(shards_in_flight=2, max_restarts=3)


def sampling_job(name: str, problems: int = 200, k: int = 8) -> SamplingJob:
    return SamplingJob(ModelRef(name, "sft", name * 4), SET.fingerprint, problems, 5, SETTINGS, k, 0)


def sample_all(jobs: list[SamplingJob], store: Store, engine: config.Engine = SCRIPTED) -> None:
    commit_problems(store, SET)
    sample(jobs, store, engine, run_seed=0)


def contents(store: Store, prefix: str) -> dict[str, list]:
    return {key: read_table(store, key)[0].to_pylist() for key in store.list(prefix)}


@pytest.fixture(scope="module")
def fault_free(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    assert ray_cluster.startswith("127.0.0.1:")
    store = open_store(str(tmp_path_factory.mktemp("free")))
    sample_all([sampling_job("mA")], store)
    return store


def kill_a_sampler(address: str, stop: threading.Event, killed: list[int]) -> None:
    """kill -9 the first sampler process that the state API shows."""
    from ray.util.state import list_actors

    while not stop.is_set() and not killed:
        for actor in list_actors(address=address, filters=[("state", "=", "ALIVE")], detail=True):
            if "ShardActor" in actor.class_name and actor.pid:
                os.kill(actor.pid, signal.SIGKILL)
                killed.append(actor.pid)
                return
        time.sleep(0.02)


def test_a_killed_sampler_loses_and_repeats_no_sample(ray_cluster: str, fault_free: Store, tmp_path: Path) -> None:
    store, stop, killed = open_store(str(tmp_path)), threading.Event(), []
    killer = threading.Thread(target=kill_a_sampler, args=(ray_cluster, stop, killed))
    killer.start()
    sample_all([sampling_job("mA")], store)
    stop.set()
    killer.join()
    assert killed
    assert contents(store, "completions/") == contents(fault_free, "completions/")


def test_shards_are_equal_whatever_the_number_of_actors(fault_free: Store, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    sample_all([sampling_job("mA")], store, config.Engine(min_actors=2, max_actors=2))
    assert contents(store, "completions/") == contents(fault_free, "completions/")


def test_raising_k_samples_only_the_new_blocks(fault_free: Store, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    sample_all([sampling_job("mA", k=4)], store)
    made = sample([sampling_job("mA", k=8)], store, SCRIPTED, run_seed=0)
    assert len(made) == 200 // 5 * 2
    assert contents(store, "completions/") == contents(fault_free, "completions/")


def verify_and_select(store: Store) -> None:
    jobs = [VerdictJob(sampling_job(name, 20), "paper", "collect") for name in ("mA", "mB")]
    sample_all([job.sampling for job in jobs], store)
    verify(jobs, store, 1)
    select_paths([PathJob(tuple(jobs), "equations", "as_written")], store, 1)


@pytest.mark.s3
def test_s3_and_local_disk_give_the_same_files(ray_cluster: str, tmp_path: Path, s3: S3Server) -> None:
    local = open_store(str(tmp_path))
    verify_and_select(local)
    remote = open_store(s3.url("stages/runs/x"))
    verify_and_select(remote)
    for stage in ("completions/", "verdicts/", "paths/"):
        assert contents(local, stage)
        assert contents(local, stage) == contents(remote, stage)


def test_a_model_that_cannot_be_loaded_is_reported_in_one_line(ray_cluster: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    commit_problems(store, SET)
    scripted = sampling_job("gone", 5, 2)
    job = replace(scripted, settings=replace(scripted.settings, engine="vllm"))
    with pytest.raises(actor_pool.StageError) as error:
        sample([job], store, config.Engine(), run_seed=0)
    assert "sample gone (sft)" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert "gone" * 4 in str(error.value)
    assert not contents(store, "completions/")


def test_a_torn_shard_upstream_is_named(ray_cluster: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    job = VerdictJob(sampling_job("mA", 5, 2), "paper", "collect")
    sample_all([job.sampling], store)
    [key] = store.list("completions/")
    path = tmp_path / key
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(actor_pool.StageError) as error:
        verify([job], store, 1)
    assert key in str(error.value)
    assert len(str(error.value).splitlines()) == 1
