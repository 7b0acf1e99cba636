"""Decides whether chains of fields hold: exactly, rounded as people write it, or by another reading of the same words.

Exact rationals throughout. A number may be rounded or truncated to the decimals that it shows; to a whole number only
where the words at the equation say so (`7/2 = 4` is a mistake more often than a rounding). An equation is blamed only
if no reading of `fields.py` makes it hold and nothing in its words makes the reading doubtful.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from rft_ray.grading.arithmetic import NotArithmeticError, OverBoundError, exact_value
from rft_ray.grading.equation_context import is_asked, says_rounded
from rft_ray.grading.field_words import DASH, NAMED_NUMBER, OF_SOMETHING
from rft_ray.grading.fields import Field, Variant, convertible, halved, in_smallest_units, variants
from rft_ray.grading.quantities import measure

CACHED_EQUATION_CHARS = 200
NOISE_DECIMALS = 12
"""From this number of decimals on, a number is the float of a calculator, and may be off by NOISE."""
NOISE = Fraction(1, 10**9)
_REPEATING = re.compile(r"\d+\.\d{0,4}?(?:3{2,}|6{2,}7?|67|1{2,}|2{2,}|4{2,}|5{2,}6?|7{2,}8?|8{2,}9?)")
"""Decimals of thirds, sixths, ninths and twelfths, as they are cut off or rounded."""
MAX_DENOMINATOR = 36

_SIMPLE = re.compile(r"([1-9][0-9]{0,14})(?:([-+*/])([1-9][0-9]{0,14}))?")
"""The commonest sides, whose values are found without their syntax."""
_DIVISOR = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_COMBINE: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
A_QUESTION = "a question"

Outcome = Literal["holds", "fails", "unread", "over", "taken_back"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One equation: its canonical spelling, and why it holds or not."""

    shown: str
    outcome: Outcome = "holds"
    rule: str = "equal"
    start: int = 0
    end: int = 0
    left: str = ""
    """The canonical left side of the pair that fails."""

    @property
    def fault(self) -> str:
        return self.rule if self.outcome == "fails" else ""

    @property
    def over(self) -> str:
        return self.rule if self.outcome == "over" else ""


