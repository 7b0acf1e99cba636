"""Gold answers of rows, as the run's verifier reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rft_ray import config
from rft_ray.config import Grading
from rft_ray.data.problems import prepare
from rft_ray.data.row_files import DataError
from rft_ray.records import Problem, problem_id
from tests.unit.data.problem_rows import Write, row
from tests.unit.grading.test_verifiers import spec_with


@pytest.mark.parametrize(
    ("verifier", "answer", "gold"),
    [("choice", "(C)", "C"), ("math", "x^2+1", "x^2+1"), ("exact", "New York", "New York")],
)
def test_the_verifier_of_the_run_reads_gold_answers(jsonl: Write, verifier: str, answer: str, gold: str) -> None:
    section = config.ProblemSet(source=jsonl({"question": "Why?", "answer": answer, "solution": "Thus."}))
    rules = spec_with(Grading(verifier=verifier))
    assert prepare(section, 0, 10, rules=rules).problems == (Problem(problem_id("Why?"), "Why?", "Thus.", gold),)
    with pytest.raises(DataError, match="no number that the grader can read"):
        prepare(section, 0, 10)


@pytest.mark.parametrize(
    ("verifier", "answer", "message"),
    [
        (
            "choice",
            12,
            r":2: 'answer' holds no answer that grading.verifier=choice can read \('12'\): it must be a letter",
        ),
        ("python", "f(2)", r":2: 'answer' holds no answer .* it must be unit tests in Python"),
        ("exact", "a\nb", ":2: 'answer' holds no answer .* it must be one line of text"),
    ],
)
def test_a_gold_that_the_verifier_cannot_read_is_refused_with_its_place(
    jsonl: Write, verifier: str, answer: object, message: str
) -> None:
    good = {"choice": "C", "python": "assert f(2) == 4", "exact": "a"}[verifier]
    section = config.ProblemSet(source=jsonl({"question": "a", "answer": good}, {"question": "b", "answer": answer}))
    with pytest.raises(DataError, match=message):
        prepare(section, 0, 10, rules=spec_with(Grading(verifier=verifier)))


def test_unit_tests_may_be_a_list(jsonl: Write) -> None:
    section = config.ProblemSet(
        source=jsonl({"text": "Double it.", "code": "def f(n): return 2 * n", "test_list": ["assert f(1) == 2"] * 2}),
        question="text",
        answer="test_list",
        solution="code",
    )
    [problem] = prepare(section, 0, 10, rules=spec_with(Grading(verifier="python"))).problems
    assert problem.answer == "assert f(1) == 2\nassert f(1) == 2"
    assert problem.solution == "def f(n): return 2 * n"


def test_a_letter_is_read_from_a_solution_and_conflicts_are_seen(jsonl: Write) -> None:
    rules = spec_with(Grading(verifier="choice"))
    section = config.ProblemSet(source=jsonl({"question": "Why?", "solution": "So the answer is (B)."}))
    assert prepare(section, 0, 10, rules=rules).problems[0].answer == "B"
    rows = [{"question": "Why?", "answer": "A"}, {"question": "Why?", "answer": "B"}, {"question": "x", "answer": "C"}]
    conflicting = prepare(config.ProblemSet(source=jsonl(*rows)), 0, 10, rules=rules, drop=True)
    assert conflicting.dropped.conflicting == 2


def test_the_class_labels_of_mmlu_are_letters(tmp_path: Path) -> None:
    features = {"answer": {"names": ["A", "B", "C", "D"], "_type": "ClassLabel"}}
    table = pa.table({"question": ["2+3?"], "subject": ["x"], "choices": [["4", "5", "6", "7"]], "answer": [1]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "test.parquet")
    section = config.ProblemSet(source=str(tmp_path / "test.parquet"))
    [problem] = prepare(section, 0, 10, rules=spec_with(Grading(verifier="choice"))).problems
    assert problem.question == "2+3?\n(A) 4\n(B) 5\n(C) 6\n(D) 7"
    assert problem.answer == "B"


GOLDS = {
    "choice": ("(C)", "(D)"),
    "math": ("x^2+1", "x^2-1"),
    "exact": ("New York", "Boston"),
    "regex": ("a", "b"),
    "python": ("assert f(1) == 2", "assert f(1) == 3"),
    "tests.unit.grading.hostile_rules:ends_in_answer": ("yes", "no"),
}


@pytest.mark.parametrize("verifier", GOLDS)
@pytest.mark.parametrize("solution", ["Thus.", None])
def test_a_corrected_gold_answer_gives_the_problems_another_name(
    jsonl: Write, verifier: str, solution: str | None
) -> None:
    pattern = {"pattern": "#### (.*)"} if verifier == "regex" else {}
    rules = spec_with(Grading(verifier=verifier, **pattern))
    worked = {"solution": solution} if solution else {}
    sections = [
        config.ProblemSet(source=jsonl({"question": "Why?", "answer": answer, **worked}, name=f"{at}.jsonl"))
        for at, answer in enumerate(GOLDS[verifier])
    ]
    before, after = (prepare(section, 0, 10, rules=rules) for section in sections)
    assert before.problems[0].answer != after.problems[0].answer
    assert before.fingerprint != after.fingerprint
    assert prepare(sections[0], 0, 10, rules=rules).fingerprint == before.fingerprint


def test_answers_that_two_verifiers_read_differently_have_two_names(jsonl: Write) -> None:
    section = config.ProblemSet(source=jsonl({"question": "Why?", "answer": "(C)", "solution": "Thus."}))
    choice, exact = (prepare(section, 0, 10, rules=spec_with(Grading(verifier=name))) for name in ("choice", "exact"))
    assert [part.problems[0].answer for part in (choice, exact)] == ["C", "(C)"]
    assert choice.fingerprint != exact.fingerprint


def test_answers_that_all_verifiers_read_in_the_solutions_have_one_name(jsonl: Write) -> None:
    """So that another verifier grades the same samples anew."""
    section = config.ProblemSet(source=jsonl(*map(row, range(9))))
    others = [prepare(section, 0, 10, rules=spec_with(Grading(verifier=name))) for name in ("exact", "math")]
    assert {part.fingerprint for part in others} == {prepare(section, 0, 10).fingerprint}
    assert {part.problems for part in others} == {prepare(section, 0, 10).problems}


def test_the_names_of_answer_only_problems_are_those_of_earlier_versions(jsonl: Write) -> None:
    section = config.ProblemSet(source=jsonl({"question": "Why?", "answer": "(C)"}))
    assert prepare(section, 0, 10, rules=spec_with(Grading(verifier="choice"))).fingerprint == "13baad0bd395d11b"
