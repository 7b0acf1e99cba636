"""Numbers in words, in English and Chinese: a short text -> the same text with digits. Pure.

`twenty-six (26)` -> `26`, `one hundred and five` -> `105`, `two thirds of a cup` -> `2/3 of a cup`, `十八元` -> `18元`.
"""

from __future__ import annotations

import re

from rft_ray.grading.answer_values import ConflictError

_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}
_WORD = rf"(?:{'|'.join([*_UNITS, *_SCALES])})"
_WORDS = rf"{_WORD}(?:(?:[\s-]|\s+and\s+){_WORD}){{0,9}}\b"
_PART = r"(?:half|halves|(?:third|quarter|fourth|fifth|sixth|eighth|tenth)s?)\b"
_ENDS = r"(?=\s*(?:\Z|[.!?)]|of\b))"
_SHARE = re.compile(rf"(?:(?P<count>an?|one|two|three|four|five|seven)[\s-]+|(?=half))(?P<part>{_PART}){_ENDS}", re.I)
_AT_START = re.compile(rf"(?:an?\s+(?=hundred|thousand|million|billion))?(?P<words>{_WORDS})", re.I)
_ONE_THING = re.compile(r"\s*(?:[a-z]{2,20}\s*)?(?:\Z|[.!(])", re.I)
_MORE = re.compile(r"[\s-]*(?:more|less|fewer|of|times|or|to|th|ths|per|out)\b", re.I)
_WITH_DIGITS = re.compile(
    rf"(?<!\d)(?<!\d\s)\b(?P<words>{_WORDS})(?P<unit>(?:\s+(?:dollars?|cents?|percent|[a-z]{{3,12}}))?)\s*"
    r"\(\s*(?P<digits>[$€£]?\d[\d,]*(?:\.\d+)?%?)\s*(?P=unit)\s*\)",
    re.I | re.ASCII,
)
_ONLY_WORDS = re.compile(rf"\W*{_WORDS}(?:\s+(?:dollars?|cents?|percent))?\W*\Z", re.I)
_CHINESE_DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {
    "两": 2,
    "兩": 2,
    "〇": 0,
}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1_000, "万": 10_000, "萬": 10_000}
_CHINESE = re.compile(r"[零〇一二两兩三四五六七八九十百千万萬]{1,12}(?=\s*(?:\Z|[.!?。！个個元只本块塊人天]))")


def states_in_words(written: str, opener: str) -> bool:
    """Whether a short text without digits may state a number in words; after `####`, whether it is nothing else."""
    plain = written.lstrip(" \t\n:*_$\\(`\"'{[=")[:120]
    if opener == "#":
        return _ONLY_WORDS.match(plain) is not None
    return any(pattern.match(plain.removeprefix("text{")) for pattern in (_AT_START, _SHARE, _CHINESE))


def with_digits(shown: str) -> str:
    """The text with digits where it starts with a number in words, or where digits in parentheses say it again.

    "one" is read only where at most one word follows; a share ("half", "two thirds") at the end or before "of".
    Raises ConflictError where words and digits differ (`twenty-six (25)`).
    """
    if "(" in shown:
        shown = _WITH_DIGITS.sub(_said_again, shown)
    if shown[:1].isascii():
        return _start_in_digits(shown) if shown[:1].isalpha() else shown
    number = _CHINESE.match(shown)
    return f"{_chinese_value(number[0])}{shown[number.end() :]}" if number else shown


def _start_in_digits(shown: str) -> str:
    share = _SHARE.match(shown)
    if share:
        count = (share["count"] or "a").lower()
        above = 1 if count in ("a", "an") else _UNITS[count]
        part = share["part"].lower()
        return f"{above}/{_PARTS[part if part in _PARTS else part[:-1]]}{shown[share.end() :]}"
    number = _AT_START.match(shown)
    if number is None:
        return shown
    rest = shown[number.end() :]
    if _MORE.match(rest) or (number["words"].lower() == "one" and not _ONE_THING.match(rest)):
        return shown
    value = _value(number["words"])
    return shown if value is None else f"{value}{rest}"


def _said_again(match: re.Match[str]) -> str:
    """The digits of `twenty-six (26)` and its unit."""
    value = _value(match["words"])
    digits = match["digits"].strip("$€£%").replace(",", "")
    if value is None or float(digits) != value:
        raise ConflictError(f"final answer {match[0]!r} says two numbers")
    return f"{match['digits']}{match['unit']}"


def _value(words: str) -> int | None:
    """The number that English words spell; None where they spell none (`five twenty`)."""
    total = group = 0
    last = 10**9
    for word in re.split(r"[\s-]+", words.lower()):
        if word == "and":
            continue
        if word == "hundred":
            group, last = max(group, 1) * 100, 100
        elif word in _SCALES:
            total, group, last = total + max(group, 1) * _SCALES[word], 0, 10**9
        elif last < 20 or (last < 100 and not 0 < _UNITS[word] < 10):
            return None
        else:
            group, last = group + _UNITS[word], _UNITS[word] or 1
    return total + group


def _chinese_value(characters: str) -> int:
    total = section = digit = 0
    for character in characters:
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
        elif _CHINESE_SCALES[character] == 10_000:
            total, section, digit = (total + section + digit) * 10_000, 0, 0
        else:
            section, digit = section + (digit or 1) * _CHINESE_SCALES[character], 0
    return total + section + digit
