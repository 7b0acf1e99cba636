"""The surface of a number: a short text as models write it -> the same text with plain ASCII numerals. Pure.

LaTeX (`\\frac12`, `1{,}800`, `67.5^\\circ`, `\\text{…}`), Markdown, typographic signs, the digits of other scripts, and
separators of thousands other than the comma become what `answer_numbers.py` reads: `1/2`, `1800`, `67.5 degrees`.
"""

from __future__ import annotations

import re
import unicodedata

from rft_ray.grading.numerals import SUPERSCRIPTS

_UNICODE = str.maketrans(
    {
        "−": "-", "‐": "-", "‑": "-", "–": "-", "﹣": "-", "－": "-", "⁄": "/", "∕": "/", "％": "%", "＄": "$",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u3000": " ", "\u2062": "", "\u200b": "",
        "，": ",", "、": ",",
        "：": ":", "；": ";", "（": "(", "）": ")", "＝": "=", "。": ". ", "！": "! ", "？": "? ", "،": ",", "٫": ".",
        "٬": ",", "٪": "%", "।": ". ", "’": "'", "⇒": "=", "→": "=",
        "°": " degrees ", "º": " degrees ", "＋": "+", "．": ".",
        "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅕": " 1/5", "⅛": " 1/8",
    }
)  # fmt: skip
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_TEXT = re.compile(r"\\(?:text[a-z]{0,10}|math(?:rm|bf|it|sf|tt)|mbox|operatorname|emph)\s*\{([^{}]*)\}")
_PART = r"(?:\{\s*(-?\d[\d,]*)\s*\}|(\d))"
_FRAC = re.compile(rf"\\[dtc]?frac\s*{_PART}\s*{_PART}", re.ASCII)
_NEGATIVE_BELOW = re.compile(r"(\\[dtc]?frac\s*\{\s*)(\d[\d,]*\s*\}\s*\{\s*)-\s*(?=\d)", re.ASCII)
_POWER = re.compile(r"(?<=(?<![\d.,])10)([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,3})(?![⁰¹²³⁴⁵⁶⁷⁸⁹])")
_DEGREES = re.compile(r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))|\\(?:degree|textdegree)(?![A-Za-z])")
_LATEX_THOUSANDS = re.compile(
    r"(?<=\d)(?:\\text\{,\}|\{\s?,\s?\}|,\s?\\[!,;: ]\s?|\\[!,;: ]|,\{\})(?=\d{3}(?!\d))", re.ASCII
)
_LATEX_POINT = re.compile(r"(?<=\d)\{\.\}(?=\d)", re.ASCII)
_LATEX_DECIMAL_COMMA = re.compile(r"(?<=\d)\{\s?,\s?\}(?=\d)", re.ASCII)
_BLANK_THOUSANDS = re.compile(r"(?<![\d.,/'-])[1-9]\d{0,2}(?:[ ']\d{3})+(?![\d/']|\s/)", re.ASCII)
_INDIAN_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])", re.ASCII)
_POINT_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+(?!\d))(?!,)", re.ASCII)
_POINTS_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d,])(?!\.\d)", re.ASCII)
_ONE_POINT_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?![\d])(?!\.\d)", re.ASCII)
_DECIMAL_COMMA = re.compile(r"(?<![\d.,(\[])(\d+),(?=(?:\d{1,2}|\d{4,})(?!\d|,\d))", re.ASCII)
_ANY_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(?=\d+(?!\d|,\d))", re.ASCII)
_COMMA_BEFORE_EURO = re.compile(
    r"(?<![\d.,])(\d+),(?=\d{1,2}\s?(?:€|EUR\b|Euro\b|euros\b|(?<=\s)[$£](?!\s?\d)))", re.ASCII
)
_POINT_BEFORE_EURO = re.compile(r"(?<![\d.,])[1-9]\d{0,2}\.\d{3}(?=\s?(?:€|EUR\b|Euro\b|euros\b|[$£]))", re.ASCII)
_OPERATORS = re.compile(
    r"\\(times|cdot|div|approx|simeq|pounds|euro|yen|geq?|leq?|neq?|[rR]ightarrow|implies)(?![A-Za-z])"
)
_OPERATOR_SIGNS = {
    "times": "×", "cdot": "×", "div": "÷", "approx": "≈", "simeq": "≈", "pounds": "£", "euro": "€", "yen": "¥",
    "ge": "≥", "geq": "≥", "le": "≤", "leq": "≤", "ne": "≠", "neq": "≠",
    "rightarrow": "=", "Rightarrow": "=", "implies": "=",
}  # fmt: skip
_TIMES = re.compile(r"(?<=[\d)])\s?(?<!\*)\*(?!\*)\s?(?=[\d$(])", re.ASCII)
_MARKS = re.compile(
    r"\\[\[\]()!,;:> ]"
    r"|\\(?:left|right|displaystyle|quad|qquad|bf|rm|large|Large|checkmark|square|blacksquare)(?![A-Za-z])"
    r"|</?[a-z]{1,6}\s?/?>|</?[A-Za-z][A-Za-z_]{2,19}>|\[/?[A-Z]{3,8}\]|[*_`~]+|\\(?=[$%#&])|[\"“”«»]"
)


