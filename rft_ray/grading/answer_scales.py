"""What belongs to a number after its digits: "and a half", "million", `× 10^6`, "pm", "dozen". Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from rft_ray.grading.answer_values import Answer, canonical, open_answer

_AND_FRACTION = re.compile(
    r"\s+and\s+(?P<count>a|one|two|three|four)[\s-]+(?P<part>half|halves|thirds?|quarters?|fourths?|fifths?|eighths?)\b",
    re.I,
)
_COUNTS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "eighth": 8}
_SCALE = re.compile(
    r"\s{0,3}(?P<name>hundred|grand|thousand|million|billion|trillion|lakh|crore|millones|mill[oó]n|millionen|milliarden|tausend"
    r"|mille|milliards?)s?\b|\s?(?P<sign>[万萬亿億千])|(?P<thousand>\s?[kK])\b|\s?(?P<money>[mMbB]|bn|mn|mln|mil)\b",
    re.I,
)
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "tausend": 10**3, "mille": 10**3, "千": 10**3, "万": 10**4, "萬": 10**4,
    "lakh": 10**5, "million": 10**6, "millionen": 10**6, "millones": 10**6, "millón": 10**6, "millon": 10**6,
    "crore": 10**7, "亿": 10**8, "億": 10**8, "billion": 10**9, "milliarden": 10**9, "milliard": 10**9,
    "trillion": 10**12, "m": 10**6, "mn": 10**6, "mln": 10**6, "mil": 10**6, "grand": 10**3, "b": 10**9, "bn": 10**9,
}  # fmt: skip
_POWER_OF_TEN = re.compile(
    r"\s{0,3}(?:×|x|\*)\s{0,3}10\s?(?:\^|\*\*)\s?[{(]?\s?(?P<power>[-+]?\d{1,2})(?!\d)\s?[})]?(?!\s?[\^(*×/])"
    r"|[eE](?P<exponent>[-+]?\d{1,2})(?![\w.^])",
    re.ASCII,
)
_EXPONENT_OF_TEN = re.compile(
    r"\s?(?:\^|\*\*)\s?[{(]?\s?(?P<power>[-+]?\d{1,2})(?!\d)\s?[})]?(?!\s?[\^(*×/])", re.ASCII
)
_GOES_ON = re.compile(r"\s?(?:\.{3}|…)")
_REPEATS = re.compile(r"\.\d*(\d)\1+\Z", re.ASCII)
_DOZEN = re.compile(r"\s{0,3}dozens?\b", re.I)
_CLOCK = re.compile(r":(?P<minutes>\d\d)(?::00)?(?!\d|:|\s?/)")
_HALF_DAY = re.compile(
    r"\s?(?:(?P<half>[ap])\.?\s?m\b\.?|(?:o'clock\s)?in\sthe\s(?:(?P<morning>morning)|afternoon|evening)\b)", re.I
)


def completed(answer: Answer, match: re.Match[str], shown: str, written: str) -> tuple[Answer, int]:
    """The answer with the words that are part of its number ("and a half", "million", "pm"), and where they end."""
    value, end = Fraction(answer.value), match.end()
    if answer.percent:
        return answer, end
    if clock := _CLOCK.match(shown, end):
        if clock["minutes"] >= "60" or value.denominator != 1 or not 0 <= value <= 24:
            raise open_answer(written, "is a time of day or a ratio")
        end = clock.end()
        if clock["minutes"] != "00":
            return _with_minutes(value, clock["minutes"], _HALF_DAY.match(shown, end), end)
    if (half := _HALF_DAY.match(shown, end)) and value.denominator == 1 and 1 <= value <= 12:
        return replace(answer, hour=_hour(value, half)), half.end()
    if clock:
        return answer, end
    if part := _AND_FRACTION.match(shown, end):
        share = Fraction(_COUNTS[part["count"].lower()], _PARTS[part["part"].lower().rstrip("s")])
        value, end = value + (-share if value < 0 else share), part.end()
    if (
        match["over"] is None
        and (goes_on := _GOES_ON.match(shown, end))
        and (repeats := _REPEATS.search(match["decimal"]))
    ):
        step = Fraction(int(repeats[1]), 9 * 10 ** len(match["decimal"].partition(".")[2]))
        return Answer(canonical(value), value, also=value - step if value < 0 else value + step), goes_on.end()
    if match["over"] is None:
        factor, end = _power_of_ten(match, shown, end)
        value *= factor
    if dozen := _DOZEN.match(shown, end):
        return Answer(canonical(value), value, also=value * 12), dozen.end()
    while scale := _SCALE.match(shown, end):
        times = _factor(scale, any(sign in match["lead"] for sign in "$€£¥₹"), written)
        if times == 1:
            break
        value, end = value * times, scale.end()
    return Answer(canonical(value), value), end


def _with_minutes(hours: Fraction, minutes: str, half: re.Match[str] | None, end: int) -> tuple[Answer, int]:
    """A time of day with minutes. It is spelled by 24 hours where the half of the day is known."""
    value = hours + Fraction(int(minutes), 60)
    if half and 1 <= hours <= 12:
        hour = _hour(value, half)
        return Answer(f"{int(hour)}:{minutes}", value, hour=hour, timed=True), half.end()
    known = value if hours > 12 or hours == 0 else None
    return Answer(f"{hours}:{minutes}", value, hour=known, timed=True), end


def _hour(value: Fraction, half: re.Match[str]) -> Fraction:
    morning = bool(half["morning"] or (half["half"] or "").lower() == "a")
    return value % 12 + (0 if morning else 12)


def _power_of_ten(match: re.Match[str], shown: str, end: int) -> tuple[Fraction, int]:
    """What a power of ten multiplies by (`× 10^6`, `e6`, `^6` after 10), and where it ends; 1 where there is none."""
    if match["lead"].strip("$ ") == "" and match["decimal"] == "10" and (power := _EXPONENT_OF_TEN.match(shown, end)):
        return Fraction(10) ** (int(power["power"]) - 1), power.end()
    if power := _POWER_OF_TEN.match(shown, end):
        return Fraction(10) ** int(power["power"] or power["exponent"]), power.end()
    return Fraction(1), end


def _factor(scale: re.Match[str], money: bool, written: str) -> int:
    """What a word or letter of scale multiplies by; 1 where the letter is a unit."""
    if scale["thousand"]:
        if not money and len(scale["thousand"]) > 1:
            raise open_answer(written, "has a letter that may be a scale or a unit")
        return 1_000
    letter = scale["money"]
    if letter and not money and letter != "bn":
        if letter == "mil" or (letter in ("M", "B") and not scale[0].startswith(" ")):
            raise open_answer(written, "has a letter that may be a scale or a unit")
        return 1
    return _SCALES[(scale["name"] or scale["sign"] or letter).lower()]
