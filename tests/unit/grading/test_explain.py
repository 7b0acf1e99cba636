"""Explanations: the verdict of `grade`, places of the text, and pieces that are the text again."""

from __future__ import annotations

import pytest

from rft_ray.grading import grade
from rft_ray.grading.answers import ReadClaim
from rft_ray.grading.equations import MODES, Mode, Reading
from rft_ray.grading.explain import MAX_MARKS, claims_of, explain, pieces, readings_of
from rft_ray.records import Status
from tests.unit.grading.test_hostile import HOSTILE, is_quick

SOLUTION = "Ann buys 4 * 6 = 24 eggs.\nShe has 24 + 5 = 30 eggs.\n#### 30"


def reading(start: int, end: int) -> Reading:
    return Reading(start, end, "", "unread", "")


def claim(start: int, end: int) -> ReadClaim:
    return ReadClaim(start, end, "", None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gold", ["30", "31", "no number"])
def test_the_verdict_is_that_of_grade(mode: Mode, gold: str) -> None:
    assert explain(SOLUTION, gold, mode).verdict == grade(SOLUTION, gold, mode)


def test_each_equation_has_its_place_and_outcome() -> None:
    explained = explain(SOLUTION, "30")
    assert explained.verdict.status is Status.BAD_EQUATION
    places = [(SOLUTION[read.start : read.end], read.outcome) for read in explained.readings]
    assert places == [("4 * 6 = 24", "holds"), ("24 + 5 = 30", "fails")]
    assert all(read.rule for read in explained.readings)


def test_the_marked_answer_has_its_place_and_value() -> None:
    [only] = explain(SOLUTION, "30").claims
    assert "30" in SOLUTION[only.start : only.end]
    assert only.answer is not None
    assert only.answer.value == 30


def test_paper_mode_is_explained_by_the_rules_of_the_reference() -> None:
    text = "<<1/3=0.334>> <<2+2=5>> #### 1,200 and #### 7"
    explained = explain(text, "1200", "paper")
    assert [(text[read.start : read.end], read.outcome) for read in explained.readings] == [
        ("<<1/3=0.334>>", "holds"),
        ("<<2+2=5>>", "fails"),
    ]
    [only] = explained.claims
    assert text[only.start : only.end] == "#### 1,200"


def test_equations_are_shown_where_the_answer_alone_decides() -> None:
    explained = explain(SOLUTION, "7")
    assert explained.verdict.status is Status.WRONG_ANSWER
    assert len(explained.readings) == 2


@pytest.mark.parametrize(
    ("readings", "claims", "expected"),
    [
        ([], [], [("abcdefgh", None, None)]),
        ([reading(2, 4)], [], [("ab", None, None), ("cd", 0, None), ("efgh", None, None)]),
        ([reading(0, 8)], [claim(6, 8)], [("abcdef", 0, None), ("gh", 0, 0)]),
        (
            [reading(2, 4), reading(4, 6)],
            [],
            [("ab", None, None), ("cd", 0, None), ("ef", 1, None), ("gh", None, None)],
        ),
        ([reading(2, 6)], [claim(4, 8)], [("ab", None, None), ("cd", 0, None), ("ef", 0, 0), ("gh", None, 0)]),
        ([reading(0, 4), reading(2, 6)], [], [("abcd", 0, None), ("ef", 1, None), ("gh", None, None)]),
        ([reading(6, 99), reading(50, 99)], [], [("abcdef", None, None), ("gh", 0, None)]),
    ],
)
def test_a_text_is_cut_where_marks_begin_and_end(
    readings: list[Reading], claims: list[ReadClaim], expected: list[tuple[str, int | None, int | None]]
) -> None:
    assert [(piece.text, piece.reading, piece.claim) for piece in pieces("abcdefgh", readings, claims)] == expected


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("mode", MODES)
def test_a_hostile_text_is_marked_within_a_second_and_its_pieces_are_it(name: str, mode: Mode) -> None:
    text = HOSTILE[name]
    assert is_quick(lambda: claims_of(text, mode))
    assert is_quick(lambda: readings_of(text, mode))
    claims, readings = claims_of(text, mode), readings_of(text, mode)
    assert is_quick(lambda: pieces(text, readings, claims))
    assert "".join(piece.text for piece in pieces(text, readings, claims)) == text
    assert len(readings) <= MAX_MARKS
    assert len(claims) <= MAX_MARKS
    assert all(0 <= read.start <= read.end <= len(text) for read in readings)


@pytest.mark.parametrize(
    ("text", "marked", "outcome"),
    [
        ("Ann has 2*4 = <<2*4=8>>8 pens", "2*4 = <<2*4=8>>8", "holds"),
        ("Ann has 2*4 = <<2*4=9>>8 pens", "<<2*4=9>>", "fails"),
        ("Ann has 2*4 = <<2*4=8>>9 pens", "2*4 = <<2*4=8>>9", "fails"),
        ("Ann has <<2*4=8>>8 pens", "<<2*4=8>>", "holds"),
    ],
)
def test_of_an_annotation_and_the_equation_around_it_one_is_marked(text: str, marked: str, outcome: str) -> None:
    assert [(text[read.start : read.end], read.outcome) for read in readings_of(text)] == [(marked, outcome)]