class Checker:
    """Checks the chains of one text in order; keeps the exact values of the numbers that earlier equations rounded."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offset = 0
        self._exact: dict[Fraction, Fraction] = {}
        self._variables: dict[str, bool] = {}

    def chain(self, chain: list[Field], offset: int = 0) -> Checked | None:
        """One chain of clean fields; None where it is algebra.

        `offset` is added to their positions to give those of the text.
        """
        self._offset = offset
        shown = "=".join(side.shown for side in chain)
        checked = Checked(shown, start=offset + chain[0].start, end=offset + chain[-1].end)
        rule = ""
        percent_last = chain[-1].plain and any(number.percent for number in chain[-1].numbers)
        try:
            values = [_value(side.source) for side in chain]
            for index in range(len(chain) - 1):
                left, right = chain[index], chain[index + 1]
                if values[index] == values[index + 1]:
                    if right.plain and right.numbers[-1].unit and _other_unit(left, right):
                        return self._failed(checked, left, right)
                    continue
                holds = self._other_rule(left, values[index], right, values[index + 1])
                if not holds and percent_last and _hundredfold(left, values[index], right, values[index + 1]):
                    holds = "numbers of percent"
                if not holds and len(chain) == 2 and left.doubt == DASH and left.plain and right.operators:
                    return None
                if not holds and self._is_label(chain, index):
                    holds = f"a number that names what is computed: '{left.shown}'"
                    if index == 0:
                        checked = replace(checked, shown=shown.partition("=")[2], start=offset + right.start)
                    if len(chain) == 2:
                        return replace(checked, outcome="unread", rule=holds)
                if not holds:
                    return self._failed(checked, left, right)
                rule = rule or holds
        except OverBoundError as error:
            return replace(checked, outcome="over", rule=f"{_quoted(shown)}: {error}")
        except (NotArithmeticError, ArithmeticError, ValueError) as error:
            return replace(checked, outcome="fails", rule=f"{_quoted(shown)}: {error}")
        return replace(checked, rule=rule) if rule else checked

    def _failed(self, checked: Checked, left: Field, right: Field) -> Checked | None:
        if self._is_variable(left.letter) or self._is_variable(right.letter):
            return None
        doubt = _left_doubt(left, right) or _result_doubt(left, right) or _unlike(left, right)
        if not doubt and _halves_hold(left, right):
            doubt = "a blank between digits"
        if not doubt and is_asked(self._text, checked.end):
            doubt = A_QUESTION
        if doubt:
            return replace(checked, outcome="unread", rule=doubt, left=left.shown)
        equation = _quoted(f"{left.shown}={right.shown}")
        return replace(checked, outcome="fails", rule=f"{equation}: does not hold", left=left.shown)

    def _is_variable(self, letter: str) -> bool:
        """Whether a letter after a number, `s` of `6s`, stands for a number elsewhere in the text, alone."""
        if len(letter) != 1:
            return False
        if letter not in self._variables:
            self._variables[letter] = re.search(rf"(?<![\w.'’]){letter}(?![\w'’])", self._text) is not None
        return self._variables[letter]

    def _is_label(self, chain: list[Field], index: int) -> bool:
        """Whether a side that fails against an expression names what that computes.

        That is a first plain number with words beside it, or a share; or a formula in words, whose numbers count things
        (`Cost of 5 pens + cost of 2 pads = $6 + $4`); or a first quantity with a unit, where more sides follow.
        """
        left, right = chain[index], chain[index + 1]
        if not right.operators:
            return False
        gap = self._text[self._offset + left.end : self._offset + right.start]
        lettered = any(letter.isalpha() for letter in gap)
        if left.letters or (left.compound and len(left.numbers) == 2 and index == 0 and len(chain) > 2):
            return True
        if not left.plain:
            formula = left.named or (left.worded and index > 0) or len(right.numbers) > len(left.numbers)
            return formula and (left.named or left.worded or lettered)
        if index:
            return False
        if left.doubt == DASH:
            return True
        unit = len(chain) > 2 and any(number.unit for number in left.numbers)
        return left.worded or left.share or unit or lettered

    def _other_rule(self, left: Field, left_value: Fraction, right: Field, right_value: Fraction) -> str:
        """The rule by which two sides of different values are equal; empty if there is none."""
        if _near(left, left_value, right, right_value):
            return "equal up to the noise of a calculator"
        rough = self._rough(left, right)
        if _rounded(left, left_value, right, right_value, rough):
            decimals = right.decimals if not right.operators else left.decimals
            self._exact[right_value] = left_value
            return (
                f"rounded to the {decimals} decimals shown"
                if decimals
                else "rounded to a whole number, as the words say"
            )
        for variant in variants(left):
            if _rounded_variant(left, variant, right, right_value, rough):
                return variant.rule
        for variant in variants(right):
            if _rounded_right(left, left_value, right, variant, rough):
                return variant.rule
        if convertible((left, right)):
            first, second = in_smallest_units(left), in_smallest_units(right)
            value, other = _value(first.source), _value(second.source)
            if value == other:
                return first.rule
            if right.plain and right.numbers and right_value and other:
                unit = other / right_value
                if shows(right_value, right.decimals, value / unit) and (right.decimals or rough()):
                    self._exact[right_value] = value / unit
                    return f"{first.rule}, and rounded"
        if self._in_cents(left, left_value, right, right_value):
            return "cents on the left, dollars on the right"
        return self._rounded_factor(left, left_value, right, right_value, rough)

    def _in_cents(self, left: Field, left_value: Fraction, right: Field, right_value: Fraction) -> bool:
        """`20 × 45 = $9`, where the words before it speak of cents."""
        if left_value != 100 * right_value or not right.numbers or right.numbers[-1].unit != "$":
            return False
        start = self._offset + left.start
        before = self._text[max(0, start - 150) : start].lower()
        return not any(number.unit == "$" for number in left.numbers) and ("cent" in before or "¢" in before)

    def _rough(self, left: Field, right: Field) -> Callable[[], bool]:
        offset = self._offset
        cached: list[bool] = []

        def rough() -> bool:
            if not cached:
                gap = (offset + left.end, offset + right.start)
                divisor = _divisor_of_more(left, right)
                cached.append(says_rounded(self._text, offset + left.start, gap, offset + right.end, divisor))
            return cached[0]

        return rough

    def _rounded_factor(
        self, left: Field, left_value: Fraction, right: Field, right_value: Fraction, rough: Callable[[], bool]
    ) -> str:
        """A number with decimals, that an earlier equation rounded or that repeats, stands for its exact value too."""
        for side, other, other_value in ((left, right, right_value), (right, left, left_value)):
            exact: dict[int, str] = {}
            for number in side.numbers:
                if number.decimals < 2 or number.percent:
                    continue
                shown = Fraction(number.digits)
                if shown in self._exact:
                    exact[number.piece] = f"({self._exact[shown]})"
                elif _REPEATING.fullmatch(number.digits):
                    fraction = shown.limit_denominator(MAX_DENOMINATOR)
                    if shows(shown, number.decimals, fraction):
                        exact[number.piece] = f"({fraction})"
            if not exact:
                continue
            source = side.replaced(exact)
            true = _value(source)
            if true == other_value or (
                not other.operators and _may_round(other, side, rough) and shows(other_value, other.decimals, true)
            ):
                return "a rounded number stands for its exact value"
        return ""


def _divisor_of_more(left: Field, right: Field) -> Fraction:
    """The divisor of a side that ends in a quotient by a number and is more than the other one; 0 if none is."""
    for quotient, shown in ((left, right), (right, left)):
        bare = [piece for piece in quotient.pieces if piece not in "()"]
        ends = len(bare) > 2 and bare[-2] == "/" and _DIVISOR.fullmatch(bare[-1])
        if ends and _value(quotient.source) > _value(shown.source):
            return Fraction(bare[-1])
    return Fraction()


def _left_doubt(left: Field, right: Field) -> str:
    """The doubt of a left side. Numbers after names are no part of these where all have the unit of the result."""
    numbers = [*left.numbers, *right.numbers]
    if left.doubt == NAMED_NUMBER and len({number.unit for number in numbers}) == 1 and numbers[0].unit:
        return ""
    measured = all(measure(number.unit) and not number.per for number in numbers)
    if not left.doubt and (left.compound or right.compound) and not measured:
        return "a compound quantity"
    return left.doubt


def _result_doubt(left: Field, right: Field) -> str:
    """The doubt of a right side. A quotient of two numbers is said in percent of something: `7/20 = 35% of them`."""
    quotient = len(left.pieces) == 3 and left.pieces[1] == "/"
    if quotient and right.doubt == OF_SOMETHING and not right.operators and right.numbers[0].percent:
        return ""
    return right.doubt


def _halves_hold(left: Field, right: Field) -> bool:
    """Whether two sides are equal where a number with a blank, as in `7 200`, is two numbers."""
    if not any(number.halves for side in (left, right) for number in side.numbers):
        return False
    others = [_value(source) for source in halved(right, left=False)]
    return any(_value(source) in others for source in halved(left, left=True))


def _hundredfold(left: Field, left_value: Fraction, right: Field, right_value: Fraction) -> bool:
    """Whether one side with a percentage is a hundredth of the other, which has none."""
    with_percent = [any(number.percent for number in side.numbers) for side in (left, right)]
    if with_percent[0] == with_percent[1]:
        return False
    return left_value * 100 == right_value if with_percent[0] else right_value * 100 == left_value


def _unlike(left: Field, right: Field) -> str:
    """Why the units of two sides that differ make the reading doubtful; empty if they do not."""
    units = {_stem(number.unit) for number in left.numbers if number.unit}
    result = {_stem(number.unit) for number in right.numbers if number.unit}
    if left.named and not right.operators and (len(units) != 1 or (result and result != units)):
        return "a sum of named numbers with other units"
    if left.plain and not left.share and right.operators and all(number.percent for number in right.numbers):
        return "percentages of a number"
    added = any(piece in "+-" for piece in left.pieces[1:]) and not any(piece in ("*", "/") for piece in left.pieces)
    if added and len(units) > 1:
        if convertible((left,)) and not convertible((left, right)) | bool(result):
            return "units of one dimension that are not converted"
        if result and result < units and not right.operators and not convertible((left,)):
            return "a sum of unlike things"
        if convertible((left,)) and right.operators:
            return "units of one dimension that are not converted"
    said_in_percent = bool(right.numbers) and right.numbers[-1].percent
    if left.share and not left.numbers[0].percent and result and not right.operators and not said_in_percent:
        return "a share of something"
    if added and result and result <= {"$", "€", "£"} and units and not units & {"$", "€", "£"}:
        return "a sum of things that is a price"
    return ""


def _stem(unit: str) -> str:
    """The beginning of a unit's word, which its number and case leave as it is."""
    return unit if measure(unit) else unit.lower().rstrip("s")[:4]


