"""The equations of a completion, and whether they hold: text -> `Equations`.

Paper mode: in every `<<...>>`, the value that Python gives the text before the first `=` is within 1e-3 of the
float between the first and the second `=`. Strict mode: every field of every `<<...>>`, or, if there
is none, the arithmetic of the text (`prose.py`), in exact rationals with rounding as people write it: to the
digits shown, and to a whole number only in a text that says so (`7/2 = 4` is a mistake more often than a rounding).

Limits: texts up to MAX_TEXT_CHARS; those of `arithmetic.py` per expression; scanning is linear in the text. Results
are cached by equation and, for texts up to `CACHED_TEXT_CHARS`, by text, in caches of fixed size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from rft_ray.grading.arithmetic import NotArithmeticError, OverBoundError, exact_value, python_value
from rft_ray.grading.prose import Field, read_annotation, read_chains

Mode = Literal["strict", "paper"]
MODES: tuple[Mode, ...] = ("strict", "paper")

MAX_TEXT_CHARS = 131_072
"""Longest text that is read; 32 K tokens of English are about as long."""
CACHED_TEXT_CHARS = 4_096
CACHED_EQUATION_CHARS = 200
FEW_ANNOTATIONS = 50
"""Up to this number of `<<`, a regular expression finds them: it is faster, and its worst case is bounded."""
_ANNOTATION = re.compile(r"<<([^>]*)>>")

_ROUGH = re.compile(
    r"[≈≃≅]|\\(?:approx|simeq)|~ ?\$?\d"
    r"|\b(?:about|approx\w*|roughly|nearly|almost|nearest|rounded|rounding|rounds? (?:it )?(?:up|down|off|to))\b"
    r"|\b(?:whole numbers?|remainder|left ?over|with \$?\d+ (?:\w+ )?(?:remaining|left))\b"
    r"|\band (?:a (?:half|third|quarter)\b|\(?\$?\d+/\d)",
    re.IGNORECASE,
)
"""Words that say that a whole number stands for a fractional value: it is rounded, or the remainder is named."""


@dataclass(frozen=True, slots=True)
class Equations:
    """The equation list of one text, and why it does not hold.

    Example: Equations(("48/2=24", "48+24=71"), "48+24=71", "")
    """

    listed: tuple[str, ...]
    """In the order of the text. Paper: as written, blanks removed. Strict: in canonical notation."""
    fault: str = ""
    """The first equation that does not hold or cannot be read, and why; empty if all hold."""
    over: str = ""
    """The first bound that kept an equation from being decided; empty if none did."""

    unread: str = ""
    """The first piece of arithmetic with a sign of equality that could not be read with confidence. Strict only."""

    @property
    def hold(self) -> bool:
        return not self.fault and not self.over


Outcome = Literal["holds", "fails", "unread", "over", "taken_back"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How one equation of a text is read in strict mode.

    Example: Reading(9, 18, "48/2=24", "holds", "exact")
    """

    start: int
    end: int
    """Characters of the text."""
    shown: str
    """Canonical spelling; empty where it is unread."""
    outcome: Outcome
    rule: str
    """The rule that decided, as one short sentence."""


def readings(text: str) -> list[Reading]:
    """Each equation of a text with the rule that decided it; none past MAX_TEXT_CHARS. Agrees with `equations_of`."""
    if len(text) > MAX_TEXT_CHARS:
        return []
    rough = bool(_ROUGH.search(text))
    places = [(match.start(), match.end(), _strict_check(match[1], rough)) for match in _ANNOTATION.finditer(text)]
    if not places:
        for chain in read_chains(text):
            checked = _check_prose(chain, rough) or Checked("", fault="")
            places.append((chain[0].start, min(chain[-1].end, len(text)), checked))
    return [Reading(start, end, *_decided(checked)) for start, end, checked in places]


def _decided(checked: Checked) -> tuple[str, Outcome, str]:
    if not checked.shown:
        return "", "unread", "it can be read in two ways"
    if checked.fault or checked.over:
        return checked.shown, "fails" if checked.fault else "over", checked.fault or checked.over
    return checked.shown, "holds", "equal, or rounded to the digits shown"


@dataclass(frozen=True, slots=True)
class Checked:
    """One equation: its canonical spelling and, where it is not known to hold, why."""

    shown: str
    fault: str = ""
    over: str = ""


