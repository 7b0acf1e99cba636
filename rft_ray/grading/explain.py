"""Why a completion has its verdict: each equation and each marked answer of a text, with the rule that decided it.

In: a text and its gold answer, as `grade` takes them. Out: an `Explanation`: the verdict of `grade` and the places of
the text that it read; `pieces` cuts the text at these places, for a terminal or a page to mark.

Limits: those of `grade`; at most MAX_MARKS places of each kind; slower than `grade`, and so for display only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from rft_ray.grading.answers import ConflictError, ReadClaim, paper_answer, read_claims, writes_decimal_comma
from rft_ray.grading.equation_checks import Outcome
from rft_ray.grading.equations import MAX_TEXT_CHARS, Mode, Reading, equations_of, readings
from rft_ray.grading.grader import COLLECTING, Unread, grade
from rft_ray.grading.prose_tokens import annotation_spans
from rft_ray.records import Verdict

MAX_MARKS = 1_000
"""Most equations, and most answers, of one text that are explained; no real solution has as many."""
MAX_RULE_CHARS = 300
ENDS = -1
"""Stands for the index of a mark where one ends."""
_PAPER_ANSWER = re.compile(r"#### -?[0-9.,]+")


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict and what it was made from.

    Example: Explanation("3+4 = 8\\n#### 8", "8", "strict", Verdict(Status.BAD_EQUATION, "8", "3+4=8: does not hold"),
    (ReadClaim(8, 14, "after ####", Answer("8", Fraction(8))),), (Reading(0, 7, "3+4=8", "fails", "7 is not 8"),))
    """

    text: str
    gold: str
    mode: Mode
    verdict: Verdict
    claims: tuple[ReadClaim, ...]
    """In the order of the text."""
    readings: tuple[Reading, ...]
    """In the order of the text; they do not overlap. Read from every text, also where the answer alone decides."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text with what it belongs to: positions in the lists of readings and of claims, None for neither.

    Example: Piece("3+4 = 8", 0, None)
    """

    text: str
    reading: int | None
    claim: int | None


def explain(
    text: str,
    gold_answer: str,
    mode: Mode = "strict",
    *,
    truncated: bool = False,
    tolerance: float = COLLECTING,
    check_equations: bool = True,
    unread: Unread = "accept",
) -> Explanation:
    """The verdict of `grade` with these arguments, and what it was made from.

    Raises ValueError for an unknown mode, nothing for any text.
    """
    verdict = grade(
        text,
        gold_answer,
        mode,
        truncated=truncated,
        tolerance=tolerance,
        check_equations=check_equations,
        unread=unread,
    )
    claims = claims_of(text, mode, decimal_comma=writes_decimal_comma(gold_answer))
    return Explanation(text, gold_answer, mode, verdict, tuple(claims), tuple(readings_of(text, mode)))


def claims_of(text: str, mode: Mode = "strict", *, decimal_comma: bool = False) -> list[ReadClaim]:
    """The places of a text that are marked as its final answer; none past a bound. The first MAX_MARKS.

    `decimal_comma`: whether the gold answer is written with a comma as the decimal sign.
    """
    if len(text) > MAX_TEXT_CHARS:
        return []
    if mode == "paper":
        return [*_paper_claims(text)]
    try:
        claims = read_claims(text, decimal_comma=decimal_comma)
    except ConflictError:
        return []
    return sorted(claims, key=lambda claim: (claim.start, claim.end))[:MAX_MARKS]


def readings_of(text: str, mode: Mode = "strict") -> list[Reading]:
    """The equations of a text and why each holds or not; none past a bound. The first MAX_MARKS.

    In `2*4 = <<2*4=8>>8` two equations overlap: one that fails counts, else the one that begins first.
    """
    if len(text) > MAX_TEXT_CHARS:
        return []
    read = _paper_readings(text) if mode == "paper" else (_with_angles(text, reading) for reading in readings(text))
    apart: list[Reading] = []
    for reading in sorted(read, key=lambda reading: (reading.start, -reading.end)):
        if not apart or reading.start >= apart[-1].end:
            apart.append(reading)
        elif reading.outcome == "fails" != apart[-1].outcome:
            apart[-1] = reading
    return [replace(reading, rule=reading.rule[:MAX_RULE_CHARS]) for reading in apart[:MAX_MARKS]]


def _with_angles(text: str, reading: Reading) -> Reading:
    """A reading of what is in `<<...>>`, with the angles; any other as it is."""
    if text.startswith(">>", reading.end) and text.endswith("<<", 0, reading.start):
        return replace(reading, start=reading.start - 2, end=reading.end + 2)
    return reading


def _paper_claims(text: str) -> Iterator[ReadClaim]:
    nul = text.find("\0")
    match = _PAPER_ANSWER.search(text if nul < 0 else text[:nul])
    if match:
        answer = paper_answer(text)
        note = "" if answer else "no number, and later ones are not read"
        yield ReadClaim(match.start(), match.end(), "the first #### with digits", answer, note)


def _paper_readings(text: str) -> Iterator[Reading]:
    for start, end in islice(annotation_spans(text), MAX_MARKS):
        read = equations_of(f"<<{text[start:end]}>>", "paper")
        outcome: Outcome = "fails" if read.fault else "over" if read.over else "holds"
        reason = read.fault or read.over or "within 0.001 of the number after ="
        yield Reading(start - 2, end + 2, "|".join(read.listed), outcome, reason)


def pieces(text: str, read: Sequence[Reading], claims: Sequence[ReadClaim]) -> list[Piece]:
    """The text in pieces, cut where an equation or a marked answer begins or ends. Joined, they are the text.

    Of marks of one kind that overlap, the one that begins first counts. Marks past the text's end are cut there.
    """
    owner_of_equation, owner_of_answer = _owners(text, read), _owners(text, claims)
    cuts = sorted({0, len(text), *owner_of_equation, *owner_of_answer})
    parts = []
    reading = claim = None
    for start, end in pairwise(cuts):
        reading = owner_of_equation.get(start, reading)
        claim = owner_of_answer.get(start, claim)
        reading, claim = (None if reading == ENDS else reading), (None if claim == ENDS else claim)
        parts.append(Piece(text[start:end], reading, claim))
    return parts


def _owners(text: str, marks: Sequence[Reading] | Sequence[ReadClaim]) -> dict[int, int]:
    """Position -> index of the mark that begins there; ENDS where one ends and none begins."""
    owners: dict[int, int] = {}
    last = 0
    for index in sorted(range(len(marks)), key=lambda index: (marks[index].start, marks[index].end)):
        start, end = max(marks[index].start, last), min(marks[index].end, len(text))
        if start < end:
            owners[start], owners[end] = index, ENDS
            last = end
    return owners
