"""Grades one completion against the gold answer: (text, gold) -> Verdict. Pure Python, no Ray.

Two modes: `paper` decides what the reference implementation of arXiv 2308.01825 decides; `strict`
(default) reads answers and equations as models write them. docs/grading.md lists every difference.

Precedence of statuses, in both modes; the first that applies is the verdict:

    undecided      the text is over a bound, the gold answer cannot be read, or several final answers
                   differ (strict)
    truncated      no final answer and the engine stopped at the token limit; in strict mode also where
                   the final answer ends the text, as a digit may be missing
    no_answer      no final answer
    wrong_answer   the final answer is not the gold's; equations are not read
    bad_equation   the answer is right, and an equation does not hold or cannot be read
    undecided      the answer is right, no equation is known to be wrong, and one is over a bound
    undecided      the answer is right, some equations cannot be read with confidence, and `unread` is "reject" (strict)
    correct        otherwise

So the answer is right in the last four, and only there. The verdict on a right answer with equations that cannot all be
read has PARTLY_READ as its `equations`, whatever `unread` is. A text that is the gold solution itself is never
`bad_equation` in strict mode: whoever gave it stands for it, and the detail names the equation.
`truncated=True` never changes what paper mode accepts.

Limits: texts up to MAX_TEXT_CHARS, expressions within the bounds of `arithmetic.py`. Nothing is
executed, and no text makes `grade` raise: a failure inside is `undecided`, named in the detail.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from rft_ray.grading.answer_values import open_answer, same_value
from rft_ray.grading.answers import (
    Answer,
    ConflictError,
    gold_answer,
    paper_answer,
    strict_answer,
    writes_decimal_comma,
)
from rft_ray.grading.equations import CACHED_TEXT_CHARS, MAX_TEXT_CHARS, MODES, equations_of
from rft_ray.records import PARTLY_READ, Status, Verdict

Unread = Literal["accept", "reject"]
UNREAD: tuple[Unread, ...] = ("accept", "reject")

COLLECTING = 0.0
"""Tolerance when collecting paths: the answer must equal the gold's exactly."""
EVALUATING = 1e-4
"""Tolerance of the reference's evaluation: the answers differ by less than this."""
MAX_GOLD_CHARS = 20_000
GOLD_ITSELF = "the gold solution itself, although "
"""Start of the detail of a text that is the gold solution and holds an equation that fails; then that equation."""
MAX_SHOWN = 80
"""Characters of unread arithmetic that a detail shows."""


def extract_answer(text: str, mode: str = "strict") -> Answer | None:
    """Final answer of a completion; None if it has none, or (strict) several that differ.

    Raises ValueError for an unknown mode, nothing for any text.
    """
    _check_mode(mode)
    if len(text) > MAX_TEXT_CHARS:
        return None
    try:
        return paper_answer(text) if mode == "paper" else strict_answer(text)
    except ConflictError:
        return None


