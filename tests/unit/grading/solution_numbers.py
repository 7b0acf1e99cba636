"""Numbers, expressions and equations of generated solutions, with exact truth: rng -> `Equation` that holds or not.

Truth is decided here by `Fraction`s alone, apart from the grader's code. A false equation is clearly false: some
pair of neighbours differs by more than any rounding or truncation to the digits shown explains.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Number:
    """A number as shown: its value, its digits after the decimal mark, and whether it carries the unit."""

    value: Fraction
    decimals: int = 0
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    sign: str
    """One of `+-*/`."""
    left: Expression
    right: Expression


Expression = Number | Operation
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True, slots=True)
class Equation:
    """Fields that are said to be equal; the last one is a `Number`."""

    fields: tuple[Expression, ...]

    @property
    def result(self) -> Number:
        last = self.fields[-1]
        assert isinstance(last, Number)
        return last


@dataclass(frozen=True, slots=True)
class Notation:
    """How an equation is spelled. Example: Notation(times="×", before="$") spells `3 × $5 = $15`."""

    times: str = "*"
    divide: str = "/"
    minus: str = "-"
    gap: str = " "
    before: str = ""
    after: str = ""
    decimal: str = "."
    thousands: str = ""
    opened: str = "("
    closed: str = ")"
    fraction: str = ""
    """LaTeX command for quotients; empty for a quotient on the line."""
    around: str = "{}"
    """Format of each number with its unit: `${}$`."""


def evaluate(expression: Expression) -> Fraction:
    """Exact value. Raises ZeroDivisionError."""
    if isinstance(expression, Number):
        return expression.value
    left, right = evaluate(expression.left), evaluate(expression.right)
    match expression.sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left / right


def numeral(value: Fraction, decimals: int, decimal: str = ".", thousands: str = "") -> str:
    """Digits of a value that has at most `decimals` digits after the mark."""
    scaled = value * 10**decimals
    assert scaled.denominator == 1, f"{value} has more than {decimals} decimals"
    digits = str(abs(scaled.numerator)).zfill(decimals + 1)
    whole, part = (digits[:-decimals], digits[-decimals:]) if decimals else (digits, "")
    if thousands and len(whole) > 3:
        whole = f"{int(whole):,}".replace(",", thousands)
    return ("-" if value < 0 else "") + whole + (decimal + part if part else "")


def spell(expression: Expression, notation: Notation) -> str:
    if isinstance(expression, Number):
        return _spell_number(expression, notation)
    if expression.sign == "/" and notation.fraction:
        return f"{notation.fraction}{{{spell(expression.left, notation)}}}{{{spell(expression.right, notation)}}}"
    left = _spell_operand(expression.left, PRECEDENCE[expression.sign], notation)
    tighter = 1 if expression.sign in "-/" or isinstance(expression.right, Operation) else 0
    right = _spell_operand(expression.right, PRECEDENCE[expression.sign] + tighter, notation)
    sign = {"*": notation.times, "/": notation.divide, "-": notation.minus, "+": "+"}[expression.sign]
    return f"{left}{notation.gap}{sign}{notation.gap}{right}"


def _spell_operand(operand: Expression, precedence: int, notation: Notation) -> str:
    text = spell(operand, notation)
    is_fraction = isinstance(operand, Operation) and operand.sign == "/" and notation.fraction
    if isinstance(operand, Operation) and PRECEDENCE[operand.sign] < precedence and not is_fraction:
        return notation.opened + text + notation.closed
    return text


def _spell_number(number: Number, notation: Notation) -> str:
    digits = numeral(abs(number.value), number.decimals, notation.decimal, notation.thousands)
    if number.measured:
        digits = notation.before + digits + notation.after
    return notation.around.format(("-" if number.value < 0 else "") + digits)


def spell_equation(equation: Equation, notation: Notation, equals: str = "=") -> str:
    return f"{notation.gap}{equals}{notation.gap}".join(spell(field, notation) for field in equation.fields)


def clearly_false(equation: Equation) -> bool:
    """Whether a pair of neighbours differs by more than rounding or truncating to the digits shown explains."""
    return any(_apart(left, right) for left, right in pairwise(equation.fields))


def _apart(left: Expression, right: Expression) -> bool:
    left_value, right_value = evaluate(left), evaluate(right)
    if left_value == right_value:
        return False
    if left_value.denominator == right_value.denominator == 1:
        return True
    shown = [field.decimals for field in (left, right) if isinstance(field, Number)]
    return abs(left_value - right_value) > Fraction(1, 10 ** min(shown, default=0))


def holds(equation: Equation) -> bool:
    return all(evaluate(left) == evaluate(right) for left, right in pairwise(equation.fields))


def other_digit(rng: random.Random, number: Number) -> Number:
    """The number with one digit changed; as many digits, not zero, and a last decimal other than 0 stays so."""
    digits = list(numeral(abs(number.value), number.decimals).replace(".", ""))
    place = rng.randrange(len(digits))
    least = 1 if place == 0 and (len(digits) > number.decimals + 1 or number.decimals == 0) else 0
    digits[place] = rng.choice([digit for digit in "0123456789"[least:] if digit != digits[place]])
    value = Fraction(int("".join(digits)), 10**number.decimals)
    return replace(number, value=value) if value else other_digit(rng, number)


def falsified(rng: random.Random, equation: Equation) -> Equation:
    """The equation with one digit, one operator or one sign changed, so that it is clearly false."""
    for _ in range(100):
        place = rng.randrange(len(equation.fields)) if rng.random() < 0.5 else len(equation.fields) - 1
        fields = list(equation.fields)
        try:
            fields[place] = _changed(rng, fields[place])
            changed = Equation(tuple(fields))
            if clearly_false(changed) and all(evaluate(field) for field in fields):
                return changed
        except ZeroDivisionError:
            continue
    return Equation((*equation.fields[:-1], other_digit(rng, equation.result)))


def _changed(rng: random.Random, expression: Expression) -> Expression:
    if isinstance(expression, Number):
        return other_digit(rng, expression)
    what = rng.randrange(3)
    if what == 0:
        return replace(expression, sign=rng.choice([sign for sign in PRECEDENCE if sign != expression.sign]))
    if what == 1:
        return replace(expression, left=_changed(rng, expression.left))
    return replace(expression, right=_changed(rng, expression.right))


def negated(equation: Equation) -> Equation:
    """The equation with the sign of its result turned."""
    return Equation((*equation.fields[:-1], replace(equation.result, value=-equation.result.value)))


def chained(expression: Expression) -> Equation:
    """`5*3 + 2 = 15 + 2 = 17`: the inner operations are worked out one level at a time."""
    fields = [expression]
    while isinstance(fields[-1], Operation):
        fields.append(_one_level(fields[-1]))
    return Equation(tuple(fields))


def _one_level(expression: Expression) -> Expression:
    if isinstance(expression, Number):
        return expression
    left, right = expression.left, expression.right
    if isinstance(left, Number) and isinstance(right, Number):
        return result_of(expression)
    return replace(expression, left=_one_level(left), right=_one_level(right))


def result_of(expression: Expression) -> Number:
    """Value of an expression as it would be shown: with the decimals it needs, two for money's odd cents."""
    value = evaluate(expression)
    for decimals in range(7):
        if (value * 10**decimals).denominator == 1:
            return Number(
                value, max(decimals, 2) if decimals and _cents(expression) else decimals, _measured(expression)
            )
    raise ValueError(f"{value} is no short decimal")


