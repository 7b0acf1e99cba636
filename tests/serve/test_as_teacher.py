"""The service as the teacher of a run: its own samples, asked for through the engine of models behind endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.data.problems import commit_problems, ordered
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Completion, Problem, from_table, problem_id
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import open_store, read_table
from serve.scripted import arithmetic
from tests.serve.scripted_service import KEY, Running, two_models

QUESTIONS = [f"Tom has {number} pens and buys {number + 2} more. How many has he?" for number in range(2, 6)]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    yield from two_models()


def test_samples_of_the_service_become_shards_of_a_run(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    in_set = ordered([Problem(problem_id(question), question, "", "1") for question in QUESTIONS], 0, 2)
    settings = SamplingSettings(0.7, 1.0, 200, 4, "{query}", engine="openai")
    model = ModelRef("teacher", "base", "f" * 16, "openai:tiny-rft")
    job = SamplingJob(model, in_set.fingerprint, 4, 2, settings, 8, 0)
    store = open_store(str(tmp_path))
    commit_problems(store, in_set)
    endpoint = config.Endpoint(base_url=f"{service.url}/v1", key_env="TEACHER_KEY", retry_seconds=5)
    sample = Sampler(store, [job], config.Engine(), False, 0, endpoints={"teacher": endpoint})
    assert [sample(shard).rows for shard in job.shards()] == [8, 8, 8, 8]
    rows = [row for shard in job.shards() for row in from_table(read_table(store, shard.key())[0], Completion)]
    assert len({(row.problem_id, row.sample_index) for row in rows}) == 32
    questions = {problem.problem_id: problem.question for problem in in_set.problems}
    scripted = {(problem, arithmetic(question, at)) for problem, question in questions.items() for at in range(4)}
    assert {(row.problem_id, (row.text, row.finish_reason)) for row in rows} == scripted


def test_a_refused_key_stops_the_model_in_one_line(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-not-one-of-its-keys")
    in_set = ordered([Problem(problem_id(QUESTIONS[0]), QUESTIONS[0], "", "1")], 0, 2)
    settings = SamplingSettings(0.7, 1.0, 200, 4, "{query}", engine="openai")
    job = SamplingJob(ModelRef("teacher", "base", "f" * 16, "openai:x"), in_set.fingerprint, 1, 2, settings, 4, 0)
    store = open_store(str(tmp_path))
    commit_problems(store, in_set)
    endpoint = config.Endpoint(base_url=f"{service.url}/v1", key_env="TEACHER_KEY")
    sample = Sampler(store, [job], config.Engine(), False, 0, endpoints={"teacher": endpoint})
    receipt = sample(next(iter(job.shards())))
    assert "HTTP 401: the key is refused: set a valid one in the environment variable TEACHER_KEY" in receipt.unloadable
