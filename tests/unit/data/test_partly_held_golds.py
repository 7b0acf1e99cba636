"""Gold answers that say more than the one number that a problem holds: times of day, and two units."""

from __future__ import annotations

from typing import Any

import pytest

from rft_ray.config import ProblemSet
from rft_ray.data.problems import describe, prepare
from tests.unit.data.problem_rows import Write

NOTED = "gold answers that are times of day or in two units, and graded as one number each"
IN_TWO_UNITS = [
    ("2 hours 15 minutes", "2.25", "135"),
    ("2 hours and 15 minutes", "2.25", "135"),
    ("5 ft 3 in", "5.25", "63"),
    ("3 lb 4 oz", "3.25", "52"),
    ("3 dozen", "3", "36"),
    ("1.5 hours (90 minutes)", "1.5", "90"),
]


def note_on(jsonl: Write, *rows: dict[str, Any]) -> tuple[str, str]:
    """(the gold answer that the first problem holds, the note on the set)"""
    prepared = prepare(ProblemSet(source=jsonl(*rows)), 0, 10)
    held = {problem.question: problem.answer for problem in prepared.problems}
    return held[rows[0]["question"]], prepared.note


@pytest.mark.parametrize(("gold", "held", "other"), IN_TWO_UNITS)
def test_the_unit_that_does_not_count_is_named(jsonl: Write, gold: str, held: str, other: str) -> None:
    answer, note = note_on(jsonl, {"question": "How long?", "answer": gold})
    assert answer == held
    assert f"1: 'answer' is {gold!r}, graded as {held!r}: the same in its other unit, {other}, is wrong" in note


@pytest.mark.parametrize(
    ("gold", "held", "counts"),
    [
        ("3:30 pm", "15:30", "the hour alone"),
        ("10:15 a.m.", "10:15", "the hour alone"),
        ("3 pm", "3", "am or pm does not count"),
    ],
)
def test_what_does_not_count_of_a_time_of_day_is_named(jsonl: Write, gold: str, held: str, counts: str) -> None:
    answer, note = note_on(jsonl, {"question": "When?", "answer": gold})
    assert answer == held
    assert f"{gold!r}, graded as {held!r}" in note
    assert counts in note


def test_a_gold_beside_a_solution_and_one_within_it_are_named_too(jsonl: Write) -> None:
    beside = {"question": "When?", "answer": "3 pm", "solution": "It is 1 + 2 = 3."}
    within = {"question": "How long?", "solution": "The answer is 2 hours 15 minutes."}
    for row in (beside, within):
        assert note_on(jsonl, row)[1].startswith(f"{NOTED}: 1 (first: ")
    assert note_on(jsonl, beside, within)[1].startswith(f"{NOTED}: 2 (first: ")


def test_the_note_is_shown_before_a_run(jsonl: Write) -> None:
    prepared = prepare(ProblemSet(source=jsonl({"question": "When?", "answer": "3 pm"})), 0, 10)
    assert f"problems.train: {prepared.note}" in describe(prepared, prepared, [], 0.5)


@pytest.mark.parametrize("gold", ["3", "5 ft", "$3.50", "2 1/2 hours", "50%"])
def test_of_a_gold_that_is_one_number_nothing_is_said(jsonl: Write, gold: str) -> None:
    assert note_on(jsonl, {"question": "How many?", "answer": gold})[1] == ""
