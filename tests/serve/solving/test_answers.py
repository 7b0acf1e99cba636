"""The answers that paths vote for are those of the run's verifier."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rft_ray.grading.child import ChildError
from rft_ray.grading.spec import VerifierSpec
from rft_ray.records import Status
from serve.api import schemas
from serve.api.schemas import SolveRequest
from serve.solving.answers import AnswerReader
from serve.solving.events import Piece, Pieces, solve_events
from serve.solving.voting import Path, vote

CHOICE = AnswerReader(VerifierSpec("choice"))
IN_CHILD = {"timeout_s": 20.0, "memory_gib": 4.0}


def sampled(*texts: str) -> list[Path]:
    return [Path(text, "stop") for text in texts]


def test_paths_of_a_run_about_choices_vote_for_letters() -> None:
    texts = ["2*4 = <<2*4=8>>8. The answer is (C).", "So it is 12.\n**Answer:** C", "The answer is (B).", "No idea"]
    outcome = vote(sampled(*texts), CHOICE)
    assert (outcome.votes, outcome.no_answer) == ((("C", 2), ("B", 1)), 1)
    assert vote(sampled(*texts)).answer != "C"  # by numbers


def test_paths_vote_for_words_where_the_verifier_compares_words() -> None:
    reader = AnswerReader(VerifierSpec("exact"))
    outcome = vote(sampled("<answer>New  York</answer>", "The answer is new york.", "<answer>Paris</answer>"), reader)
    assert outcome.votes == (("new york", 2), ("paris", 1))


def test_a_draft_in_the_runs_own_tags_is_not_read() -> None:
    reader = AnswerReader(VerifierSpec("choice", reasoning_tags=("plan",)))
    text = "<plan>The answer is (A).</plan>The answer is (B)."
    assert reader.read(text, cut=False, opened=False) == "B"
    assert reader.read("<plan>The answer is (A).", cut=True, opened=False) is Status.TRUNCATED
    numbers = AnswerReader(VerifierSpec(reasoning_tags=("plan",)))
    assert numbers.read("<plan>#### 3</plan>#### 4", cut=False, opened=False) == "4"


def test_after_a_template_that_opens_reasoning_a_text_that_closes_none_has_no_answer_as_in_the_run() -> None:
    reader = AnswerReader(VerifierSpec(reasoning_tags=("plan",)), "Question: {query}\n<plan>\n")
    draft = "2+2 = <<2+2=5>>5\n#### 5"
    assert reader.read(draft, cut=False, opened=True) is Status.NO_ANSWER
    assert reader.read(draft, cut=True, opened=True) is Status.TRUNCATED
    assert reader.read(f"{draft}</plan>#### 4", cut=False, opened=True) == "4"
    assert not reader.blanked(draft).strip()


def test_paths_without_equations_are_distinct_by_their_words() -> None:
    one, other = "Cats purr. The answer is (C).", "Dogs bark. The answer is (C)."
    assert vote(sampled(one, one.upper().replace("(C)", "(C)"), other), CHOICE).distinct_paths == 2
    assert vote(sampled("Cats: #### 3", "Dogs: #### 3")).distinct_paths == 1  # gsm8k: neither has an equation


def test_paths_that_differ_in_their_reasoning_alone_are_one_path() -> None:
    final = "Cats purr. The answer is (C)."
    texts = [f"<think>Dogs?</think>{final}", f"Cats?</think>{final}", final]
    assert vote(sampled(*texts), CHOICE).distinct_paths == 1


def test_the_shown_path_of_another_verifier_has_no_failing_equation_where_one_has_none() -> None:
    wrong, right = "3*2 = <<3*2=7>>7. The answer is (C).", "3*2 = <<3*2=6>>6. So the answer is (C)."
    outcome = vote(sampled(wrong, wrong, right), CHOICE)
    assert outcome.path == Path(right, "stop")
    assert outcome.equations == ("3*2=6",)


@pytest.mark.parametrize("name", ["python", "my_rules:grade"])
def test_a_verifier_that_needs_the_right_answer_has_no_votes(name: str) -> None:
    assert not AnswerReader(VerifierSpec(name, **IN_CHILD)).has_votes
    assert CHOICE.has_votes


def test_a_verifiers_child_reads_while_other_requests_go_on() -> None:
    """By `regex`, whose child imports least."""
    reader = AnswerReader(VerifierSpec("regex", r"= (\d+)", **IN_CHILD))
    threads = []

    async def pieces() -> Pieces:
        for index, text in enumerate(["x = 3", "y = 4, x = 3", "none"]):
            yield [Piece(index, text, 2, "stop")]

    async def solve() -> schemas.Event:
        await reader.start()
        threads.append(await reader.call(threading.current_thread))
        request = SolveRequest.model_validate({"question": "q", "k": 3, "early_stop": False})
        return [event async for event in solve_events(pieces(), request, "m", 9, reader=reader)][-1]

    last = asyncio.run(solve())
    assert isinstance(last, schemas.SolveResponse)
    assert (last.answer, last.votes[0].count, last.no_answer) == ("3", 2, 1)
    assert threads != [threading.main_thread()]


def test_a_child_that_cannot_start_is_noticed_at_the_start() -> None:
    with pytest.raises(ChildError, match="cannot start"):
        asyncio.run(AnswerReader(VerifierSpec("regex", "(", **IN_CHILD)).start())
