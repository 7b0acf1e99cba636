"""Equations with times of day: text -> whether `8 pm - 3 pm = 5 hours` and `10:15 + 20 minutes = 10:35` hold. Pure.

A time of day is a number with `am` or `pm`, or hours and minutes as `10:15`; without `am` or `pm` it is one of either
half of the day. The difference of two times is the span from one to the other, in either direction, past midnight too
(`9 am - 5 pm = 8 hours`). `10:15` may also be a length of time, in hours and minutes or minutes and seconds. A result
without a unit is not read.

Limits: linear in the text; hours and minutes only; what follows a run of more than two operands is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from rft_ray.grading.equation_checks import Checked, shows
from rft_ray.grading.equation_context import is_asked

DAY_MIN = 24 * 60
_MARK = re.compile(r"[0-9 {](?::[0-5][0-9]|[apAP]\.?[mM]\b)")
_TIME = re.compile(r"(\d{1,2})(?::([0-5]\d))?(?:\s{0,9}([ap])(?:m\b|\.m\.))?(?![\d:])", re.IGNORECASE)
_SPAN = re.compile(
    r"(\d{1,2}) (\d)/([2-9])\s{0,9}(h)ours?\b"
    r"|(\d{1,4}(?:\.\d{1,4})?)\s{0,9}(?:(h)(?:ours?|rs?)?|(?:min)(?:ute)?s?)\b"
    r"(?:,?\s(?:and\s)?(\d{1,2})\smin(?:ute)?s?\b)?",
    re.IGNORECASE,
)
_FIRST = re.compile(
    r"(?<![\w.,:])\d{1,2}(?::[0-5]\d(?:\s?[ap](?:m|\.m\.))?|\s{0,9}[ap](?:m|\.m\.))\s{0,9}[-+]\s{0,3}", re.IGNORECASE
)
_EQUALS = re.compile(r"\s{0,60}(?:=|\b(?:is|equals)\b)\s{0,60}", re.IGNORECASE)
_GOES_ON = re.compile(r"\s{0,3}(?:[-+*/=^x÷:]|and\s(?:a|half|\d)|(?:minus|plus|times)\b)", re.IGNORECASE)
_PART_OF_MORE = re.compile(r"[\d%)+*/^x÷-]\s{0,3}\Z|\d\s?[a-z]{0,9}\s?=\s{0,3}\Z", re.IGNORECASE)
_REMARK = re.compile(r"\s{0,3}(?:\(|(?:a|an|per|each|every)\b)", re.IGNORECASE)
_DOUBTED = re.compile(r"\b(?:if|not|than)\s{1,3}\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A time of day or a length of time, in minutes.

    Example: _Quantity((615, 1335), 615) for `10:15`
    """

    times: tuple[int, ...]
    """Minutes after midnight; empty for a length of time that is no time of day."""
    span: Fraction | None = None
    """Its length; None for `3 pm`, which is none."""
    unit_min: int = 1
    decimals: int = 0
    """Decimals of the length in its unit of `unit_min` minutes."""


def may_hold_times(text: str) -> bool:
    """Whether a text holds what could be a time of day; quick."""
    return _MARK.search(text) is not None


def clock_equations(text: str) -> list[Checked]:
    """The equations of a text in which times of day are added or subtracted, in order; none of them overlap.

    `text` is what `prose_tokens.plain` gives.
    """
    return list(_equations(text))


def _equations(text: str) -> Iterator[Checked]:
    end = 0
    for first in _FIRST.finditer(text):
        if first.start() < end or _PART_OF_MORE.search(text, max(0, first.start() - 15), first.start()):
            continue
        checked = _chain(text, first)
        if checked:
            end = checked.end
            yield checked


def _chain(text: str, first: re.Match[str]) -> Checked | None:
    """`time - time = span = span`, from its first time and sign on; None for everything else."""
    left, right = _quantity(text, first.start()), _quantity(text, first.end())
    if left is None or right is None:
        return None
    sign = "-" if first[0].rstrip()[-1] == "-" else "+"
    position, results = right[1], []
    while equals := _EQUALS.match(text, position):
        result = _quantity(text, equals.end())
        if result is None:
            return None
        results.append(result[0])
        position = result[1]
    if not results or _GOES_ON.match(text, position):
        return None
    shown = _spelling(text[first.start() : position])
    checked = Checked(shown, rule="a calculation with times of day", start=first.start(), end=position)
    if all(_holds(left[0], sign, right[0], result) for result in results):
        return checked
    doubt = _doubt(text, first.start(), position)
    if doubt:
        return Checked(shown, "unread", doubt, first.start(), position)
    return Checked(shown, "fails", f"{shown}: does not hold", first.start(), position, shown.partition("=")[0])


def _spelling(written: str) -> str:
    """`8 pm - 3 pm is 5 hours` -> `8pm-3pm=5hours`."""
    return re.sub(r"\s+|=", "", _EQUALS.sub("@", written).lower()).replace("@", "=")


def _doubt(text: str, start: int, end: int) -> str:
    """Why a calculation that fails may be read in another way; empty if there is no reason."""
    if is_asked(text, end):
        return "a question"
    if _REMARK.match(text, end) or _DOUBTED.search(text, max(0, start - 10), start):
        return "words beside it that may change it"
    return ""


def _quantity(text: str, start: int) -> tuple[_Quantity, int] | None:
    """The time or the length of time that begins at a position, and its end; None for a plain number."""
    span = _SPAN.match(text, start)
    if span:
        return _length(span), span.end()
    time = _TIME.match(text, start)
    if time is None or not (time[2] or time[3]):
        return None
    hour, minute = int(time[1]), int(time[2] or 0)
    if hour > (12 if time[3] else 24) or (time[3] and hour == 0):
        return None
    if time[3]:
        minutes = hour % 12 * 60 + minute + (DAY_MIN // 2 if time[3] in "pP" else 0)
        return _Quantity((minutes,)), time.end()
    halves = (0, 12) if hour <= 12 else (0,)
    times = tuple((hour + half) * 60 % DAY_MIN + minute for half in halves)
    return _Quantity(times, Fraction(hour * 60 + minute)), time.end()


def _length(match: re.Match[str]) -> _Quantity:
    unit_min = 60 if match[4] or match[6] else 1
    if match[1]:
        return _Quantity((), (int(match[1]) + Fraction(int(match[2]), int(match[3]))) * unit_min, unit_min)
    minutes = Fraction(match[5]) * unit_min + int(match[7] or 0)
    return _Quantity((), minutes, unit_min, 0 if match[7] else len(match[5].partition(".")[2]))


def _holds(left: _Quantity, sign: str, right: _Quantity, result: _Quantity) -> bool:
    """Whether a sum or difference gives the result in one of the ways to read its times."""
    if left.span is not None and right.span is not None and result.span is not None:
        exact = left.span + right.span if sign == "+" else left.span - right.span
        if _shows(result, exact) or (left.times and right.times and _shows(result, exact / 60)):
            return True
    if right.times and sign == "-" and result.span is not None:
        spans = {abs(a - b) for a, b in product(left.times, right.times)}
        if any(_shows(result, Fraction(span)) for span in spans | {DAY_MIN - span for span in spans}):
            return True
    if right.span is None:
        return False
    moved = right.span if sign == "+" else -right.span
    return any((time + moved - other) % DAY_MIN == 0 for time, other in product(left.times, result.times))


def _shows(result: _Quantity, true_min: Fraction) -> bool:
    assert result.span is not None
    if result.span == true_min:
        return True
    return result.decimals > 0 and shows(result.span / result.unit_min, result.decimals, true_min / result.unit_min)
