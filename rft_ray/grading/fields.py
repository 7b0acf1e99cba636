"""The sides of equations, and the values that each can be read to have: `Field` -> `variants`. Pure.

The first variant is the side as it is written. The others are other readings of the same words, each by one rule; they
are asked for only where the first does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from rft_ray.grading.quantities import measure

_DOTTED = re.compile(r"[1-9]\d{0,2}\.\d{3}")
MAX_NAMED_DENOMINATOR = 100
"""A fraction with a larger one is a quotient rather than the name of a share."""


@dataclass(slots=True)
class Number:
    """One number of a side, and the words that belong to it.

    Example: Number(2, "45", unit="cents") for the second number of `20 × 45 cents`
    """

    piece: int
    """Index in the field's `pieces`."""
    digits: str
    decimals: int = 0
    percent: bool = False
    unit: str = ""
    """The first word after it, or its currency sign."""
    per: str = ""
    """The unit that it is a rate of: `hour` in `$4/hour`."""
    halves: tuple[str, str] | None = None
    """The digits before and after its only blank: `7 200` may be two numbers."""
    scale: int = 1
    """What a scale word after it may multiply it by: 1,000,000 for `1.2 million`."""


@dataclass(slots=True)
class Field:
    """One side of an equation.

    Example: Field(["20%", "*", "50"], ["(20/100)", "*", "50"], operators=True) for `20% of 50`
    """

    pieces: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    decimals: int = 0
    """Digits after the point of the last number (two more for a percentage)."""
    operators: bool = False
    """Whether it holds an operator; without one it is a plain number."""
    clean: bool = True
    """False where the text around it shows that only part of an expression was read."""
    silent: bool = False
    """Whether it is no arithmetic (algebra, a time of day), where `clean` is False."""
    doubt: str = ""
    """Why it may be read in another way that is not known."""
    worded: bool = False
    """Whether a word stands directly before it."""
    alone: bool = True
    """Whether no other number and no word as `of` stands before it in its clause."""
    named: bool = False
    """Whether words stand before a number after an operator: `Ann has 4 + Bea has 6`."""
    divided: bool = False
    """Whether it has the sign `÷`, which writes no fraction."""
    listed: bool = False
    """Whether words name its operator: `the sum of 5 and 8`."""
    compound: bool = False
    """Whether it holds a quantity in two units: `2 hours and 30 minutes`, which is `(2+30)`."""
    closes: bool = False
    """Whether the next number ends such a quantity."""
    letter: str = ""
    """A word right after a number that is no unit of more than a letter: `s` of `6s`."""
    goes_on: int = 0
    """Index of the operator in words that may go on after a result: `150 / 10 = 15 times $5`."""
    letters: bool = False
    """Whether each of its operators is the letter x: `2 x 4` may be a size."""
    share_of: int = 0
    """Index of the `*` that `of` stands for, after a share."""
    quotients: list[int] = field(default_factory=list)
    """Indices of the `/` of a quantity after a division sign: `7.5 ÷ 1/2`, `1600 / 200 calories/100 ml`."""
    start: int = 0
    end: int = 0
    """First character of it in the text, and the one after the last."""

    @property
    def shown(self) -> str:
        """Canonical spelling: no spaces, units or separators; `x` and `×` as `*`, `^` as `**`."""
        return "".join(self.pieces)

    @property
    def source(self) -> str:
        """The same for `arithmetic.exact_value`."""
        return "".join(self.sources)

    @property
    def plain(self) -> bool:
        """Whether it is one number, or a fraction less than one."""
        if len(self.numbers) <= 1:
            return "*" not in self.pieces
        fraction = (
            not self.divided
            and len(self.pieces) == 3
            and self.pieces[1] == "/"
            and not any("(" in piece for piece in self.pieces)
        )
        if not fraction or any("." in number.digits for number in self.numbers):
            return False
        top, bottom = (Fraction(number.digits) for number in self.numbers)
        return top < bottom <= MAX_NAMED_DENOMINATOR

    @property
    def divisor(self) -> str:
        """The divisor of a quotient of two whole numbers, `27 / 4`; empty where it is none."""
        if "/" not in self.pieces:
            return ""
        bare = [piece for piece in self.pieces if piece not in "()"]
        quotient = len(bare) == 3 and bare[1] == "/" and bare[0].isdecimal() and bare[2].isdecimal()
        return bare[2] if quotient else ""

    @property
    def share(self) -> bool:
        """Whether it is a percentage or a fraction, which names a part: `2/5 of his land`."""
        return self.plain and (self.operators or any(number.percent for number in self.numbers))

    def add(self, piece: str, source: str | None = None) -> None:
        self.pieces.append(piece)
        self.sources.append(piece if source is None else source)

    def open_compound(self) -> None:
        """Opens a parenthesis before the last number, to which a number in a smaller unit is to be added."""
        number = self.numbers[-1]
        self.pieces.insert(number.piece, "(")
        self.sources.insert(number.piece, "(")
        number.piece += 1
        self.compound = self.closes = True

    def replaced(self, sources: dict[int, str]) -> str:
        """The source with some pieces in another form."""
        return "".join(sources.get(index, source) for index, source in enumerate(self.sources))