def plain_numerals(written: str, decimal_comma: bool | None = False) -> str:
    """A short text with its numbers in plain ASCII, without markup.

    `decimal_comma`: whether a comma is the decimal sign and a point sets off thousands (`1.234,5`); None where the
    language allows both, and then a comma before one, two or more than three digits is the decimal sign.
    """
    shown = _ANNOTATION.sub("", written)
    if not shown.isascii():
        shown = _POWER.sub(lambda power: f"^{power[1].translate(SUPERSCRIPTS)}", shown.translate(_UNICODE))
        shown = _OTHER_DIGIT.sub(_ascii_digit, shown)
    if "\\" in shown or "{" in shown:
        shown = _without_latex(shown)
    if "*" in shown:
        shown = _TIMES.sub(" × ", shown)
    return _MARKS.sub(" ", _plain_separators(shown, decimal_comma)).strip()


def has_numeral(text: str) -> bool:
    """Whether a short text holds a digit of any script or a fraction sign."""
    return any(character.isdigit() or character in "½¼¾⅓⅔⅕⅛" for character in text)


def _ascii_digit(digit: re.Match[str]) -> str:
    return str(unicodedata.decimal(digit[0]))


def _without_latex(shown: str) -> str:
    shown = _LATEX_DECIMAL_COMMA.sub(".", _LATEX_POINT.sub(".", _LATEX_THOUSANDS.sub(",", shown)))
    shown = _NEGATIVE_BELOW.sub(r"\1-\2", shown)
    shown = _FRAC.sub(lambda part: f" {part[1] or part[2]}/{part[3] or part[4]} ", _DEGREES.sub(" degrees ", shown))
    return _OPERATORS.sub(lambda name: f" {_OPERATOR_SIGNS[name[1]]} ", _TEXT.sub(r" \1 ", shown))


def _plain_separators(shown: str, decimal_comma: bool | None) -> str:
    """The text with a point as the decimal sign, and without separators of thousands other than the comma."""
    if "," in shown:
        shown = _POINT_THOUSANDS.sub(_european, shown)
        shown = _COMMA_BEFORE_EURO.sub(r"\1.", _INDIAN_THOUSANDS.sub(lambda number: number[0].replace(",", ""), shown))
        if decimal_comma is not False:
            shown = (_ANY_DECIMAL_COMMA if decimal_comma else _DECIMAL_COMMA).sub(r"\1.", shown)
    elif "." in shown:
        if decimal_comma is None:  # an amount of money has no three decimals
            shown = _POINT_BEFORE_EURO.sub(_european, shown)
        shown = (_ONE_POINT_THOUSANDS if decimal_comma else _POINTS_THOUSANDS).sub(_european, shown)
    return _BLANK_THOUSANDS.sub(lambda number: re.sub(r"[ ']", "", number[0]), shown)


def _european(number: re.Match[str]) -> str:
    return number[0].replace(".", "").replace(",", ".")