def grade(
    text: str,
    gold_answer: str,
    mode: str = "strict",
    *,
    truncated: bool = False,
    tolerance: float = COLLECTING,
    check_equations: bool = True,
    unread: Unread = "accept",
) -> Verdict:
    """Verdict on one completion.

    `gold_answer` is the gold's final answer or its whole solution; `truncated` says that the engine
    stopped at the token limit. `tolerance` is COLLECTING (exact) or EVALUATING (1e-4), or any number.
    `check_equations=False` judges the answer alone, as the reference's evaluation does. `unread` (strict): whether a
    right answer with equations that cannot all be read is `correct` ("accept") or `undecided` ("reject").
    Raises ValueError for an unknown mode, nothing for any text.
    """
    _check_mode(mode)
    try:
        if len(text) > MAX_TEXT_CHARS:
            return Verdict(Status.UNDECIDED, None, f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
        judge = _judge_cached if len(text) <= CACHED_TEXT_CHARS else _judge
        return judge(text, gold_answer, mode, truncated, tolerance, check_equations, unread)
    except ConflictError as error:
        return Verdict(Status.UNDECIDED, None, str(error))
    except Exception as error:  # a defect of the grader costs only this completion, and the detail names it
        return Verdict(Status.UNDECIDED, None, f"grader failed: {type(error).__name__}: {str(error)[:200]}")


def _judge(
    text: str, gold_text: str, mode: str, truncated: bool, tolerance: float, check_equations: bool, unread: Unread
) -> Verdict:
    gold, comma = _gold(gold_text, mode)
    if gold is None:
        return Verdict(Status.UNDECIDED, None, f"gold answer {gold_text[-40:]!r} cannot be read")
    answer = paper_answer(text) if mode == "paper" else strict_answer(text, decimal_comma=comma)
    if answer is None:
        return Verdict(Status.TRUNCATED if truncated else Status.NO_ANSWER, None, "")
    if answer.timed and not gold.timed and gold.hour is None:
        raise open_answer(answer.text, "is a time of day or a ratio")
    if truncated and mode == "strict" and _ends_in_answer(text, comma):
        return Verdict(Status.TRUNCATED, answer.text, "the final answer touches the token limit")
    if not equal_answers(answer, gold, tolerance):
        return Verdict(Status.WRONG_ANSWER, answer.text, f"answer {answer.text[:60]}, gold {gold.text[:60]}")
    equations = equations_of(text, mode) if check_equations else None
    if equations and equations.fault:
        if mode == "strict" and text.strip() == gold_text.strip():
            return Verdict(Status.CORRECT, answer.text, GOLD_ITSELF + equations.fault)
        return Verdict(Status.BAD_EQUATION, answer.text, equations.fault)
    if equations and equations.over:
        return Verdict(Status.UNDECIDED, answer.text, equations.over)
    if equations and equations.unread:
        status = Status.UNDECIDED if unread == "reject" else Status.CORRECT
        return Verdict(status, answer.text, equations.unread[:MAX_SHOWN], PARTLY_READ)
    return Verdict(Status.CORRECT, answer.text, "")


_judge_cached = lru_cache(maxsize=4_096)(_judge)


def equal_answers(answer: Answer, gold: Answer, tolerance: float = COLLECTING) -> bool:
    """Whether two answers of one mode are equal: exactly, or less than a positive tolerance apart.

    A percentage equals both its number and its share: `50%` is right for gold 50 and for gold 0.5.
    """
    if same_value(answer, gold):
        return True
    if answer.timed or gold.timed or (answer.hour is not None and gold.hour is not None):
        return False
    if _near(answer.value, gold.value, tolerance):
        return True
    if answer.percent == gold.percent:
        return False
    return _near(_share(answer), _share(gold), tolerance)


def _share(answer: Answer) -> Fraction | float:
    return answer.value / 100 if answer.percent else answer.value


def _near(left: Fraction | float, right: Fraction | float, tolerance: float) -> bool:
    if tolerance <= 0:
        return left == right
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return abs(left - right) < Fraction(tolerance)
    return abs(float(left) - float(right)) < tolerance


_CUT = re.compile(r"\d(?:\s{1,3}[-+*/×÷x=]\s{0,3})?\Z", re.ASCII)


def _ends_in_answer(text: str, comma: bool) -> bool:
    """Whether the text ends in the number that the final answer was read from, or in an operator after it.

    That is so when the text without that number has another answer, or none. An answer that is one only as it stands on
    the last line may be followed by more too: then the text with another line has another answer, or none.
    """
    if _answer_or_none(f"{text}\n-", comma) != _answer_or_none(text, comma):
        return True
    cut = _CUT.search(text, max(0, len(text) - 8))
    if cut is None:
        return False
    before = text[: cut.start() + 1].rstrip("0123456789")
    try:
        return strict_answer(before, decimal_comma=comma) != strict_answer(text, decimal_comma=comma)
    except ConflictError:
        return True


def _answer_or_none(text: str, comma: bool) -> Answer | None:
    try:
        return strict_answer(text, decimal_comma=comma)
    except ConflictError:
        return None


@lru_cache(maxsize=4_096)
def _gold(gold: str, mode: str) -> tuple[Answer | None, bool]:
    """The gold's answer, from a solution that ends in `#### <answer>` or from the bare answer; and whether its decimal
    sign is a comma, as it may then be in the text (strict).
    """
    if len(gold) > MAX_GOLD_CHARS:
        return None, False
    if mode == "paper":
        return paper_answer(gold if "#### " in gold else f"#### {gold.strip()}"), False
    try:
        return gold_answer(gold), writes_decimal_comma(gold)
    except ConflictError:
        return None, False


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: must be one of {', '.join(MODES)}")