class Variant(NamedTuple):
    """Another reading of a side: its source, the digits it shows, and the rule."""

    source: str
    decimals: int
    rule: str


def variants(side: Field) -> Iterator[Variant]:
    """The other readings of one side on its own."""
    yield from _percentages(side)
    if any(number.scale > 1 for number in side.numbers):
        scaled = {n.piece: _scaled(side, n) for n in side.numbers if n.scale > 1}
        yield Variant(side.replaced(scaled), side.decimals, "a scale word multiplies the number before it")
    if side.share_of:
        share = "".join(side.sources[: side.share_of])
        if share.count("(") == share.count(")"):
            yield Variant(share, 0, "a share, named with what it is a share of")
    if side.goes_on:
        yield Variant("".join(side.sources[: side.goes_on]), 0, "words that go on after a result")
    if side.quotients:
        yield Variant(_grouped(side), side.decimals, "a quotient after a division sign is one quantity")
    dotted = {n.piece: n.digits.replace(".", "") for n in side.numbers if _DOTTED.fullmatch(_written(n))}
    if dotted:
        yield Variant(side.replaced(dotted), 0, "a point before three digits separates thousands")


def halved(side: Field, *, left: bool) -> list[str]:
    """The sources of a side whose outermost number is cut at a blank: a left side may begin there, a right one end."""
    sources = [side.source]
    number = side.numbers[0 if left else -1] if side.numbers else None
    if number and number.halves:
        sources.append(side.replaced({number.piece: str(int(number.halves[left]))}))
    return sources


def _scaled(side: Field, number: Number) -> str:
    """`4` of `4 dozen` as `(4*12)`; `2` of `1/2 dozen` as `2*12`."""
    source = f"{side.sources[number.piece]}*{number.scale}"
    return source if number.piece and side.pieces[number.piece - 1] == "/" else f"({source})"


def _written(number: Number) -> str:
    whole, _, rest = number.digits.partition(".")
    return f"{whole}.{rest.ljust(number.decimals, '0')}"


def _percentages(side: Field) -> Iterator[Variant]:
    """Percentages as plain numbers, where each term is one; an added percentage, as a share of what it is added to."""
    if not any(number.percent for number in side.numbers):
        return
    operators = [piece for piece in side.pieces if piece in ("*", "/", "//", "**", "%")]
    if all(number.percent for number in side.numbers) and not operators:
        bare = {number.piece: number.digits for number in side.numbers}
        yield Variant(side.replaced(bare), max(0, side.decimals - 2), "a percentage that names a number of percent")
    if side.sources[-2:] == ["*", "(100/100)"]:
        yield Variant("".join(side.sources[:-1]) + "100", side.decimals, "a factor of 100% gives a number of percent")
    last = side.numbers[-1]
    if last.percent and last.piece == len(side.pieces) - 1 > 1 and side.pieces[-2] in "+-":
        base, sign = "".join(side.sources[:-2]), side.pieces[-2]
        if base.count("(") == base.count(")"):
            yield Variant(
                f"({base})*(1{sign}{last.digits}/100)", side.decimals, "an added percentage is one of the sum"
            )


def _grouped(side: Field) -> str:
    sources = list(side.sources)
    for index in side.quotients:
        sources[index - 1] = f"({sources[index - 1]}"
        sources[index + 1] = f"{sources[index + 1]})"
    return "".join(sources)


def convertible(sides: Iterable[Field]) -> bool:
    """Whether two units of one dimension stand in the same equation."""
    sizes: dict[str, set[Fraction]] = {}
    for side in sides:
        for number in side.numbers:
            for unit in (number.unit, number.per):
                known = measure(unit) if unit else None
                if known:
                    sizes.setdefault(known[0], set()).add(known[1])
    return any(len(found) > 1 for found in sizes.values())


def in_smallest_units(side: Field) -> Variant:
    """A side with each measure in the smallest unit of its dimension."""
    if side.plain and side.operators and side.numbers:
        last = side.numbers[-1]
        return Variant(
            f"({side.source})*({_size(last.unit)})/({_size(last.per)})", 0, "units of one dimension are converted"
        )
    sources = {n.piece: f"({side.sources[n.piece]}*({_size(n.unit)})/({_size(n.per)}))" for n in side.numbers}
    return Variant(side.replaced(sources), 0, "units of one dimension are converted")


def _size(unit: str) -> Fraction:
    known = measure(unit) if unit else None
    return known[1] if known else Fraction(1)