def _other_unit(left: Field, right: Field) -> bool:
    """Whether a product of one measure is given in another unit that is not equal: `9 x 1 feet = 9 yards`.

    A factor may be that of the conversion: `2 hours * 60 = 120 minutes`.
    """
    shown, units = measure(right.numbers[-1].unit), {number.unit for number in left.numbers if number.unit}
    known = measure(next(iter(units))) if shown and len(units) == 1 else None
    if not shown or not known or known[0] != shown[0] or known[1] == shown[1] or right.numbers[-1].per:
        return False
    if any(number.per or number.percent for number in left.numbers) or not set(left.pieces[1::2]) <= {"*"}:
        return False
    factor = known[1] / shown[1]
    return not left.operators or not any(Fraction(number.digits) in (factor, 1 / factor) for number in left.numbers)


def _near(left: Field, left_value: Fraction, right: Field, right_value: Fraction) -> bool:
    """Equal up to float noise, where one side shows it."""
    if not any(number.decimals >= NOISE_DECIMALS for side in (left, right) for number in side.numbers):
        return False
    return abs(left_value - right_value) <= NOISE * max(Fraction(1), abs(left_value))


def _rounded(left: Field, left_value: Fraction, right: Field, right_value: Fraction, rough: Callable[[], bool]) -> bool:
    if not right.operators and shows(right_value, right.decimals, left_value) and _may_round(right, left, rough):
        return True
    return not left.operators and shows(left_value, left.decimals, right_value) and _may_round(left, right, rough)


