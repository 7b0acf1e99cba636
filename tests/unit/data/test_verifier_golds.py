"""Gold answers of rows, as the run's verifier reads them."""

from __future__ import annotations

import pytest

from rft_ray import config
from rft_ray.config import Grading
from rft_ray.data.problems import prepare
from rft_ray.data.row_files import DataError
from rft_ray.records import Problem, problem_id
from tests.unit.data.problem_rows import Write
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
