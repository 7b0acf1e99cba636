"""The majority vote: which paths vote, which answer wins, and which path is shown."""

from __future__ import annotations

import itertools

import pytest

from rft_ray.grading.spec import VerifierSpec
from serve.solving.answers import AnswerReader
from serve.solving.voting import Outcome, Path, Tally, vote

FIVE = "3+2 = <<3+2=5>>5\n#### 5"
FIVE_AGAIN = "2+3 = <<2+3=5>>5\n#### 5.0"
FIVE_WRONG_STEP = "9-3 = <<9-3=5>>5\n#### 5"
SIX = "3*2 = <<3*2=6>>6\n#### 6"
SILENT = "I do not know."
TORN = "#### 5\nor else\n#### 7"
PLANNED = AnswerReader(VerifierSpec(reasoning_tags=("plan",)))


def sampled(*texts: str, finish_reason: str = "stop") -> list[Path]:
    return [Path(text, finish_reason) for text in texts]


def total(outcome: Outcome) -> int:
    return sum(count for _, count in outcome.votes) + outcome.undecided + outcome.no_answer + outcome.truncated


def test_most_votes_win_over_spellings_of_one_number() -> None:
    outcome = vote(sampled(FIVE, SIX, FIVE_AGAIN))
    assert outcome.answer == "5"
    assert outcome.votes == (("5", 2), ("6", 1))
    assert outcome.confidence == pytest.approx(2 / 3)


def test_a_tie_goes_to_the_first_answer_in_unicode_order() -> None:
    assert vote(sampled("#### 9", "#### 10")).answer == "10"
    assert vote(sampled("#### 10", "#### 9")).answer == "10"


def test_paths_without_a_clear_answer_are_counted_and_do_not_vote() -> None:
    cut = Path("3+2 = <<3+2=5>>5 and then", "length")
    outcome = vote([*sampled(FIVE, SILENT, TORN, TORN), cut])
    assert (outcome.answer, outcome.votes) == ("5", (("5", 1),))
    assert (outcome.no_answer, outcome.undecided, outcome.truncated) == (1, 2, 1)
    assert outcome.confidence == pytest.approx(1 / 5)


def test_an_answer_that_touches_the_token_limit_does_not_vote() -> None:
    assert vote([Path("#### 12", "length")]).truncated == 1
    assert vote([Path("#### 12\nTom has a dog", "length")]).answer == "12"


def test_a_path_that_is_cut_in_the_reasoning_that_the_prompt_opened_does_not_vote() -> None:
    draft = "#### 12\nOr is it 13? Let us see"
    assert vote([Path(draft, "length")]).answer == "12"
    assert vote([Path(draft, "length", opened=True)]).truncated == 1
    assert vote([Path(f"{draft}</think>#### 5\nSo", "length", opened=True)]).answer == "5"
    assert vote([Path("#### 12", "stop", opened=True)]).answer == "12"


def test_neither_answers_nor_equations_are_read_from_reasoning() -> None:
    draft = "<plan>3+2 = <<3+2=6>>6\n#### 6\nNo.</plan>\n"
    known = Path(draft + FIVE, "stop")
    outcome = vote([known], PLANNED)
    assert (outcome.answer, outcome.equations, outcome.distinct_paths) == ("5", ("3+2=5",), 1)
    assert Tally(1, PLANNED).add(known).sound
    assert vote([Path(draft + FIVE, "stop")]).undecided == 1
    assert Tally(1).add(Path(draft.replace("plan", "think") + FIVE, "stop")).sound


def test_a_path_is_cut_in_the_reasoning_that_the_runs_own_tags_name() -> None:
    draft = "#### 12\nOr is it 13? Let us see"
    assert vote([Path(draft, "length", opened=True)], PLANNED).truncated == 1
    assert vote([Path(f"{draft}</plan>#### 5\nSo", "length", opened=True)], PLANNED).answer == "5"
    assert vote([Path(f"{draft}</plan>#### 5", "stop", opened=True)], PLANNED).answer == "5"


def test_no_votes_give_no_answer() -> None:
    outcome = vote(sampled(SILENT, TORN))
    assert (outcome.answer, outcome.path, outcome.votes) == (None, None, ())
    assert (outcome.confidence, outcome.distinct_paths, outcome.equations) == (0.0, 0, ())


def test_the_order_of_the_paths_changes_no_result() -> None:
    paths = sampled(FIVE, FIVE_AGAIN, SIX, SIX, SILENT)
    assert len({repr(vote(order)) for order in itertools.permutations(paths)}) == 1


def test_every_path_is_accounted_for() -> None:
    paths = [*sampled(FIVE, SIX, SILENT, TORN, ""), Path("3+", "length"), Path("#### 1", "length")]
    for size in range(1, len(paths) + 1):
        for chosen in itertools.combinations(paths, size):
            assert total(vote(chosen)) == size


def test_the_shown_path_has_no_wrong_equation_where_one_has_none() -> None:
    outcome = vote(sampled(FIVE_WRONG_STEP, FIVE_WRONG_STEP, FIVE))
    assert outcome.path == Path(FIVE, "stop")
    assert outcome.equations == ("3+2=5",)
    assert outcome.distinct_paths == 2


def test_the_shown_path_is_of_the_commonest_equation_list_then_the_shortest() -> None:
    longer = f"Let us add the pens. {FIVE}"
    outcome = vote(sampled(FIVE_AGAIN.replace("2+3", "1+4"), longer, FIVE))
    assert outcome.path == Path(FIVE, "stop")


def test_text_that_the_grader_cannot_read_is_undecided_and_raises_nothing() -> None:
    assert vote(sampled("#### " + "9" * 100_000, "x" * 200_000)).undecided == 2
