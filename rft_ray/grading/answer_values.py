"""The value of a final answer, and the error where a text leaves it open. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

MAX_ANSWER_CHARS = 200
"""Number of characters of one final answer that strict mode reads."""
MAX_ANSWERS = 100
"""Largest number of final answers in one completion that strict mode compares."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer. Votes (maj@k) are counted on `text`.

    Example: Answer("1800", Fraction(1800), percent=False) for `#### $1,800.00` in strict mode
    """

    text: str
    """Paper: the reference's string (commas removed). Strict: canonical, `18`, `0.5` or `1/3`."""
    value: Fraction | float
    """Paper: `float(text)`. Strict: the exact value as written, so 50 for `50%`."""
    percent: bool = False
    """Whether it was written as a percentage (strict mode only)."""
    hour: Fraction | None = None
    """Of a time with am or pm: the hour from 0 to 24, so 14 for `2:00 pm`, whose `value` is 2 (strict mode only)."""
    timed: bool = False
    """Whether it is a time of day with minutes, `5:30 pm`, whose `value` is in hours (strict mode only)."""
    also: Fraction | None = None
    """The same value in another unit that the text names: 90 for `1.5 hours (90 minutes)` (strict mode only)."""


class ConflictError(ValueError):
    """Several final answers that differ, or one that holds several numbers: any choice among them would be a guess."""


def open_answer(written: str, why: str) -> ConflictError:
    """The error that says why an answer leaves its number open."""
    return ConflictError(f"final answer {written.strip()[:60]!r} {why}")


def same_value(one: Answer, other: Answer) -> bool:
    """Whether two answers say one value.

    A percentage says its number and its share, so that it equals both; `2:00 pm` equals 2 and 14, and not `2:00 am`;
    `5:30` equals `5:30 pm` and `17:30`, and no number;
    `1.5 hours (90 minutes)` equals 1.5 and 90.
    """
    if one.timed or other.timed:
        if one.hour is not None and other.hour is not None:
            return one.hour == other.hour
        return one.timed == other.timed and one.value % 12 == other.value % 12
    if one.also is not None or other.also is not None:
        values = (one.value, one.also)
        return any(value is not None and value in values for value in (other.value, other.also))
    if one.hour is not None and other.hour is not None:
        return one.hour == other.hour
    if other.value == one.hour or one.value == other.hour:
        return True
    if one.value == other.value or one.percent == other.percent:
        return one.value == other.value
    return one.value / (100 if one.percent else 1) == other.value / (100 if other.percent else 1)


def canonical(value: Fraction) -> str:
    """One spelling per value: `18`, `-0.25`, and `1/3` where no finite decimal is equal."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1 or value.denominator == 1:
        return str(value)
    digits = max(twos, fives)
    scaled = str(abs(value.numerator) * 10**digits // value.denominator).rjust(digits + 1, "0")
    return f"{'-' if value < 0 else ''}{scaled[:-digits]}.{scaled[-digits:]}"