def _rounded_variant(
    left: Field, variant: Variant, right: Field, right_value: Fraction, rough: Callable[[], bool]
) -> bool:
    value = _value(variant.source)
    if value == right_value:
        return True
    return not right.operators and shows(right_value, right.decimals, value) and _may_round(right, left, rough)


def _rounded_right(
    left: Field, left_value: Fraction, right: Field, variant: Variant, rough: Callable[[], bool]
) -> bool:
    value = _value(variant.source)
    if value == left_value:
        return True
    shown = not right.operators and shows(value, variant.decimals, left_value)
    return shown and (variant.decimals > 0 or rough())


def _may_round(shown: Field, other: Field, rough: Callable[[], bool]) -> bool:
    """Whether a number may be rounded: it has decimals or its neighbour has, or the text says that it rounds."""
    return shown.decimals > 0 or (other.decimals > 0 and not other.operators) or rough()


def shows(shown: Fraction, decimals: int, true: Fraction) -> bool:
    """Whether a number written with `decimals` digits is `true` rounded or truncated to them.

    A half may be rounded up or down. Zero equals only zero: `1/3 = 0` does not hold.
    """
    if shown == 0 or (shown > 0) != (true > 0):
        return shown == true
    off = abs(true) - abs(shown)
    unit = Fraction(1, 10**decimals)
    return 0 <= off < unit or abs(off) * 2 <= unit


def is_conversion(left: Field, right: Field) -> bool:
    """Whether two plain numbers with units of one dimension are said to be equal: `1200 cents = $12`."""
    if left.operators or right.operators or not left.numbers or not right.numbers or not left.alone:
        return False
    first, second = left.numbers[0], right.numbers[0]
    known, other = measure(first.unit), measure(second.unit)
    if not known or not other or known[0] != other[0] or first.per or second.per or left.doubt or right.doubt:
        return False
    return not (first.unit in "$€£" and second.unit in "$€£")


def _value(source: str) -> Fraction:
    simple = _SIMPLE.fullmatch(source) if len(source) <= CACHED_EQUATION_CHARS else None
    if simple:
        left = int(simple[1])
        if simple[2] is None:
            return Fraction(left)
        right = int(simple[3])
        return Fraction(left, right) if simple[2] == "/" else Fraction(_COMBINE[simple[2]](left, right))
    return _value_cached(source) if len(source) <= CACHED_EQUATION_CHARS else exact_value(source)


_value_cached = lru_cache(maxsize=16_384)(exact_value)


def _quoted(equation: str) -> str:
    return equation if len(equation) <= 80 else f"{equation[:77]}..."
