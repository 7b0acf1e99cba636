"""Words of quantities: measures and what they are in smaller ones, scales, words for operators. Pure."""

from __future__ import annotations

from fractions import Fraction

MEASURES: dict[str, tuple[str, Fraction]] = {}
"""Unit of measurement -> (dimension, its size in the smallest unit of that dimension that is listed)."""

_SIZES: dict[str, dict[str, str]] = {
    "money": {"$ dollar dollars buck bucks": "100", "cent cents ¢ penny pennies": "1", "nickel nickels": "5",
              "dime dimes": "10", "quarter quarters": "25"},
    "euro": {"€ euro euros": "1"},
    "pound sterling": {"£ pence": "1"},
    "length": {"inch inches in": "1", "foot feet ft": "12", "yard yards yd": "36", "mile miles mi": "63360"},
    "metre": {"mm millimeter millimeters": "1", "cm centimeter centimeters": "10",
              "m meter meters metre metres": "1000", "km kilometer kilometers kilometre kilometres": "1000000"},
    "time": {"second seconds sec secs s": "1", "minute minutes min mins": "60",
             "hour hours hr hrs h": "3600", "day days": "86400", "week weeks": "604800"},
    "months": {"month months": "1", "year years yr yrs": "12", "decade decades": "120", "century centuries": "1200"},
    "mass": {"ounce ounces oz": "1", "pound pounds lb lbs": "16", "ton tons": "32000"},
    "gram": {"mg milligram milligrams": "1", "g gram grams": "1000", "kg kilogram kilograms kilo kilos": "1000000"},
    "volume": {"cup cups": "1", "pint pints": "2", "quart quarts": "4", "gallon gallons": "16"},
    "litre": {"ml milliliter milliliters millilitre millilitres": "1", "l L liter liters litre litres": "1000"},
}  # fmt: skip
for _dimension, _units in _SIZES.items():
    for _names, _size in _units.items():
        for _name in _names.split():
            MEASURES[_name] = (_dimension, Fraction(_size))

SCALES = {
    "dozen": 12, "dozens": 12, "hundred": 100, "hundreds": 100, "thousand": 1_000, "thousands": 1_000, "k": 1_000,
    "K": 1_000, "million": 1_000_000, "millions": 1_000_000, "M": 1_000_000, "billion": 10**9, "score": 20,
    "pair": 2, "pairs": 2, "万": 10_000, "亿": 10**8,
}  # fmt: skip
"""A number before one of these may be the number itself or that many times more."""

INEXACT_WORDS = frozenset(
    [
        "half", "halves", "third", "thirds", "quarter", "twice", "double", "triple", "squared", "cubed", "factorial",
        "fifth", "fifths", "fourth", "fourths", "tenth", "tenths", "sixth", "eighth", "eighths", "root",
    ]
)  # fmt: skip
"""Words after a number that change its value in a way that is not read."""

PART_WORDS = INEXACT_WORDS - {"twice", "double", "triple", "squared", "cubed", "factorial", "root"}
"""Those that name parts of a whole, or count as things: `3 halves`."""

COMPARING_WORDS = frozenset(
    ["more", "less", "fewer", "greater", "higher", "lower", "older", "younger", "times", "bigger", "smaller", "short"]
)

UNIT_LETTERS = frozenset("aghlLmskKM°¢")
BREAKING_WORDS = frozenset(
    ["and", "he", "she", "they", "then", "so", "but", "which", "because", "will", "be", "are", "was", "were", "has",
     "have", "if", "we", "or", "must", "should", "that", "who", "since", "when"]
)  # fmt: skip
"""Words that end the units after a number: a new clause begins."""
RESTATING_WORDS = frozenset(["which", "because", "so", "since", "then", "but", "if"])
"""Those of them after which an equation of its own begins: `half of 18 pens, which is 18 / 2 = 9`."""
SPEEDS = {"mph": ("miles", "hour"), "kmh": ("km", "hour"), "kph": ("km", "hour"), "km/h": ("km", "hour")}
CLOCK_WORDS = frozenset(["am", "pm", "AM", "PM", "noon", "midnight", "Am", "Pm", "a.m", "p.m", "o'clock", "o’clock"])

OPERATOR_WORDS = {
    "x": "*", "X": "*", "times": "*", "plus": "+", "minus": "-", "moins": "-", "fois": "*", "mal": "*", "por": "*",
    "más": "+", "menos": "-", "加": "+", "减": "-", "乘": "*", "乘以": "*", "除以": "/",
    "加上": "+", "减去": "-",
}  # fmt: skip
"""A word between two numbers that stands for an operator."""
BY_WORDS = {
    "multiplied": "*", "divided": "/", "multiplicado": "*", "dividido": "/", "divisé": "/", "multiplié": "*",
    "geteilt": "/",
}  # fmt: skip
"""The same, where the next word is one of `BY`."""
BY = frozenset(["by", "por", "entre", "par", "durch"])

EQUALITY_WORDS = frozenset(
    ["equals", "equal", "is", "gives", "makes", "等于", "是", "est", "égale", "égal", "ist", "ergibt", "gleich", "es",
     "son", "font", "fait"]
)  # fmt: skip
SHARES = {"half": "1/2", "a half": "1/2", "one half": "1/2", "one-half": "1/2", "a third": "1/3", "one third": "1/3",
          "one-third": "1/3", "two thirds": "2/3", "two-thirds": "2/3", "a quarter": "1/4", "one quarter": "1/4",
          "one-fourth": "1/4", "a fourth": "1/4", "three quarters": "3/4", "three-quarters": "3/4",
          "three-fourths": "3/4", "a fifth": "1/5", "one-fifth": "1/5"}  # fmt: skip
"""Words before `of` and a number."""
MULTIPLES = {"twice": "2", "double": "2", "triple": "3", "thrice": "3"}
"""Words directly before a number."""
LISTS = {"sum": "+", "product": "*", "difference": "-", "quotient": "/", "average": "+", "mean": "+"}
"""Words that, before `of 5 and 8` or `between 5 and 8`, name a calculation with these numbers."""
LIST_NAMES = frozenset([*LISTS, *(name.title() for name in LISTS)])
MEANS = frozenset(["average", "mean"])
REMAINDER_WORDS = frozenset(["R", "r", "rem", "remainder", "reste", "resto", "Rest", "余"])
PERCENT_WORDS = frozenset(["percent", "percents", "pct", "prozent"])


def measure(word: str) -> tuple[str, Fraction] | None:
    """(dimension, size) of a word that is a unit of measurement."""
    return MEASURES.get(word) or MEASURES.get(word.lower())
