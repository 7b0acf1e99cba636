"""A right answer whose equations cannot all be read: correct or undecided, as asked, and named in the detail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rft_ray.grading import grade, grader
from rft_ray.grading.equations import Equations
from rft_ray.grading.grader import MAX_SHOWN
from rft_ray.grading.spec import VerifierSpec
from rft_ray.grading.verifiers import open_verifier
from rft_ray.records import PARTLY_READ, Problem, Status, Verdict

TEXT = "Some arithmetic.\n#### 9"


@pytest.fixture
def read_as(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test say how the equations of TEXT are read."""
    grader._judge_cached.cache_clear()
    yield monkeypatch
    grader._judge_cached.cache_clear()


def reads(read_as: pytest.MonkeyPatch, equations: Equations) -> None:
    read_as.setattr(grader, "equations_of", lambda text, mode: equations)


def test_unread_arithmetic_is_accepted_by_default_and_named(read_as: pytest.MonkeyPatch) -> None:
    reads(read_as, Equations((), unread="4 and a bit = 9"))
    verdict = grade(TEXT, "9")
    assert verdict == Verdict(Status.CORRECT, "9", "4 and a bit = 9", PARTLY_READ)
    assert verdict.reason == "equations partly_read: 4 and a bit = 9"


def test_unread_arithmetic_is_undecided_on_request(read_as: pytest.MonkeyPatch) -> None:
    reads(read_as, Equations((), unread="4 and a bit = 9"))
    assert grade(TEXT, "9", unread="reject") == Verdict(Status.UNDECIDED, "9", "4 and a bit = 9", PARTLY_READ)


@pytest.mark.parametrize("unread", ["accept", "reject"])
def test_a_wrong_equation_and_a_bound_count_more_than_unread_arithmetic(
    read_as: pytest.MonkeyPatch, unread: grader.Unread
) -> None:
    reads(read_as, Equations(("1=2",), fault="1=2: does not hold", unread="x"))
    assert grade(TEXT, "9", unread=unread).status is Status.BAD_EQUATION
    grader._judge_cached.cache_clear()
    reads(read_as, Equations(("1=2",), over="1=2: bound", unread="x"))
    assert grade(TEXT, "9", unread=unread) == Verdict(Status.UNDECIDED, "9", "1=2: bound")


@pytest.mark.parametrize("gold", ["8", "9"])
def test_unread_arithmetic_matters_to_right_answers_with_checked_equations_only(
    read_as: pytest.MonkeyPatch, gold: str
) -> None:
    reads(read_as, Equations((), unread="4 and a bit = 9"))
    verdict = grade(TEXT, gold, unread="reject", check_equations=gold == "8")
    assert verdict.status is (Status.CORRECT if gold == "9" else Status.WRONG_ANSWER)
    assert not verdict.equations


def test_the_detail_of_unread_arithmetic_is_bounded(read_as: pytest.MonkeyPatch) -> None:
    reads(read_as, Equations((), unread="7" * 100_000))
    assert len(grade(TEXT, "9").detail) == MAX_SHOWN


def test_the_verifier_of_a_run_does_as_its_spec_says(read_as: pytest.MonkeyPatch) -> None:
    reads(read_as, Equations((), unread="4 and a bit = 9"))
    problem = Problem("p", "?", "", "9")
    statuses = [
        open_verifier(VerifierSpec(unread=unread), "strict", collecting=collecting)
        .grade(problem, TEXT, truncated=False)
        .status
        for unread in grader.UNREAD
        for collecting in (True, False)
    ]
    assert statuses == [Status.CORRECT, Status.CORRECT, Status.UNDECIDED, Status.CORRECT]
