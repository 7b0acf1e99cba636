"""The final answer of a completion: completion text -> Answer or None; ConflictError where several differ.

Paper mode is the reference's rule: the first `#### <digits>`. Strict mode reads answers as models write them: the
marks of `answer_marks.py`, and the number that each states by the rules of `answer_numbers.py`. Where several differ,
one that the text takes back is superseded by the next, and what follows the beginning of another question isn't read.

Limits: at most `MAX_ANSWER_CHARS` characters of a final answer are read in strict mode; all scanning
is linear in the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from rft_ray.grading.answer_doubts import doubt_after, end_of_own_part, may_run_on, takes_back
from rft_ray.grading.answer_marks import (
    Mark,
    bold_on_last_line,
    box_with_neighbours,
    conclusion_on_last_line,
    marks_of,
    written,
)
from rft_ray.grading.answer_numbers import SEVERAL_NUMBERS, numbers_in, read_number
from rft_ray.grading.answer_values import MAX_ANSWER_CHARS, MAX_ANSWERS, Answer, ConflictError, canonical, same_value
from rft_ray.grading.reasoning import without_drafts

__all__ = [
    "MAX_ANSWERS",
    "MAX_ANSWER_CHARS",
    "Answer",
    "ConflictError",
    "ReadClaim",
    "canonical",
    "gold_answer",
    "own_part",
    "paper_answer",
    "read_claims",
    "read_number",
    "strict_answer",
    "writes_decimal_comma",
]

_PAPER = re.compile(r"#### (-?[0-9.,]+)")


def paper_answer(text: str) -> Answer | None:
    """Answer by the reference's rule: the first `#### <number>` before any NUL, or None.

    The first match decides: if it is not a number (`1.2.3`), later ones are not read.
    """
    nul = text.find("\0")
    match = _PAPER.search(text if nul < 0 else text[:nul])
    if match is None:
        return None
    number = match.group(1)
    return _cached_paper_number(number) if len(number) <= MAX_ANSWER_CHARS else _paper_number(number)


def _paper_number(number: str) -> Answer | None:
    number = number.replace(",", "")
    try:
        return Answer(number, float(number))
    except ValueError:
        return None


_cached_paper_number = lru_cache(maxsize=4_096)(_paper_number)

_cached_number = lru_cache(maxsize=4_096)(read_number)

_RULES = {
    "#": "after ####", "box": "\\boxed{}", "tag": "<answer>", "json": 'the key "answer"', "is": "after 'the answer is'",
    ":": "after 'answer:'", "A": "after 'A:'", ".": "the line after the heading 'answer'",
    "**": "bold on the last line", "last": "the conclusion on the last line",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReadClaim:
    """A place of a text that is marked as the final answer, and what strict mode makes of it.

    Example: ReadClaim(4, 17, "after 'the answer is'", Answer("18", Fraction(18))) for "The answer is 18."
    """

    start: int
    end: int
    rule: str
    """The mark, in words."""
    answer: Answer | None
    """None where no number could be read."""
    note: str = ""
    """Why it does not count: not read, superseded, or in conflict with another. Empty where it counts."""
    state: Literal["counts", "open", "set_aside"] = "counts"
    """`open`: it could be read in several ways, so that the text is undecided; `set_aside`: it has no influence."""


def strict_answer(text: str, *, decimal_comma: bool = False) -> Answer | None:
    """The final answer of a completion in any of the forms that models write, or None.

    `decimal_comma`: whether the gold answer is written with a comma as the decimal sign.
    Raises ConflictError when several final answers differ, or one leaves its number open.
    """
    claims = _settled(text, decimal_comma)
    for claim in claims:
        if claim.state == "open":
            raise ConflictError(claim.note)
    answers = [claim.answer for claim in claims if claim.state == "counts" and claim.answer]
    distinct = _distinct(answers)
    if len(distinct) > 1:
        raise ConflictError(f"final answers differ: {', '.join(answer.text for answer in distinct[:4])}")
    return distinct[0] if distinct else None


def read_claims(text: str, *, decimal_comma: bool = False) -> list[ReadClaim]:
    """Each place that is marked as the final answer, in order, and whether it counts. Agrees with `strict_answer`.

    Raises ConflictError for a text over a bound.
    """
    claims = _settled(text, decimal_comma)
    if len(_distinct([claim.answer for claim in claims if claim.state == "counts" and claim.answer])) > 1:
        return [
            replace(claim, note="differs from another answer") if claim.state == "counts" else claim for claim in claims
        ]
    return claims


def own_part(text: str) -> str:
    """The part of a text that answers its question: drafts are blanked, and a run-on into another question is cut off.

    Positions in it are those of the text.
    """
    text = without_drafts(text)
    if not may_run_on(text):
        return text
    first = next((mark for mark in marks_of(text) if _readable(text, mark)), None)
    return text[: end_of_own_part(text, first.opens)] if first else text


def gold_answer(text: str) -> Answer | None:
    """The gold's answer, from a solution that ends in `#### <answer>` or from the bare answer; None if it holds none.

    A comma before one, two or more than three digits is a decimal sign in a gold.
    """
    marked = "####" in text
    stated = text.rpartition("####")[2].strip().partition("\n")[0] if marked else text.strip()
    for decimal_comma in (False, None):
        try:
            answer = None if marked else strict_answer(text)
            return answer or read_number(stated[:MAX_ANSWER_CHARS], decimal_comma=decimal_comma)
        except ConflictError:
            continue
    return None


def writes_decimal_comma(gold: str) -> bool:
    """Whether a gold answer is a number whose decimal sign is a comma: `12,5`, `1.234,50 €`."""
    return bool(_COMMA_GOLD.fullmatch(gold.rpartition("####")[2].strip()))


_COMMA_GOLD = re.compile(r"[^\d.,]{0,20}(?:\d{1,3}(?:\.\d{3})+|\d+),(?:\d{1,2}|\d{4,})[^\d.,]{0,20}", re.ASCII)
_COMMA_STYLE = re.compile(
    r"[-=+*/×÷x€]\s?\d{1,3}(?:\.\d{3}){0,4},\d{1,2}(?![\d,])|(?<![\d,.])\d{1,9},\d{1,2}\s?[=+*/×÷€]", re.ASCII
)
_SEPARATOR = re.compile(r"\d[,.]\d")
_POINT_STYLE = re.compile(r"\d\.\d{1,2}(?!\d)", re.ASCII)
_FINAL = re.compile(r"\bfinal[ \t_*]{1,4}\Z", re.I)
_DIGIT = re.compile(r"\d")
_EXPLAINS = re.compile(
    r"\s{1,9}[*_#>-]{0,6}[ \t]{0,3}(?:explanation|explained|reasoning|justification|because|this\s+is\s+because"
    r"|verification|check|i\s+hope|let\s+me\s+know|hope\s+this)\b",
    re.I,
)
_RESULT = re.compile(r"=[ \t*_$€£¥\\(\[{]{0,6}(-?\d[\d,.]{0,30})", re.ASCII)
_BARE = re.compile(r"[\W_]{0,12}\d[^=\n]*\Z")


def _settled(text: str, decimal_comma: bool) -> list[ReadClaim]:
    """The claims of a text in order, with those set aside that others or the text itself supersede."""
    text = without_drafts(text)
    marks = marks_of(text)
    if len(marks) > MAX_ANSWERS:
        raise ConflictError(f"{len(marks)} final answers, bound {MAX_ANSWERS}")
    claims = [
        _read(text, mark, after, decimal_comma)
        for mark, after in itertools.zip_longest(marks, marks[1:])
        if mark is not None
    ]
    if not any(claim.state != "set_aside" for claim in claims) and "**" in text:
        claims += [_read(text, mark, None, decimal_comma) for mark in bold_on_last_line(text)]
        if len(claims) > MAX_ANSWERS:
            raise ConflictError(f"more than {MAX_ANSWERS} pieces in bold (bound)")
    if not any(claim.state != "set_aside" for claim in claims):
        concluded = (_read(text, mark, None, decimal_comma) for mark in conclusion_on_last_line(text))
        claims += [claim for claim in concluded if claim.answer]
    for supersede in (_without_run_on, _without_taken_back, _without_settled):
        if _agree(claims):
            break
        claims = supersede(text, claims)
    return _with_doubt(text, claims)


def _with_doubt(text: str, claims: list[ReadClaim]) -> list[ReadClaim]:
    """The claims, the last of which is open where the text takes it back and marks no other answer."""
    last = next((index for index in reversed(range(len(claims))) if claims[index].state == "counts"), None)
    if last is None or (answer := claims[last].answer) is None:
        return claims
    if not (doubt := doubt_after(text, claims[last].start, answer)):
        return claims
    note = f"final answer {answer.text[:60]} is taken back: {doubt[:60]!r}"
    return [*claims[:last], replace(claims[last], note=note, state="open"), *claims[last + 1 :]]


def _agree(claims: Iterable[ReadClaim]) -> bool:
    answers = []
    for claim in claims:
        if claim.state == "open":
            return False
        if claim.state == "counts" and claim.answer:
            answers.append(claim.answer)
    return len(answers) < 2 or len(_distinct(answers)) < 2


def _distinct(answers: Iterable[Answer]) -> list[Answer]:
    """Answers of different values; of one value said twice, the percentage."""
    distinct: list[Answer] = []
    for answer in answers:
        same = next((index for index, other in enumerate(distinct) if same_value(answer, other)), None)
        if same is None:
            distinct.append(answer)
        elif answer.percent and not distinct[same].percent:
            distinct[same] = answer
    return distinct


def _read(text: str, mark: Mark, after: Mark | None, decimal_comma: bool) -> ReadClaim:
    """What one mark states. `after` is the next mark of the text."""
    said, opener = written(text, mark), mark.opener
    rule = _RULES[opener]
    if after and after.start < mark.end and after.opener == "box":
        return ReadClaim(mark.start, mark.end, rule, None, "the box in it counts", "set_aside")
    if opener == "box":
        whole = box_with_neighbours(text, mark, said)
        if whole is None:
            return ReadClaim(mark.start, mark.end, rule, None, "the box is a part of an expression", "open")
        said = whole
    if opener in ("A", ":", "."):
        on_line = after is not None and text.find("\n", mark.opens, after.start) < 0
        said = text[mark.opens : after.start][: MAX_ANSWER_CHARS + 1] if after and on_line else said
        if _opens_solution(text, mark, said, after, on_line):
            return ReadClaim(mark.start, mark.end, rule, None, "opens a solution", "set_aside")
        opener = "is" if on_line else opener
    if len(said) > MAX_ANSWER_CHARS and said[:MAX_ANSWER_CHARS].strip(" \t$-").isdigit():
        raise ConflictError(f"final answer of more than {MAX_ANSWER_CHARS} digits (bound)")
    style = decimal_comma or (bool(_SEPARATOR.search(said)) and _own_style(text)) or (None if mark.foreign else False)
    try:
        answer = _cached_number(said[:MAX_ANSWER_CHARS], opener, decimal_comma=style)
    except ConflictError as error:
        return ReadClaim(mark.start, mark.end, rule, None, str(error), "open")
    if answer is None:
        return ReadClaim(mark.start, mark.end, rule, None, "states no number", "set_aside")
    return ReadClaim(mark.start, mark.end, rule, answer)


def _opens_solution(text: str, mark: Mark, said: str, after: Mark | None, on_line: bool) -> bool:
    """Whether what follows `A:` or `Answer:` is a solution, whose answer is stated later or is not marked."""
    bare = _BARE.match(said) is not None
    if after:
        works = not bare and text.find("=", mark.end, after.start) >= 0
        return works or "=" in said or (on_line and mark.opener == "A") or (mark.opener == "." and not bare)
    if bare or _FINAL.search(text[max(0, mark.start - 12) : mark.start]):
        return False
    return bool(_DIGIT.search(text, mark.end)) and not _explained(text, mark, said)


def _explained(text: str, mark: Mark, said: str) -> bool:
    """Whether what follows a sentence explains it: it says so, or its last equation ends in the sentence's number."""
    if _EXPLAINS.match(text, mark.end):
        return True
    last = None
    for last in _RESULT.finditer(text, mark.end):  # noqa: B007
        pass
    values = numbers_in(said)
    return last is not None and len(values) == 1 and numbers_in(last[1]) == values


