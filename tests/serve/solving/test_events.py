"""The events of one question: their content, when the vote ends, and that closing them closes the engine's stream."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest

from rft_ray.grading.spec import VerifierSpec
from serve.api import schemas
from serve.api.schemas import Event, SolveRequest
from serve.solving.answers import AnswerReader
from serve.solving.events import Piece, Pieces, solve_events
from serve.solving.voting import Path, Tally, marked, vote

FIVE, SIX, SEVEN = "3+2 = <<3+2=5>>5\n#### 5", "3*2 = <<3*2=6>>6\n#### 6", "#### 7"
SILENT, TORN = "I do not know.", "#### 5\nNo.\n#### 7"


class Engine:
    """Yields whole texts in the given order, and records whether it was closed."""

    def __init__(self, texts: Sequence[str], order: Sequence[int] | None = None, *, apart: bool = True) -> None:
        self.texts, self.order, self.apart = texts, order or range(len(texts)), apart
        self.closed = False

    async def pieces(self) -> Pieces:
        batch = [Piece(i, self.texts[i], 1 + len(self.texts[i].split()), "stop") for i in self.order]
        try:
            for some in [[piece] for piece in batch] if self.apart else [batch]:
                yield some
        finally:
            self.closed = True


def run(engine: Engine, **asked: object) -> list[Event]:
    async def collect() -> list[Event]:
        request = SolveRequest.model_validate({"question": "q", "k": len(engine.texts)} | asked)
        return [event async for event in solve_events(engine.pieces(), request, "m", 99)]

    return asyncio.run(collect())


def result(engine: Engine, **asked: object) -> schemas.SolveResponse:
    last = run(engine, **asked)[-1]
    assert isinstance(last, schemas.SolveResponse)
    return last


def test_every_path_is_followed_by_the_vote_so_far() -> None:
    received = run(Engine([FIVE, SIX, SILENT]), early_stop=False)
    assert [type(event).__name__ for event in received] == [
        "Started",
        *["PathEvent", "VoteEvent"] * 3,
        "SolveResponse",
    ]
    assert [event.came for event in received if isinstance(event, schemas.VoteEvent)] == [1, 2, 3]


def test_a_path_event_has_its_equations_answer_and_distinct_path() -> None:
    wrong, again = "3+2 = <<3+2=6>>6\n9-4 = <<9-4=5>>5\n#### 5", f"So: {FIVE}"
    received = [
        e for e in run(Engine([FIVE, wrong, again, TORN]), early_stop=False) if isinstance(e, schemas.PathEvent)
    ]
    assert [path.answer for path in received] == ["5", "5", "5", None]
    assert [path.distinct for path in received] == [1, 2, 1, None]
    assert [path.sound for path in received] == [True, False, True, False]
    assert [[one.holds for one in path.equations] for path in received[:2]] == [[True], [False, True]]
    assert received[3].silent == "undecided"


def test_it_stops_once_the_answer_is_certain_and_closes_the_engine() -> None:
    engine = Engine([FIVE] * 4 + [SIX] * 4)
    solved = result(engine)
    assert engine.closed
    assert (solved.answer, solved.came, solved.saved.paths) == ("5", 5, 3)  # "5" wins a tie against "6", not "10"
    assert solved.saved.tokens == 3 * (1 + len(FIVE.split()))
    assert result(Engine([SIX] * 4 + [FIVE] * 4)).came == 8  # "6" does not


def test_without_early_stop_every_path_is_sent() -> None:
    solved = result(Engine([FIVE] * 8), early_stop=False)
    assert (solved.came, solved.saved.paths, solved.saved.tokens) == (8, 0, 0)


def test_finished_paths_of_the_same_step_do_not_outvote_a_decision() -> None:
    assert result(Engine([FIVE] * 5, apart=False)).came == 3


@pytest.mark.parametrize("seed", range(40))
def test_stopping_early_never_changes_the_answer_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    texts = rng.choices([FIVE, SIX, SEVEN, SILENT, TORN], weights=[4, 3, 2, 1, 1], k=rng.randint(1, 12))
    whole = vote([Path(text, "stop") for text in texts])
    for _ in range(10):
        order = rng.sample(range(len(texts)), len(texts))
        assert result(Engine(texts, order)).answer == whole.answer
        late = result(Engine(texts, order), early_stop=False)
        assert late.model_dump(exclude={"seconds"}) == result(Engine(texts), early_stop=False).model_dump(
            exclude={"seconds"}
        )


def test_a_decision_is_made_neither_too_early_nor_too_late() -> None:
    """Compared with all continuations; the worst one is an answer that comes first in Unicode order."""
    choices = ["#### 5", "#### 6", SILENT]
    for came in itertools.product(choices, repeat=3):
        for missing in range(3):
            tally = Tally(3 + missing)
            for text in came:
                tally.add(Path(text, "stop"))
            ends = {
                vote([Path(text, "stop") for text in (*came, *rest)]).answer
                for rest in itertools.product([*choices, "#### -1"], repeat=missing)
            }
            assert tally.decided == (len(ends) == 1 and (tally.votes != [] or missing == 0)), (came, missing)


def test_every_sample_is_accounted_for() -> None:
    solved = result(Engine([SILENT, TORN, FIVE, FIVE, FIVE, FIVE, SIX]))
    silent = solved.undecided + solved.no_answer + solved.truncated
    assert sum(v.count for v in solved.votes) + silent == solved.came
    assert solved.came + solved.saved.paths == solved.k == 7


def test_an_engine_that_ends_too_early_is_an_error() -> None:
    async def short() -> None:
        async for _ in solve_events(Engine([FIVE]).pieces(), SolveRequest(question="q", k=3), "m", 9):
            pass

    with pytest.raises(RuntimeError, match="1 of 3"):
        asyncio.run(short())


def test_closing_the_events_closes_the_engine() -> None:
    engine = Engine([FIVE, SIX])

    async def leave() -> None:
        received = solve_events(engine.pieces(), SolveRequest(question="q", k=2), "m", 9)
        assert isinstance(await anext(received), schemas.Started)
        assert isinstance(await anext(received), schemas.PathEvent)
        await received.aclose()

    asyncio.run(leave())
    assert engine.closed


def test_unfinished_texts_are_sent_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.solving.events.TEXT_EVERY_S", 0)

    async def pieces() -> Pieces:
        yield [Piece(0, "3+2 ", 2, None), Piece(1, "I ", 1, None)]
        yield [Piece(0, "#### 5", 2, "stop"), Piece(1, "know", 1, None)]
        yield [Piece(1, " not", 1, "length")]

    async def collect(deltas: bool) -> list[Event]:
        asked = SolveRequest(question="q", k=2, early_stop=False, deltas=deltas)
        return [event async for event in solve_events(pieces(), asked, "m", 9)]

    grown = [event.texts for event in asyncio.run(collect(True)) if isinstance(event, schemas.TextEvent)]
    assert grown == [{0: "3+2 ", 1: "I "}, {1: "know"}]
    assert not [event for event in asyncio.run(collect(False)) if isinstance(event, schemas.TextEvent)]


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("<<2*4=8>> and <<8+3=12>>", [("2*4=8", True), ("8+3=12", False)]),
        ("2 * 4 = 8, then 8 + 3 = 12", [("8+3=12", False)]),
        ("<<2*4=8>> and <<x>>", [("2*4=8", True), ("x", False)]),
        ("no sums", []),
        ("<<" * 100_000, []),
    ],
)
def test_each_equation_is_marked(text: str, marks: list[tuple[str, bool]]) -> None:
    found = [(one.equation, one.holds) for one in marked(text)]
    assert found[-len(marks) :] == marks if marks else found == []


def test_equations_after_reasoning_are_marked_at_their_places() -> None:
    text = "<plan><<2+2=5>></plan> 2+3 = <<2+3=5>>5\n#### 5"
    engine, asked = Engine([text]), SolveRequest(question="q", k=1)
    reader = AnswerReader(VerifierSpec(reasoning_tags=("plan",)))

    async def collect() -> list[Event]:
        return [event async for event in solve_events(engine.pieces(), asked, "m", 99, reader=reader)]

    [path] = [event for event in asyncio.run(collect()) if isinstance(event, schemas.PathEvent)]
    assert path.text == text
    assert [(text[mark.start : mark.end], mark.holds) for mark in path.equations] == [("2+3 = <<2+3=5>>5", True)]


def test_marks_and_grader_agree() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = " ".join(f"<<{rng.randint(1, 9)}+{rng.randint(1, 3)}={rng.randint(2, 6)}>>" for _ in range(3))
        sound = Tally(1).add(Path(f"{text}\n#### 5", "stop")).sound
        assert sound == all(one.holds for one in marked(text))
