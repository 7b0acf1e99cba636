"""Repeated questions, and test questions in the training set."""

from __future__ import annotations

from typing import Any

import pytest

from rft_ray import config
from rft_ray.data.leaks import Overlap
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.problems import (
    Dropped,
    ProblemSet,
    check_separate,
    describe,
    leaks,
    prepare_sets,
)
from rft_ray.data.row_files import DataError
from rft_ray.records import Problem, problem_id
from tests.unit.data.problem_rows import Write, row

LONG = "Every day Jack finds 3 stamps and Lily finds 4 stamps in the old box under the stairs of the house."


def sections(train: str, test: str, **settings: Any) -> config.Problems:
    return config.Problems.model_validate({"train": {"source": train}, "test": {"source": test}, **settings})


def described(train: ProblemSet, test: ProblemSet, threshold: float, decontaminate: str = "report") -> list[str]:
    """The lines about two sets that a run of these settings prints."""
    settings = config.Problems.model_validate({"overlap_threshold": threshold, "decontaminate": decontaminate})
    return describe(train, test, leaks(settings, train, test), threshold)


def test_repeated_rows_are_dropped_on_request_and_counted(jsonl: Write) -> None:
    bare, other = row(1, answer=2), row(3, answer="So.\n#### 9")
    train, test = jsonl(bare, row(1), row(1), row(2), row(3), other, row(3)), jsonl(row(8), name="test.jsonl")
    with pytest.raises(DataError, match=r"jsonl:2: the same question as .*:1: remove one of the two, or set"):
        prepare_sets(sections(train, test))
    problems = prepare_sets(sections(train, test, duplicates="drop"))[0]
    assert {problem.question for problem in problems.problems} == {row(1)["question"], row(2)["question"]}
    assert problems.solved == 2  # of equal rows, one with a solution stays
    assert problems.dropped == Dropped(repeated=2, conflicting=3)
    assert describe(problems, problems, [], 0.8)[0] == (
        "problems.train: dropped 2 that repeat another row, 3 of questions with conflicting answers"
    )


def test_a_question_with_another_answer_is_refused_with_both_answers(jsonl: Write) -> None:
    with pytest.raises(DataError, match=r"jsonl:2: the same question as .*:1 with another answer \(9, there 2\)"):
        load_problems(jsonl(row(1), row(1, answer="9")))


def test_a_set_of_nothing_but_conflicts_is_refused(jsonl: Write) -> None:
    path = jsonl(row(1), row(1, answer="9"))
    with pytest.raises(DataError, match="holds no problems: all of its questions have conflicting answers"):
        prepare_sets(sections(path, path, duplicates="drop"))


def test_test_questions_in_the_training_set_are_counted_and_dropped_on_request(jsonl: Write) -> None:
    near = LONG.replace("Every day", "Each day").replace("house", "farm") + " How many do they find?"
    train = jsonl(row(1), row(1, question=near), row(2, question=" WHAT is 8  and 1?"), row(3))
    test = jsonl(row(8), row(9, question=LONG), row(10), name="test.jsonl")
    reported = prepare_sets(sections(train, test))
    assert reported[0].count == 4
    (line,) = described(*reported, 0.7)
    assert line.startswith("warning: test questions in the training set: 1 exactly, and 1 more with at least 70% of")
    assert "and 0 more" in described(*reported, 0.95)[0]
    cleaned = prepare_sets(sections(train, test, decontaminate="drop", overlap_threshold=0.7))
    assert sorted(problem.question for problem in cleaned[0].problems) == [row(1)["question"], row(3)["question"]]
    assert cleaned[0].dropped == Dropped(in_test=2)
    assert described(*cleaned, 0.7, decontaminate="drop") == ["problems.train: dropped 2 that contain a test question"]
    assert cleaned[1] == reported[1]


def test_the_share_is_of_the_test_questions_8_grams() -> None:
    def problem(question: str) -> Problem:
        return Problem(problem_id(question), question, "", "1")

    words = [f"w{number}" for number in range(20)]
    test, longer, half = " ".join(words[:12]), " ".join(words), " ".join(words[2:])
    leaks = Overlap([problem(test)], 0.1).leaks([problem(longer), problem(half)])
    assert [round(leak.share, 2) for leak in leaks] == [1.0, 0.6]
    assert Overlap([problem(longer)], 0.5).leaks([problem(test)]) == []  # 5 of its 13
    assert Overlap([problem("Too short for any.")], 0.1).leaks([problem("Too short for any. Or?")]) == []


def test_a_training_set_of_test_questions_alone_is_refused(jsonl: Write) -> None:
    path = jsonl(row(1))
    with pytest.raises(DataError, match="every problem contains a test question"):
        prepare_sets(sections(path, path, decontaminate="drop"))


def test_a_question_in_both_sets_is_found_in_any_case_and_spacing() -> None:
    def problem(question: str) -> Problem:
        return Problem(problem_id(question), question, "So.\n#### 1", "1")

    train, test = [problem("Tom has  3 pens?")], [problem("tom HAS 3\npens?"), problem("Another?")]
    assert [leak.test for leak in Overlap(test, 0.8).leaks(train) if leak.exact] == test[:1]


@pytest.mark.parametrize(("shared", "refused"), [(10, False), (11, True), (20, True)])
def test_a_test_set_that_is_mostly_in_the_training_set_is_refused(jsonl: Write, shared: int, refused: bool) -> None:
    train = jsonl(*(row(number) for number in range(shared)), row(99))
    test = jsonl(*(row(number, question=f"what IS {number}  and 1?") for number in range(20)), name="test.jsonl")
    section = sections(train, test)
    pair = prepare_sets(section)
    in_train = leaks(section, *pair)
    if not refused:
        check_separate(pair[1], in_train)
        return
    with pytest.raises(DataError, match=rf"problems\.test: {shared} of its 20 questions are in problems\.train too"):
        check_separate(pair[1], in_train)
