"""What the keys of the section `corpus` do, from the config to the paths and rows that are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rft_ray.cli import verify
from rft_ray.corpus.selector import Candidate, distinct_paths, path_keys
from rft_ray.plan.jobs import PathJob
from rft_ray.plan.run_plan import Plan
from tests.unit.corpus.test_verifiers_through_the_stages import carried_out, plan_with

GSM8K = "{verifier: gsm8k}"
SUM, SWAPPED, PRODUCT = "1+2 = <<1+2=3>>3", "2+1 = <<2+1=3>>3", "3*2 = <<3*2=6>>6"
CANDIDATES = [
    Candidate("a", 0, f"{SUM}\n{PRODUCT}\n#### 6"),
    Candidate("a", 1, f"{SWAPPED}\n{PRODUCT}\n#### 6"),
    Candidate("b", 0, f"{PRODUCT}\n{SUM}\n#### 6"),
    Candidate("b", 1, f"{SUM}\n{PRODUCT}\n#### 6"),
]


def kept(job: PathJob, plan: Plan) -> int:
    problem = plan.train.problems[0]
    keys = path_keys(problem, CANDIDATES, job, lambda _: pytest.fail("paths are equal by their equations alone"))
    return len(distinct_paths(problem, CANDIDATES, job, keys))


@pytest.mark.parametrize(
    ("corpus", "options", "paths"),
    [
        ("{}", "", 3),
        ("{normal_form: sorted_operands}", "--normal-form sorted_operands", 2),
        ("{normal_form: multiset}", "--normal-form multiset", 1),
        ("{dedup: none}", "--dedup none", 4),
        ("{dedup: random}", "", 3),
        ("{dedup: random, normal_form: multiset}", "", 1),
    ],
)
def test_which_paths_are_distinct_is_a_choice_of_a_run_and_of_verify(corpus: str, options: str, paths: int) -> None:
    plan = plan_with("tiny:train:10", GSM8K, f"--corpus={corpus}")
    assert kept(plan.paths, plan) == paths
    if options:
        parsed = verify.arguments(["c.jsonl", "--gold", "tiny:train:10", *options.split()], "verify")
        _, selected = verify.plan(parsed, [job.sampling for job in plan.collected])
        assert kept(selected["strict"], plan) == paths


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> Counter[tuple[str, str]]:
    """(problem, model) -> rows of the corpus; the model of gold is empty."""
    return rows_of(tmp_path_factory.mktemp("unlimited"))


def rows_of(folder: Path, *more: str) -> Counter[tuple[str, str]]:
    _, rows = carried_out(plan_with("tiny:train:10", GSM8K, *more), folder / "run")
    return Counter((row["problem_id"], row["model"]) for row in rows)


def test_a_limit_of_paths_takes_them_from_the_models_in_turn(
    unlimited: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    limited = rows_of(tmp_path, "--corpus={dedup: none, max_paths_per_problem: 5}")
    problems = {problem for problem, _ in limited}
    assert problems == {problem for problem, _ in unlimited}
    for problem in problems:
        assert limited[problem, ""] == 1, "gold is not counted"
        assert limited[problem, "a"] + limited[problem, "b"] <= 5
        assert limited[problem, "a"] <= 3 or limited[problem, "b"] < 2
    assert any((limited[problem, "a"], limited[problem, "b"]) == (3, 2) for problem in problems), "a comes first"


def test_a_corpus_without_gold_has_the_same_paths(unlimited: Counter[tuple[str, str]], tmp_path: Path) -> None:
    without = rows_of(tmp_path, "--corpus.gold=false")
    assert without
    assert without == Counter({key: count for key, count in unlimited.items() if key[1]})
