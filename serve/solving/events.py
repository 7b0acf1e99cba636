"""One question, k samples, one vote: pieces of sampled text from an engine -> the events of `POST /solve`.

Imports neither Ray nor vLLM: a deployment passes an async generator of `Piece`s, and sends the events on. Closing the
events closes the generator, and with it the request in the engine; so does a vote that can no longer change.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from statistics import fmean

from serve.api import schemas
from serve.api.schemas import Event, SolveRequest
from serve.solving.answers import GSM8K, AnswerReader
from serve.solving.voting import Ballot, Marked, Path, Tally, marked

TEXT_EVERY_S = 0.06
"""Time between two `text` events, which hold the new text of all unfinished paths."""


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one sample.

    Example: Piece(3, " 8 pens.", 4, None)
    """

    index: int
    text: str
    tokens: int
    finish_reason: str | None
    """`stop` or `length` for the sample's last piece, otherwise None."""


Pieces = AsyncGenerator[list[Piece], None]


@dataclass(slots=True)
class _Samples:
    """The text and tokens of each sample so far."""

    k: int
    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)

    def grow(self, piece: Piece) -> bool:
        """Add a piece; returns whether it is the sample's last. Pieces after the last are dropped."""
        if piece.index in self.finished:
            return False
        self.texts[piece.index] = self.texts.get(piece.index, "") + piece.text
        self.tokens[piece.index] = self.tokens.get(piece.index, 0) + piece.tokens
        if piece.finish_reason is not None:
            self.finished.add(piece.index)
        return piece.finish_reason is not None

    def saved(self) -> schemas.Saved:
        cancelled = [index for index in range(self.k) if index not in self.finished]
        if not cancelled or not self.finished:
            return schemas.Saved(paths=len(cancelled))
        average = fmean(self.tokens[index] for index in self.finished)
        saved = sum(max(0.0, average - self.tokens.get(index, 0)) for index in cancelled)
        return schemas.Saved(paths=len(cancelled), tokens=round(saved))


async def solve_events(
    pieces: Pieces,
    asked: SolveRequest,
    model: str,
    max_tokens: int,
    *,
    opened: bool = False,
    reader: AnswerReader = GSM8K,
) -> AsyncGenerator[Event, None]:
    """`start`, then `path` and `vote` for each finished path, with `deltas` also `text`, and the result at the end.

    `opened`: whether the prompt opens reasoning. `reader`: reads the answers that the paths vote for.
    """
    began = time.monotonic()
    samples, tally = _Samples(asked.k), Tally(asked.k, reader)
    unsent, sent = dict[int, str](), began
    yield schemas.Started(model=model, k=asked.k, max_tokens=max_tokens)
    async with aclosing(pieces):
        async for batch in pieces:
            for piece in batch:
                if not samples.grow(piece):
                    unsent[piece.index] = unsent.get(piece.index, "") + piece.text
                    continue
                unsent.pop(piece.index, None)
                path = Path(samples.texts[piece.index], str(piece.finish_reason), opened)
                ballot = await reader.call(tally.add, path)
                marks = marked(reader.blanked(path.text))
                yield _path_event(piece.index, path, ballot, marks, samples.tokens, time.monotonic() - began)
                yield _vote_event(tally)
                if asked.early_stop and tally.decided:
                    break
            if asked.early_stop and tally.decided:
                break
            if asked.deltas and unsent and time.monotonic() - sent >= TEXT_EVERY_S:
                yield schemas.TextEvent(texts=unsent)
                unsent, sent = {}, time.monotonic()
    if tally.finished < asked.k and not (asked.early_stop and tally.decided):
        raise RuntimeError(f"the engine of {model} ended after {tally.finished} of {asked.k} samples")
    yield _result(tally, samples, model, time.monotonic() - began)


def _path_event(
    index: int, path: Path, ballot: Ballot, marks: Sequence[Marked], tokens: Mapping[int, int], seconds: float
) -> schemas.PathEvent:
    return schemas.PathEvent(
        index=index,
        text=path.text,
        finish_reason=path.finish_reason,
        answer=ballot.answer,
        silent=ballot.silent and ballot.silent.value,
        equations=[schemas.MarkedEquation(**asdict(mark)) for mark in marks],
        sound=ballot.sound,
        distinct=ballot.distinct,
        tokens=tokens[index],
        seconds=round(seconds, 3),
    )


def _vote_event(tally: Tally) -> schemas.VoteEvent:
    confidence, (low, high) = tally.share()
    return schemas.VoteEvent(
        votes=[schemas.Vote(answer=answer, count=count) for answer, count in tally.votes],
        came=tally.finished,
        k=tally.k,
        confidence=confidence,
        interval=schemas.Interval(low=low, high=high),
        decided=tally.decided,
        **{status.value: count for status, count in tally.silent.items()},
    )


def _result(tally: Tally, samples: _Samples, model: str, seconds: float) -> schemas.SolveResponse:
    outcome = tally.outcome()
    shown = outcome.path and schemas.ShownPath(text=outcome.path.text, equations=list(outcome.equations))
    return schemas.SolveResponse(
        answer=outcome.answer,
        confidence=outcome.confidence,
        interval=schemas.Interval(low=outcome.interval[0], high=outcome.interval[1]),
        votes=[schemas.Vote(answer=answer, count=count) for answer, count in outcome.votes],
        path=shown,
        k=tally.k,
        came=tally.finished,
        distinct_paths=outcome.distinct_paths,
        undecided=outcome.undecided,
        no_answer=outcome.no_answer,
        truncated=outcome.truncated,
        saved=samples.saved(),
        tokens=sum(samples.tokens.values()),
        model=model,
        seconds=round(seconds, 3),
    )
