"""An answer in two units: `1.5 hours (90 minutes)`, `5 feet 6 inches` -> the number in each. Pure.

Both numbers say one value, so that either is right: which of them a gold answer names depends on its question.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rft_ray.grading.quantities import measure

_NUMBER = r"\d[\d,]{0,20}(?:\.\d{1,20})?"
_UNIT = r"[a-z¢€°]{1,12}"
_TWO = re.compile(
    rf"(?P<sign>[$€£]?)\s?(?P<number>{_NUMBER})\s?(?P<unit>{_UNIT}|)(?P<noun>(?:\s[a-z]{{2,12}})?)"
    r"\s?(?P<join>\(\s?|,?\s?\b(?:or|i\.?e\.?,?|that\s+is,?|which\s+is)\s+(?:about\s+)?|=\s?|,?\s?and\s+|,?\s+)"
    rf"(?P<other_sign>[$€£]?)(?P<other>{_NUMBER})\s?(?P<other_unit>{_UNIT}|)(?P=noun)\s?\)?"
    r"(?=\s*(?:\Z|[.!;,]\s|[.!;]\Z|\(|\b(?:left|long|tall|in\s+all|in\s+total|altogether|old|total)\b))",
    re.I | re.ASCII,
)
_COUNTS = {"dozen": ("count", Fraction(12)), "": ("count", Fraction(1))}


def in_two_units(shown: str) -> tuple[Fraction, Fraction, int] | None:
    """The value in the first unit and in the second of what a text starts with, and where it ends; None for all else.

    Two amounts that are equal (`1.5 hours (90 minutes)`, `2 dozen (24)`), or the second of which, in a smaller unit, is
    added to the first (`1 hour and 30 minutes` is 1.5 hours and 90 minutes).
    """
    two = _TWO.match(shown)
    if two is None:
        return None
    first, second = _size(two["sign"] or two["unit"]), _size(two["other_sign"] or two["other_unit"])
    if first is None or second is None or first[0] != second[0] or first[1] == second[1]:
        return None
    number, other = (Fraction(two[name].replace(",", "")) for name in ("number", "other"))
    if number * first[1] == other * second[1]:
        return number, other, two.end()
    adds = two["join"].strip(" ,").lower() in ("", "and")
    if not adds or number.denominator != 1 or not 0 < other * second[1] < first[1] or first[0] == "count":
        return None
    whole = number + other * second[1] / first[1]
    return whole, whole * first[1] / second[1], two.end()


def _size(unit: str) -> tuple[str, Fraction] | None:
    """(dimension, size) of a unit or currency sign; a number without one counts things."""
    return _COUNTS.get(unit.lower()) or measure(unit)
