"""How full engines are: peaks and preemptions reach the gauges, each shard, and the account of a model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace

from rft_ray import config
from rft_ray.data.problems import commit_problems, ordered
from rft_ray.evaluation.summary import account_of
from rft_ray.evaluation.summary_records import Complementarity
from rft_ray.plan.jobs import ModelRef, SamplingJob, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem, problem_id
from rft_ray.sampling import vllm_private
from rft_ray.sampling.engine_load import EngineLoad, EngineLoads
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import mark_run, open_store

FULL = EngineLoad(running=8, waiting=3, kv_cache=0.5, preemptions=0)
CROWDED = EngineLoad(running=6, waiting=9, kv_cache=0.9, preemptions=2)
IDLE = EngineLoad(running=0, waiting=0, kv_cache=0.0, preemptions=0)


def test_a_taken_load_has_the_most_of_each_and_all_preemptions_since_the_last_one() -> None:
    loads = EngineLoads(lambda _: None)
    for step in (FULL, CROWDED, CROWDED):
        loads.record(step)
    assert loads.take() == EngineLoad(8, 9, 0.9, 4)
    assert loads.take() is None


def test_gauges_are_set_once_an_interval_and_when_the_engine_is_idle() -> None:
    reported: list[EngineLoad] = []
    loads = EngineLoads(reported.append, interval_s=3600)
    for step in (FULL, CROWDED, CROWDED, IDLE):
        loads.record(step)
    assert reported == [FULL, EngineLoad(0, 0, 0.0, 4)]


def test_each_step_of_an_engine_with_statistics_gives_its_load() -> None:
    scheduler = SimpleNamespace(num_running_reqs=2, num_waiting_reqs=1, kv_cache_usage=0.123456)
    kinds = Enum("EngineCoreEventType", ["QUEUED", "PREEMPTED"])
    events = [SimpleNamespace(type=kind) for kind in kinds]
    outputs = [SimpleNamespace(events=None), SimpleNamespace(events=events)]
    steps = [
        SimpleNamespace(outputs=outputs, scheduler_stats=scheduler),
        SimpleNamespace(outputs=[], scheduler_stats=scheduler),
        SimpleNamespace(outputs=outputs, scheduler_stats=None),
    ]
    core = SimpleNamespace(get_output=iter(steps).__next__)
    engine = SimpleNamespace(engine_core=core, output_processor=SimpleNamespace(log_stats=True), log_stats=True)
    seen: list[EngineLoad] = []
    vllm_private.report_load(engine, seen.append)
    assert [engine.engine_core.get_output() for _ in steps] == steps
    assert seen == [EngineLoad(2, 1, 0.1235, 1), EngineLoad(2, 1, 0.1235, 0)]
    assert not engine.log_stats
    assert not engine.output_processor.log_stats


def test_the_loads_of_shards_add_up_in_the_account_of_their_model(tmp_path: Path) -> None:
    questions = [f"What is {number}+1?" for number in range(4)]
    problems = ordered([Problem(problem_id(question), question, "", "1") for question in questions], 0, 2)
    store = open_store(str(tmp_path))
    mark_run(store)
    commit_problems(store, problems)
    settings = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine="scripted")
    job = SamplingJob(ModelRef("a", "base", "a" * 16), problems.fingerprint, 4, 2, settings, 2, 0)
    sampler = Sampler(store, [job], config.Engine(), gpu=False, run_seed=0)
    for shard, step in zip(job.shards(), (FULL, CROWDED), strict=True):
        sampler._loads.record(step)
        sampler(shard)
    account = account_of(store, VerdictJob(job, "strict", "collect"), Complementarity())
    assert account.load == EngineLoad(8, 9, 0.9, 2)


def test_an_engine_without_statistics_leaves_no_load(tmp_path: Path) -> None:
    assert EngineLoads(lambda _: None).take() is None
