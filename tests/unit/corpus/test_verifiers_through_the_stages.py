"""Each verifier through the stages: problems, scripted samples, verdicts, paths and corpus, in this process."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rft_ray.config import load
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import Selector
from rft_ray.corpus.verifier import CanaryError, Verifier
from rft_ray.data.problems import commit_problems, prepare_sets
from rft_ray.grading.spec import spec_of
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import Store, mark_run, open_store, read_table
from tests.unit.config.test_identity import work

RULES = "tests.unit.grading.hostile_rules"


def jsonl(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{folder}/data.jsonl"


def plan_with(source: str, grading: str, *more: str) -> Plan:
    config = load(
        None,
        [
            f"--problems={{train: {{source: '{source}'}}, test: {{source: '{source}'}}, per_block: 5}}",
            "--models=[{name: a, source: x}, {name: b, source: y}]",
            "--sampling={samples_per_problem: 8, samples_per_block: 4, engine: scripted}",
            f"--grading={grading}",
            *more,
        ],
    )
    return make_plan(config, *prepare_sets(config.problems, spec_of(config)), {"a": "0" * 16, "b": "1" * 16})


def carried_out(plan: Plan, folder: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """(status -> verdicts, rows of the corpus)."""
    store = open_store(str(folder))
    mark_run(store)
    commit_problems(store, plan.train)
    jobs = plan.collected
    work(
        Sampler(store, [job.sampling for job in jobs], plan.config.engine, False, 0),
        (job.sampling.shards() for job in jobs),
    )
    grade(plan, store)
    work(Selector(store, plan.path_jobs), (job.shards() for job in plan.path_jobs))
    build_corpus(plan.corpus, store, plan.train, plan.config.prompt.template)
    statuses: Counter[str] = Counter()
    for shard in (shard for job in jobs for shard in job.shards()):
        statuses.update(json.loads(read_table(store, shard.key())[1]["counts"]))
    return statuses, read_table(store, plan.corpus.key)[0].to_pylist()


def grade(plan: Plan, store: Store) -> None:
    verifier = Verifier(store, plan.collected)
    try:
        work(verifier, (job.shards() for job in plan.collected))
    finally:
        verifier.close()


CHOICES = [
    {
        "question": f"Which of these is {n}?",
        "answer": f"({'ABCDE'[n % 5]})",
        "solution": f"The answer is ({'ABCDE'[n % 5]}).",
    }
    for n in range(8)
]
HALVES = [{"question": f"What is half of {n}?", "answer": f"\\frac{{{n}}}{{2}}"} for n in range(1, 9)]
WORDS = [{"question": f"Say {word}.", "answer": word} for word in ("yes", "no", "perhaps", "never")]


def test_choice(tmp_path: Path) -> None:
    statuses, rows = carried_out(plan_with(jsonl(tmp_path, CHOICES), "{verifier: choice}"), tmp_path / "run")
    assert statuses["correct"] > statuses["no_answer"] > 0
    assert statuses.total() == 8 * 8 * 2
    assert {row["problem_id"] for row in rows if not row["gold"]} == {row["problem_id"] for row in rows}


def test_math(tmp_path: Path) -> None:
    statuses, rows = carried_out(plan_with(jsonl(tmp_path, HALVES), "{verifier: math}"), tmp_path / "run")
    assert statuses["correct"] > statuses["truncated"] > 0
    assert statuses["undecided"] == 0
    assert len({row["problem_id"] for row in rows}) == 8


def test_a_function_of_the_users(tmp_path: Path) -> None:
    plan = plan_with(jsonl(tmp_path, WORDS), f"{{verifier: '{RULES}:ends_in_answer'}}")
    statuses, rows = carried_out(plan, tmp_path / "run")
    assert statuses["correct"] >= statuses["wrong_answer"] > 0
    assert len({row["problem_id"] for row in rows}) == 4


def test_python(tmp_path: Path) -> None:
    plan = plan_with("code:train", "{verifier: python, timeout_s: 5}")
    statuses, rows = carried_out(plan, tmp_path / "run")
    assert statuses["correct"] > statuses["no_answer"] > 0
    assert statuses["undecided"] == 0
    assert sum(row["gold"] for row in rows) == 6
    assert any(not row["gold"] for row in rows)


def test_the_same_verdicts_are_made_again(tmp_path: Path) -> None:
    plan = plan_with(jsonl(tmp_path, CHOICES), "{verifier: choice}")
    first, second = (carried_out(plan, tmp_path / name) for name in ("one", "two"))
    assert first == second


def test_a_gold_that_a_users_verifier_rejects_stops_grading(tmp_path: Path) -> None:
    plan = plan_with(jsonl(tmp_path, WORDS), "{verifier: 'tests.unit.grading.severe_rules:reject'}")
    with pytest.raises(CanaryError, match=r"grades a solution known to be right as wrong_answer .*gold of the problem"):
        carried_out(plan, tmp_path / "run")


THOUGHT = "<think>2+2 = <<2+2=5>>5?\n#### 987</think>"
"""Reasoning with a wrong equation and a wrong answer."""


@pytest.mark.parametrize("reasoning", ["keep", "drop"])
def test_reasoning_is_not_graded_and_kept_or_dropped(tmp_path: Path, reasoning: str) -> None:
    rows = [
        {"question": f"What is {n} and 1?", "solution": f"{THOUGHT}{n}+1 = {n + 1}\n#### {n + 1}"} for n in range(6)
    ]
    plan = plan_with(jsonl(tmp_path, rows), "{verifier: gsm8k}", f"--corpus.reasoning={reasoning}")
    statuses, corpus = carried_out(plan, tmp_path / "run")
    assert statuses["correct"] > statuses.total() / 3
    sampled = [row for row in corpus if not row["gold"]]
    assert sampled
    assert {"<think>" in row["text"] for row in sampled} == {reasoning == "keep"}
    assert not any("2+2=5" in equation for row in sampled for equation in row["equations"])


def test_paths_without_equations_are_told_apart_by_their_words(tmp_path: Path) -> None:
    plan = plan_with(jsonl(tmp_path, CHOICES), "{verifier: choice}")
    assert plan.paths.distinct_by == "normalised_text"
    _, rows = carried_out(plan, tmp_path / "run")
    texts = Counter((row["problem_id"], row["text"]) for row in rows if not row["gold"])
    assert set(texts.values()) == {1}
    assert len(texts) > len({problem for problem, _ in texts})
    assert any(row["shared_by"] > 1 for row in rows)


@pytest.mark.parametrize(
    ("corpus", "fewer"),
    [
        ("{distinct_by: 'tests.unit.grading.hostile_rules:first_letter'}", True),
        ("{distinct_by: 'tests.unit.grading.hostile_rules:broken_key'}", False),
        ("{near_duplicate_threshold: 0.01}", True),
        ("{distinct_by: equations}", False),
    ],
)
def test_what_makes_paths_distinct_is_a_choice(tmp_path: Path, corpus: str, fewer: bool) -> None:
    source = jsonl(tmp_path, CHOICES)
    plain, other = (plan_with(source, "{verifier: choice}", *more) for more in ((), (f"--corpus={corpus}",)))
    sampled = [
        sum(not row["gold"] for row in carried_out(plan, tmp_path / name)[1])
        for plan, name in ((plain, "plain"), (other, "other"))
    ]
    assert 0 < sampled[1] <= sampled[0]
    assert not fewer or sampled[1] < sampled[0]