def _cents(expression: Expression) -> bool:
    if isinstance(expression, Number):
        return expression.decimals == 2
    return _cents(expression.left) or _cents(expression.right)


def _measured(expression: Expression) -> bool:
    if isinstance(expression, Number):
        return expression.measured
    if expression.sign == "/":
        return _measured(expression.left) and not _measured(expression.right)
    return _measured(expression.left) or _measured(expression.right)


def _whole(rng: random.Random, low: int, high: int, *, measured: bool = False) -> Number:
    return Number(Fraction(rng.randint(low, high)), 0, measured)


def _amount(rng: random.Random, decimals: int, size: int) -> Number:
    """A measured number below `size`, with decimals where these are asked for."""
    if not decimals:
        return _whole(rng, 2, size, measured=True)
    return Number(Fraction(rng.randint(101, size * 100), 100), 2, True)


def random_expression(rng: random.Random, *, decimals: int = 0, size: int = 200) -> Expression:
    """A sum, difference, product, exact quotient, or two of these, whose value is above zero."""
    while True:
        expression = _random_shape(rng, decimals, size)
        try:
            if evaluate(expression) > 0 and result_of(expression).decimals <= 2:
                return expression
        except ValueError:
            continue


def _random_shape(rng: random.Random, decimals: int, size: int) -> Expression:
    def amount() -> Number:
        return _amount(rng, decimals, size)

    def count() -> Number:
        return _whole(rng, 2, 24)

    match rng.randrange(9):
        case 0:
            return Operation("+", amount(), amount())
        case 1:
            return Operation("+", Operation("+", amount(), amount()), amount())
        case 2:
            return Operation("-", amount(), amount())
        case 3:
            return Operation("*", count(), amount())
        case 4:
            return Operation("*", amount(), count())
        case 5:
            divisor, quotient = count(), amount()
            return Operation("/", replace(quotient, value=quotient.value * divisor.value), divisor)
        case 6:
            return Operation("+", Operation("*", count(), amount()), Operation("*", count(), amount()))
        case 7:
            return Operation("*", Operation("+", count(), count()), amount())
        case _:
            return Operation("-", Operation("*", count(), amount()), amount())
