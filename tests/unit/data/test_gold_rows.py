"""Columns by name, and rows with an answer and no solution."""

from __future__ import annotations

from typing import Any

import pytest

from rft_ray import config
from rft_ray.data.gold_rows import ANSWER_COLUMNS, QUESTION_COLUMNS, SOLUTION_COLUMNS
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.problems import (
    check_solutions,
    prepare,
)
from rft_ray.data.row_files import DataError
from rft_ray.grading import grade
from rft_ray.records import Problem, Status, problem_id
from tests.unit.data.problem_rows import Write, row

SOLVED = "3+2 = 5\n#### 5"


@pytest.mark.parametrize("question", QUESTION_COLUMNS)
@pytest.mark.parametrize(
    "gold",
    [
        *({column: SOLVED} for column in (*ANSWER_COLUMNS, *SOLUTION_COLUMNS)),
        *({column: "3+2 = 5", "answer": answer} for column in SOLUTION_COLUMNS for answer in ("5", 5, 5.0)),
        {"answer": "#### 5", "solution": SOLVED},
    ],
)
def test_usual_columns_are_found_by_name(jsonl: Write, question: str, gold: dict[str, Any]) -> None:
    (problem,) = load_problems(jsonl({question: "Why?", **gold}))
    assert (problem.question, problem.answer) == ("Why?", "5")
    assert problem.solution == ("" if gold == {"answer": "#### 5", "solution": SOLVED} else SOLVED)


def test_columns_are_named_in_the_config(jsonl: Write) -> None:
    path = jsonl({"q": "Why?", "a": 5, "s": "3+2 = 5", "question": "no", "answer": "6", "solution": "no"})
    section = config.ProblemSet(source=path, question="q", answer="a", solution="s")
    assert prepare(section, 0, 10).problems == (Problem(problem_id("Why?"), "Why?", SOLVED, "5"),)


def test_a_named_column_is_not_found_again_by_name(jsonl: Write) -> None:
    section = config.ProblemSet(source=jsonl({"question": "Why?", "answer": r"3+2 is \boxed{5}."}), solution="answer")
    assert prepare(section, 0, 10).problems[0].solution == "3+2 is \\boxed{5}.\n#### 5"


def test_a_named_column_that_is_not_there_is_refused_with_those_that_are(jsonl: Write, parquet: Write) -> None:
    for path in (jsonl(row(1)), parquet(row(1))):
        with pytest.raises(DataError, match="no 'q'; its columns: question, answer"):
            prepare(config.ProblemSet(source=path, question="q"), 0, 10)


@pytest.mark.parametrize("content", ["3+2 = 5\n#### 5", [{"type": "text", "text": "3+2 = 5\n#### 5"}]])
def test_a_chat_is_a_problem(jsonl: Write, parquet: Write, content: Any) -> None:
    said = [("system", "Think."), ("user", "Why?"), ("assistant", "?"), ("user", "So?"), ("assistant", content)]
    chat = {"messages": [{"role": role, "content": text} for role, text in said]}
    assert load_problems(jsonl(chat)) == [Problem(problem_id("Why?"), "Why?", SOLVED, "5")]
    if isinstance(content, str):
        assert load_problems(parquet(chat)) == load_problems(jsonl(chat))
    prompt = {"prompt": chat["messages"][:2], "target": 5}
    assert load_problems(jsonl(prompt)) == [Problem(problem_id("Why?"), "Why?", "", "5")]


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("18", "18"), (18, "18"), (18.0, "18"), (0.5, "0.5"), ("1,800", "1800"), ("$1,800.00", "1800"),
        ("18 pens", "18"), ("50%", "50%"), ("-3", "-3"), (r"\frac{1}{2}", "0.5"), (r"\boxed{7}", "7"),
        ("#### 2,400", "2400"), (1e21, "1" + "0" * 21),
    ],
)  # fmt: skip
def test_a_row_with_a_bare_answer_has_no_solution(jsonl: Write, answer: object, read: str) -> None:
    (problem,) = load_problems(jsonl({"question": "Why?", "answer": answer, "solution": None}))
    assert (problem.solution, problem.answer) == ("", read)
    assert grade(f"So.\n#### {read}", problem.answer).status is Status.CORRECT
    if "%" not in read:
        assert grade(f"So.\n#### {read}", problem.answer, "paper").status is Status.CORRECT


HEADINGS = "#### Step 1: Add\n3+2 = 5\n#### Step 2: Check\n5-2 = 3, so the answer is 5."


@pytest.mark.parametrize(
    "solution", [HEADINGS, "3+2 = 5\n####5", "3+2 = 5\n#### Answer: 5", "3+2 = 5\n#### 5\n\nThat is all."]
)
def test_a_solution_with_headings_of_hashes_gets_the_line_of_its_answer(jsonl: Write, solution: str) -> None:
    (problem,) = load_problems(jsonl({"question": "Why?", "answer": 5, "solution": solution}))
    assert problem == Problem(problem_id("Why?"), "Why?", f"{solution}\n#### 5", "5")
    assert load_problems(jsonl({"question": "Why?", "solution": solution})) == [problem]
    assert grade(problem.solution, problem.answer).status is Status.CORRECT


def test_a_set_may_mix_rows_with_and_without_a_solution(jsonl: Write) -> None:
    problems = prepare(config.ProblemSet(source=jsonl(row(1), row(2, answer=3), row(3, answer="4"))), 0, 10)
    assert (problems.count, problems.solved) == (3, 1)
    check_solutions(problems, 3)


def test_the_answers_of_a_set_without_solutions_are_part_of_its_name(jsonl: Write) -> None:
    names = {prepare(config.ProblemSet(source=jsonl(row(1, answer=answer))), 0, 10).fingerprint for answer in (1, 2)}
    assert len(names) == 2


def test_a_training_set_without_any_solution_is_refused(jsonl: Write) -> None:
    problems = prepare(config.ProblemSet(source=jsonl(row(1, answer=3), row(2, answer=4))), 0, 10)
    with pytest.raises(DataError, match=r"none of 2 training problems has a worked solution.*: name their column"):
        check_solutions(problems, 2)