def equations_of(text: str, mode: str = "strict") -> Equations:
    """Equations of a completion; none, and `over`, past MAX_TEXT_CHARS. Raises ValueError for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: must be one of {', '.join(MODES)}")
    if len(text) > MAX_TEXT_CHARS:
        return Equations((), "", f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
    return _cached_equations(text, mode) if len(text) <= CACHED_TEXT_CHARS else _read(text, mode)


def annotated(text: str) -> list[str]:
    """Insides of all `<<...>>`, as the regular expression `<<([^>]*)>>` finds them, in linear time.

    (The expression itself takes quadratic time on a run of `<` without `>>`.)
    """
    if text.count("<<") <= FEW_ANNOTATIONS:
        return _ANNOTATION.findall(text)
    insides = []
    start = text.find("<<")
    while start >= 0:
        end = text.find(">", start + 2)
        if end < 0:
            break
        closed = text.startswith(">>", end)
        if closed:
            insides.append(text[start + 2 : end])
        start = text.find("<<", end + 2 if closed else end + 1)
    return insides


def _read(text: str, mode: str) -> Equations:
    written = tuple(annotated(text))
    if written or mode == "paper":
        rough = mode == "strict" and bool(_ROUGH.search(text))
        return (_cached_annotations if len(text) <= CACHED_TEXT_CHARS else _annotations)(written, mode, rough)
    chains = read_chains(text)
    rough = bool(chains and _ROUGH.search(text))
    return _together([checked for chain in chains if (checked := _check_prose(chain, rough)) is not None])


def _annotations(written: tuple[str, ...], mode: str, rough: bool) -> Equations:
    """The equations in `<<...>>`. Many samples of one problem have the same ones, hence the cache."""
    if mode == "paper":
        return _together(
            [_paper_cached(text) if len(text) <= CACHED_EQUATION_CHARS else _paper_check(text) for text in written]
        )
    return _together(
        [(_strict_cached if len(text) <= CACHED_EQUATION_CHARS else _strict_check)(text, rough) for text in written]
    )


_cached_annotations = lru_cache(maxsize=4_096)(_annotations)


def _together(checked: list[Checked]) -> Equations:
    listed = tuple([equation.shown for equation in checked])
    bad = [equation for equation in checked if equation.fault or equation.over]
    if not bad:
        return Equations(listed)
    fault = next((equation.fault for equation in bad if equation.fault), "")
    over = next((equation.over for equation in bad if equation.over), "")
    return Equations(listed, fault, over)


_cached_equations = lru_cache(maxsize=4_096)(_read)


def _paper_check(inside: str) -> Checked:
    """The reference's check of one equation.

    An equation is wrong if Python's evaluation of it fails. The right side is read first: if it is not a
    number, the equation is wrong without evaluating the left side.
    """
    shown = inside.replace(" ", "")
    fields = inside.split("=", 2)
    if len(fields) < 2:
        return Checked(shown, fault=f"{_quoted(inside)}: no =")
    try:
        right = float(fields[1])
        holds = abs(float(python_value(fields[0])) - right) < 1e-3
    except OverBoundError as error:
        return Checked(shown, over=f"{_quoted(inside)}: {error}")
    except (NotArithmeticError, ArithmeticError, TypeError, ValueError) as error:
        return Checked(shown, fault=f"{_quoted(inside)}: {type(error).__name__}")
    return Checked(shown) if holds else Checked(shown, fault=f"{_quoted(inside)}: does not hold")


_paper_cached = lru_cache(maxsize=16_384)(_paper_check)


def _strict_check(inside: str, rough: bool) -> Checked:
    """Strict check of one `<<...>>`: a chain of fields, each pair of neighbours equal."""
    if len(inside) > 4 * CACHED_EQUATION_CHARS:
        return Checked(inside.replace(" ", ""), over=f"an equation of {len(inside)} characters, bound 800")
    chain = read_annotation(inside)
    if chain is None:
        return Checked(inside.replace(" ", ""), fault=f"{_quoted(inside)}: cannot be read")
    return _check_chain(chain, rough)


_strict_cached = lru_cache(maxsize=16_384)(_strict_check)


def _check_prose(chain: list[Field], rough: bool) -> Checked | None:
    """Check of a chain read from prose, or None where it fails and may have been misread.

    Two units of measurement (`3 feet + 6 inches = 42 inches`), a percent sign as unit of some fields
    only (`45 + 28 = 73%`), an added percentage: these are doubts about the reading, not the solution.
    """
    checked = _check_chain(chain, rough)
    if not checked.fault:
        return checked
    units = set().union(*(field.units for field in chain))
    bare_percent = any(field.percents and not field.operators for field in chain)
    doubtful = len(units) > 1 or bare_percent or any(field.doubtful for field in chain)
    return None if doubtful else checked


def _check_chain(chain: list[Field], rough: bool) -> Checked:
    shown = "=".join(field.shown for field in chain)
    try:
        values = [_value(field.source) for field in chain]
    except OverBoundError as error:
        return Checked(shown, over=f"{_quoted(shown)}: {error}")
    except (NotArithmeticError, ArithmeticError, ValueError) as error:
        return Checked(shown, fault=f"{_quoted(shown)}: {error}")
    for (left, left_value), (right, right_value) in pairwise(zip(chain, values, strict=True)):
        if not _equal(left, left_value, right, right_value, rough):
            return Checked(shown, fault=f"{_quoted(f'{left.shown}={right.shown}')}: does not hold")
    return Checked(shown)


def _equal(left: Field, left_value: Fraction, right: Field, right_value: Fraction, rough: bool) -> bool:
    if left_value == right_value:
        return True
    if not right.operators and _may_round(right, left, rough) and shows(right_value, right.decimals, left_value):
        return True
    return not left.operators and _may_round(left, right, rough) and shows(left_value, left.decimals, right_value)


def _may_round(shown: Field, other: Field, rough: bool) -> bool:
    """Whether a number may be rounded: it has decimals or its neighbour has, or the text says that it rounds."""
    return rough or shown.decimals > 0 or (other.decimals > 0 and not other.operators)


def shows(shown: Fraction, decimals: int, true: Fraction) -> bool:
    """Whether a number written with `decimals` digits is `true` rounded or truncated to them.

    A half may be rounded up or down. Zero equals only zero: `1/3 = 0` does not hold.
    """
    if shown == 0 or (shown > 0) != (true > 0):
        return shown == true
    off = abs(true) - abs(shown)
    unit = Fraction(1, 10**decimals)
    return 0 <= off < unit or abs(off) * 2 <= unit


def _value(source: str) -> Fraction:
    return _value_cached(source) if len(source) <= CACHED_EQUATION_CHARS else exact_value(source)


_value_cached = lru_cache(maxsize=16_384)(exact_value)


def _quoted(equation: str) -> str:
    return equation if len(equation) <= 80 else f"{equation[:77]}..."
