"""Worked examples before a question: no problem is shown its own solution, and who is shown what is in the names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.data import prompts
from rft_ray.data.problems import commit_problems
from rft_ray.plan.jobs import SamplingJob
from rft_ray.plan.run_plan import Plan
from rft_ray.sampling.sampler import ask_problems
from rft_ray.store import Store, open_store
from rft_ray.store.names import FIRST_SHOTS, VERSIONS
from tests.unit.plan.test_methods import plan_of

OVERLAP = "--problems.test.source=tiny:train:20"
FORMS = ("{kind: template, template: 'Q: {query} A:'}", "{kind: chat}")


def prompts_of(plan: Plan, job: SamplingJob, folder: Path) -> dict[str, str]:
    """problem_id -> its prompt."""
    store: Store = open_store(str(folder))
    for part in (plan.train, plan.test):
        commit_problems(store, part)
    shards = (shard for shard in job.shards() if shard.sample_block == 0)
    requests = [request for shard in shards for request in ask_problems(store, job, shard).requests]
    return {request.problem.problem_id: str(request.prompt) for request in requests}


@pytest.mark.parametrize("form", FORMS)
def test_no_problem_is_shown_its_own_solution(tmp_path: Path, form: str) -> None:
    plan = plan_of("--models.0.shots=3", f"--prompt={form}")
    job = plan.collected[0].sampling
    shown = prompts_of(plan, job, tmp_path)
    solved = [problem for problem in plan.train.problems if problem.solution]
    assert len(shown) == 20
    for problem in plan.train.problems:
        others = [shot for shot in solved if shot != problem][:3]
        assert shown[problem.problem_id] == str(prompts.build(job.settings.prompt, problem.question, others))
        assert problem.solution not in shown[problem.problem_id]


def test_samples_of_earlier_versions_were_shown_it(tmp_path: Path) -> None:
    plan = plan_of("--models.0.shots=3")
    job = plan.collected[0].sampling
    earlier = replace(job, settings=replace(job.settings, shots_version=FIRST_SHOTS))
    first = plan.train.problems[0]
    assert first.solution in prompts_of(plan, earlier, tmp_path)[first.problem_id]


def test_only_samples_with_worked_examples_have_the_version_in_their_names() -> None:
    plan = plan_of("--models.0.shots=3", "--evaluation.icl_shots=3")
    with_shots, without = (job.sampling for job in plan.collected)
    assert with_shots.settings.identity()["shots_version"] == VERSIONS["shots"] > FIRST_SHOTS
    earlier = replace(with_shots, settings=replace(with_shots.settings, shots_version=FIRST_SHOTS))
    assert "shots_version" not in earlier.settings.identity()
    assert earlier.fingerprint != with_shots.fingerprint
    others = [without, *(job.greedy.sampling for job in plan.evaluations)]
    assert {job.settings.shots for job in others} == {0, 3}
    assert all("shots_version" not in job.settings.identity() for job in others)


def test_a_test_question_among_the_worked_examples_is_not_shown_its_solution(tmp_path: Path) -> None:
    plan = plan_of("--evaluation.icl_shots=3", OVERLAP)
    job = plan.evaluations_of("icl")[0].greedy.sampling
    assert job.settings.identity()["shots_version"] == VERSIONS["shots"]
    shown = prompts_of(plan, job, tmp_path)
    for problem in plan.test.problems:
        assert problem.solution not in shown[problem.problem_id]