@lru_cache(maxsize=4)
def _own_style(text: str) -> bool:
    """Whether the numbers of a text have decimal commas."""
    return bool(_COMMA_STYLE.search(text)) and not _POINT_STYLE.search(text)


def _readable(text: str, mark: Mark) -> bool:
    try:
        return read_number(written(text, mark)[:MAX_ANSWER_CHARS], mark.opener) is not None
    except ConflictError:
        return True


def _without_run_on(text: str, claims: list[ReadClaim]) -> list[ReadClaim]:
    """The claims, with those set aside that stand behind the beginning of another question."""
    first = next((claim for claim in claims if claim.state != "set_aside"), None)
    end = end_of_own_part(text, first.start) if first else len(text)
    return [
        replace(claim, note="belongs to another question", state="set_aside") if claim.start >= end else claim
        for claim in claims
    ]


def _without_taken_back(text: str, claims: list[ReadClaim]) -> list[ReadClaim]:
    """The claims, with those set aside that the text takes back before the next one."""
    live = [index for index, claim in enumerate(claims) if claim.state != "set_aside"]
    kept = 0
    for earlier, later in itertools.pairwise(live):
        between = text[claims[earlier].start : claims[later].end]
        if claims[later].answer and takes_back(between):
            kept = later
    return [
        replace(claim, note="taken back", state="set_aside") if index < kept and claim.state != "set_aside" else claim
        for index, claim in enumerate(claims)
    ]


def _without_settled(text: str, claims: list[ReadClaim]) -> list[ReadClaim]:
    """The claims, with those sentences of several numbers set aside whose number a later claim names by itself."""
    settled = list(claims)
    for index, claim in enumerate(claims):
        if claim.state != "open" or not claim.note.endswith(SEVERAL_NUMBERS):
            continue
        later = [other.answer for other in claims[index + 1 :] if other.state == "counts" and other.answer]
        values = numbers_in(text[claim.start : claim.end][: MAX_ANSWER_CHARS + 1])
        if later and any(value == later[-1].value for value in values):
            settled[index] = replace(claim, note="a later answer names one of its numbers", state="set_aside")
    return settled
