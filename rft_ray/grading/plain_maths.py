"""Plain mathematics, such as `√3 + 1 1/2`, as LaTeX. Pure, and linear in the text."""

from __future__ import annotations

import re

_FUNCTIONS = "sin|cos|tan|log|ln|exp|sqrt|pi"
_PLAIN = re.compile(
    r"(?:\\text\{[^{}]{0,80}\}|[\d\s+\-−*/^=<>≤≥()\[\]{},.!|%°π√∞∪×÷·:_']|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])"
    rf"|\\[A-Za-z]{{1,20}}|\\[{{}},;:!|%$ ]|(?<![A-Za-z\\])(?:{_FUNCTIONS})(?![A-Za-z]))++"
)
_SIGNS = (
    (re.compile(r"√\s?(\w+)"), r"\\sqrt{\1}"),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])"), r"\\\1 "),
    (re.compile("π"), r"\\pi "),
    (re.compile("∞"), r"\\infty "),
    (re.compile("°"), r"^\\circ "),
    (re.compile("∪"), r"\\cup "),
)
"""Signs and names of plain mathematics, and what LaTeX has for them."""
_MIXED = re.compile(r"(?<![\w.,/^}])(\d{1,20})\s{1,2}(\d{1,9})\s?/\s?(\d{1,9})(?![\d.,]?\d|/|!)")
"""A whole number and a fraction: `1 1/2`."""


def is_plain(text: str) -> bool:
    """Whether all of a text is mathematics, plain or in LaTeX, without words."""
    return _PLAIN.fullmatch(text) is not None


def as_latex(plain: str) -> str:
    """Plain mathematics as LaTeX. Example: `√3 + 1 1/2` -> `\\sqrt{3} + 1\\frac{1}{2}`"""
    for sign, latex in _SIGNS:
        plain = sign.sub(latex, plain)
    return with_fractions(plain)


def with_fractions(text: str) -> str:
    """The text with LaTeX's fractions in its mixed numbers: `1 1/2` as `1\\frac{1}{2}`."""
    return _MIXED.sub(_fraction, text)


def first_mixed(text: str) -> str | None:
    """The mixed number that a text begins with, in LaTeX; None where it begins with none."""
    mixed = _MIXED.match(text)
    return _fraction(mixed) if mixed else None


def _fraction(mixed: re.Match[str]) -> str:
    return f"{mixed[1]}\\frac{{{mixed[2]}}}{{{mixed[3]}}}"
