"""Numerals as people write them -> canonical digits. Pure."""

from __future__ import annotations

from functools import lru_cache

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_FRACTIONS = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip


@lru_cache(maxsize=4_096)
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


def odd_numeral(written: str) -> str:
    """Why a numeral may stand for another number than its canonical digits; empty if there is no reason."""
    if len(written) == 4 and written[0] == "0" and written.isdecimal():
        return "a time of day"
    if "," in written and len(written.rpartition(",")[2]) != 3 and "." not in written:
        return "a comma for a decimal point"
    return ""


def mixed_parts(written: str) -> tuple[str, str]:
    """`2 1/2` and `2½` -> ("2", "1/2"), `½` -> ("", "1/2")."""
    if written[-1] in _FRACTIONS:
        return written[:-1].strip(), _FRACTIONS[written[-1]]
    whole, _, fraction = written.partition(" ")
    return whole, fraction.strip()
