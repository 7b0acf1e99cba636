"""What every form of a generated solution draws from: random numbers, a number style, words, and equations."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from fractions import Fraction

from tests.unit.grading.solution_numbers import (
    Equation,
    Notation,
    Number,
    chained,
    falsified,
    negated,
    numeral,
    other_digit,
    random_expression,
    result_of,
    spell_equation,
)

THINGS = ("apples", "pens", "books", "tickets", "stickers", "cookies", "marbles", "chairs", "pages", "boxes")
NAMES = ("Ann", "Bea", "Tom", "Maria", "Omar", "Lena", "Jack", "Yuki")


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence or block of a solution; `value` is the true value of its last quantity, if it has one."""

    text: str
    value: Fraction | None = None
    block: bool = False
    """Whether it stands on lines of its own."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Random source and number style of one solution."""

    rng: random.Random
    decimal: str = "."
    thousands: str = ""
    language: str = "en"

    def whole(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def thing(self) -> str:
        return self.rng.choice(THINGS)

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def show(self, value: Fraction | int, decimals: int | None = None) -> str:
        """The value's digits in this solution's style; as many decimals as it needs where none are given."""
        value = Fraction(value)
        if decimals is None:
            decimals = result_of(Number(value)).decimals
        return numeral(value, decimals, self.decimal, self.thousands)

    def read(self, shown: str) -> Fraction:
        """Value of what `show` gave."""
        return Fraction(shown.replace(self.thousands, "").replace(self.decimal, ".") if self.thousands else shown)

    def off(self, value: Fraction | int, decimals: int | None = None) -> Fraction:
        """The value with one of its digits changed."""
        value = Fraction(value)
        return other_digit(
            self.rng, Number(value, result_of(Number(value)).decimals if decimals is None else decimals)
        ).value

    def said(self, value: Fraction | int, right: bool) -> Fraction:
        return Fraction(value) if right else self.off(value)

    def equation(self, right: bool, *, decimals: int = 0, size: int = 200, chain: bool = False) -> Equation:
        """A random equation that holds, or one that is clearly false."""
        expression = random_expression(self.rng, decimals=decimals, size=size)
        equation = chained(expression) if chain else Equation((expression, result_of(expression)))
        if right:
            return equation
        return negated(equation) if self.rng.random() < 0.1 else falsified(self.rng, equation)

    def notation(self, **changes: str) -> Notation:
        plain = Notation(
            times=self.pick("*", "×", "x", "·"),
            divide=self.pick("/", "÷"),
            decimal=self.decimal,
            thousands=self.thousands,
        )
        return replace(plain, **changes)

    def spell(self, equation: Equation, **changes: str) -> str:
        return spell_equation(equation, self.notation(**changes))


def shown_value(equation: Equation) -> Fraction:
    """Size of the result that the equation shows."""
    return abs(equation.result.value)
