"""The driver's part of sampling: the order of the jobs, and the progress lines about their shards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.data.tiny import model_dir
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.stage import by_engine, by_model, pool_of
from rft_ray.sampling.tracker import ShardTracker
from rft_ray.store import open_store
from rft_ray.store.models.committed import commit_model

SETTINGS = SamplingSettings(0.7, 1.0, 64, 2, "{query}")


def job(name: str, stage: str = "sft", fingerprint: str = "", k: int = 2) -> SamplingJob:
    return SamplingJob(ModelRef(name, stage, fingerprint or name * 4), "5" * 16, 8, 4, SETTINGS, k, 0)


def test_jobs_of_models_with_one_name_and_of_one_model_are_adjacent(tmp_path: Path) -> None:
    jobs = [job("s"), job("m"), job("s", "base", "b"), job("m", k=4), job("s", k=4)]
    order = by_model(jobs, open_store(str(tmp_path)))
    assert order == [jobs[0], jobs[4], jobs[2], jobs[1], jobs[3]]


def test_committed_models_with_the_same_config_are_adjacent(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    for name, source in (("s1", "tiny-s"), ("m", "tiny-l"), ("s2", "tiny-s")):
        folder = tmp_path / name
        shutil.copytree(model_dir(source), folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "name": name}))
        commit_model(store, name * 4, folder, {})
    names = [ordered.model.name for ordered in by_model([job("s1"), job("m"), job("s2"), job("unknown")], store)]
    assert names == ["s1", "s2", "m", "unknown"]


def test_jobs_of_one_engine_are_sampled_together() -> None:
    short = replace(job("m"), settings=replace(SETTINGS, max_model_len=512))
    teacher = replace(job("t"), settings=replace(SETTINGS, engine="openai"))
    assert by_engine([job("s"), short, teacher, job("u")]) == [[job("s"), job("u")], [short], [teacher]]


def tracking(*jobs: SamplingJob) -> ShardTracker:
    return ShardTracker([shard for job in jobs for shard in job.shards()], {job.fingerprint: job for job in jobs})


@pytest.mark.parametrize(("cores", "least", "expected"), [(2, 1, 1), (9, 1, 4), (64, 1, 8), (2, 3, 3)])
def test_engines_on_cpus_are_as_many_as_have_cores_of_their_own(cores: int, least: int, expected: int) -> None:
    engine = config.Engine(min_actors=least, max_actors=8, threads_per_actor=2)
    pool = pool_of(engine, gpu=False, cores=cores)
    assert (pool.min_actors, pool.max_actors) == (least, expected)


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 2}, 2),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 4}, 8),
        ({"gpus_per_engine": 0.25}, 0.25),
    ],
)
def test_an_engine_asks_for_the_gpus_of_its_model(settings: dict[str, float], gpus: float) -> None:
    engine = config.Engine.model_validate(settings)
    assert pool_of(engine, gpu=True, cores=2).gpus == gpus
    assert pool_of(engine, gpu=False, cores=2).gpus == 0


def test_a_type_of_gpu_is_asked_for_only_where_there_are_gpus() -> None:
    engine = config.Engine(accelerator_type="A100")
    assert pool_of(engine, gpu=True, cores=2).accelerator_type == "A100"
    assert pool_of(engine, gpu=False, cores=2).accelerator_type is None


def test_engines_on_gpus_are_as_many_as_are_asked_for() -> None:
    assert pool_of(config.Engine(max_actors=8), gpu=True, cores=2).max_actors == 8


def test_a_line_of_progress_names_the_model_and_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = job("s"), job("m")
    tracker = tracking(first, second)
    assert capsys.readouterr().out == "  sample 2 models: starting the engine for 4 shards\n"
    tracker._progress.every_s = -1
    for shard in [*first.shards(), *second.shards()]:
        tracker.advance(SampleReceipt(shard.stem, 8))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  sample s (sft), model 1 of 2: 8/32 completions")
    assert lines[-1].startswith("  sample m (sft), model 2 of 2: 32/32 completions")


def test_unfinished_models_are_named_in_order() -> None:
    jobs = [job(name) for name in "abcde"]
    tracker = tracking(*jobs)
    for shard in jobs[0].shards():
        tracker.advance(SampleReceipt(shard.stem, 8))
    assert tracker.unfinished() == "b (sft), c (sft), d (sft) and 1 more"


def test_a_model_that_cannot_be_loaded_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    broken = job("s")
    tracker = tracking(broken, job("m"))
    for shard in broken.shards():
        tracker.advance(SampleReceipt(shard.stem, unloadable="no such file"))
    assert capsys.readouterr().out.count("no such file") == 1
    assert tracker.left_out() == "sample s (sft): no such file"
