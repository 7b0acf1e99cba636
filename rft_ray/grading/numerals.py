"""Numerals as people write them -> canonical digits. Pure."""

from __future__ import annotations

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_FRACTIONS = dict(
    zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", ["1/2", "1/3", "2/3", "1/4", "3/4", "1/5", "2/5", "3/5", "4/5", "1/6", "5/6", "1/8", "3/8", "5/8", "7/8"], strict=True)
)


def canonical_digits(written: str) -> tuple[str, int]:
    """`1,800.00` -> `1800` and 2 decimals, `.5` -> `0.5`, `007` -> `7`, `2,5` -> `2.5`."""
    written = written.rstrip("…")
    if written.endswith("..."):
        written = written[:-3]
    head, comma, tail = written.rpartition(",")
    if comma and "." not in written and len(tail) != 3:
        written = f"{head.replace(',', '')}.{tail}"
    whole, _, fraction = written.replace(",", "").replace(" ", "").partition(".")
    decimals = len(fraction)
    whole = whole.lstrip("0") or "0"
    fraction = fraction.rstrip("0")
    return (f"{whole}.{fraction}" if fraction else whole), decimals


def mixed_parts(written: str) -> tuple[str, str]:
    """`2 1/2` and `2½` -> ("2", "1/2"), `½` -> ("", "1/2")."""
    if written[-1] in _FRACTIONS:
        return written[:-1].strip(), _FRACTIONS[written[-1]]
    whole, _, fraction = written.partition(" ")
    return whole, fraction.strip()
