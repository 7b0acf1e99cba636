"""The number that a short text states: a marked final answer -> Answer or None; ConflictError where it is open. Pure.

A text that starts with a number states it; in an equation it is the last side; in a sentence ("Sally has 9 books.") the
only number. What follows a number must be a unit or an explanation: `3n`, `4\\sqrt{2}`, `18, 19` or `2:30` raise.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rft_ray.grading.answer_numerals import plain_numerals
from rft_ray.grading.answer_scales import completed
from rft_ray.grading.answer_units import in_two_units
from rft_ray.grading.answer_values import Answer, ConflictError, canonical, open_answer, same_value
from rft_ray.grading.answer_words import with_digits
from rft_ray.grading.arithmetic import NotArithmeticError, OverBoundError, exact_value

_CURRENCY = r"(?:(?:(?:A|C|HK|NT|R|S|US)(?=\$)|USD?|EUR|GBP|CNY|RMB|INR|Rs\.?)\s?)?[$€£¥₹₩₽₱]*"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_VALUE = (
    rf"(?:(?P<whole>{_DIGITS}\s+(?:and\s+)?)?(?P<over>{_DIGITS})\s?/\s?(?P<under>\d+)(?!\d|[./]\d)"
    rf"|(?P<decimal>{_DIGITS}(?:\.\d+)?|\.\d+))"
    r"(?P<percent>\s?\\?%|\s?percent\b|\s?per\s?cent\b)?"
)
_NUMBER = re.compile(rf"(?P<lead>[(\[{{\s$]*(?:[-+]\s?)?{_CURRENCY}\s*(?:-\s?)?){_VALUE}", re.ASCII)
_NUMBER_INSIDE = re.compile(rf"(?<![\w.,^\\-])(?P<lead>[(\[{{]?(?:[-+]\s?)?{_CURRENCY}\s?(?:-\s?)?){_VALUE}", re.ASCII)
_LEAD_WORDS = re.compile(
    r"(?:[-=]>|[\s:'=…]|\.{2,3})*(?:(?:is|was|equals|about|approximately|approx\.?|around|roughly|exactly|only|simply|therefore|thus|indeed"
    r"|a\s+total\s+of|the\s+number|equal\s+to|~|≈)[\s:]*)*",
    re.I,
)
_MINUS_WORD = re.compile(r"(?:negative|minus)\s+(?=[$\d.])", re.I)
_CHOICE = re.compile(r"(?:(?:option|choice)\s+)?(?:\(?[A-Ja-j]\)|[A-J][.:])\s*(?=[-(\[$€£¥₹\s]*[\d.])")
_HEADING = re.compile(r"\s*\d+\s*[.):]\s+[^\W\d]")
_FIRST_STEP = re.compile(r"\s*1\s*[.):]\s+[^\W\d]")
_LABEL = (
    r"(?:step|part|option|question|problem|example|case|method|exercise|section|choice|no\.|number|page|figure|table)"
)
_LABELLED_HEADING = re.compile(rf"\W*{_LABEL}\s*#?\d", re.I)
_AFTER_LABEL = re.compile(rf"\b{_LABEL}\s*[#(]?\Z", re.I)
_BULLET = re.compile(r"\A[-+•>]\s+")
_LIST_ITEM = re.compile(r"\A\d{1,2}[.)]\s+[-$€£¥]{0,2}\d", re.ASCII)
_ARROW = re.compile(r"[-=]{1,3}>")
_INEQUALITY = re.compile(r"[<>≤≥≠]|!=")
_ITEM = re.compile(r"\A\d{1,2}[.)]\s+(?=[^A-Za-z=]*=)", re.ASCII)
_DENIAL = re.compile(
    r"\W*(?:unknown|undefined|undetermined|unclear|uncertain|impossible|none\s+of|not|neither)\b", re.I
)
_SENTENCE = re.compile(r"\D*\d.*?(?:(?<!i\.e)(?<!e\.g)\.|[!?])(?=\s|$)", re.ASCII)
_CHECK = re.compile(r"(?<=[.!?;])\s+(?:To\s+|Let's\s+|Let\s+us\s+)?(?:double-)?(?:check|verif|proof)", re.I)
_PLAIN_EXPRESSION = re.compile(r"(?:[\d\s.,$()+*/×÷-]|(?<=\s)x(?=\s)){3,80}", re.ASCII)
_ARITHMETIC = re.compile(r"[\d+*/×÷^]|(?:^|\s)[-x](?:\s|$)")
_SECOND_NUMBER = re.compile(
    r"(?<![A-Za-z0-9^_{])\d(?!\d{0,3}-[a-z]{2})|^[.,:]?\d|^[eE][-+]?\d|^\s*\^|^[-–]\s?\d", re.ASCII
)
_STOP = re.compile(r"(?:(?<!i\.e)(?<!e\.g)\.|[!?])(?:\s|$)|<\||</")
_ASIDE = re.compile(
    r"\s*(?:[,;(]|\b(?:because|since|as|so|which|where|when|given|and\s+not|instead\s+of|rather\s+than|for|after)\b)",
    re.I,
)
_LIST = re.compile(r"\s*[,;]\s*(?:(?:and|or)\s+)?[-+]?\s?[$€£¥₹]?\s?[\d.]*\d")
_PARALLEL = re.compile(r"\bfor\s+\w+(?:\s\w+)?,?\s+and\s+[$€£]?\d[\d,.]*\s+for\b|\([b-e]\)\s*[$€£]?\d", re.I)
"""`18 for Ann and 20 for Bob`, `18 (b) 20`."""
_ASSIGNMENTS = re.compile(r"(?:[,;]|\b(?:and|or)\b)\s*[A-Za-z\\][\w {}\\]{0,30}=")
_UNKNOWN = re.compile(r"\d\s?[a-z]\b|\b[a-z]\s*[-+*/^]|[-+*/^]\s*[a-z]\b", re.I)
_MATHS = re.compile(r"\\[A-Za-z]|[√π∞^]|\|\s*-|\b(?:sqrt|pi|log|ln|sin|cos|tan)\b")
_ALGEBRA = re.compile(
    r"(?![mghslLFCWVJN](?![A-Za-z]))[A-Za-z](?![A-Za-z'])|[a-cnx-z]{2,3}(?![A-Za-z])|\s?[nxyz]\s*(?:\Z|[-+*/^)\]}.,])"
    r"|\s?[rRh]\.?\s?\d|[²³⁴⁵⁶⁷⁸⁹⁰]|\.?\s*(?:\\[A-Za-z]|[√π∞^×÷*+]|sqrt\b|pi\b)|\(|\s*-\s*(?:\d|[A-Za-z](?![A-Za-z]))|\s*/\s*[a-z](?![a-z])"
    r"|\s*(?:squared|cubed|doubled|tripled|halved|factorial|halves|thirds|quarters|fourths|fifths|eighths|tenths|hundredths|thousandths"
    r"|choose|or\s+(?:more|less|fewer|above|higher|greater))\b|\s*(?:times|plus|minus|divided\s+by)\s+\S*\d",
)
_CONCLUDES = re.compile(
    r"[\s,;]*(?:and\s+)?(?:so|thus|therefore|hence|leaving|which\s+(?:leaves|means|makes))\b(?P<said>[^.!?=]{0,80}\d[\d,.]*)",
    re.I,
)
"""`18 boys, so 20 girls`."""
_AND_WORDS = re.compile(
    r"\band\s+(?:(?:a|one|two|three)[\s-]+(?:half|halves|thirds?|quarters?|fourths?)|one|two|three|four|five|six|seven"
    r"|eight|nine|ten|eleven|twelve|[a-z]+teen|twenty|thirty|forty|fifty|sixty)\b",
    re.I,
)
_ROUNDED = re.compile(
    r"\s*(?:[,(]\s*)?(?:which\s+)?(?:is\s+|(?:can|must|should)\s+be\s+)?(?:rounds?|rounded)(?:\s+(?:up|down|off))?\s+to\s+"
    r"(?:about\s+)?(?=[$€£]?\d)(?!\S+\s*(?:decimal|place|digit|significant))",
    re.I,
)
_MONTH = re.compile(
    r"\W*(?:January|February|March|April|May|June|July|August|September|October|November|December)\s+\d{1,2}(?:st|nd|rd|th)?\W*\Z"
)
_TWIN = re.compile(
    r"\s*,?\s*(?P<by>\(|\bor\b|\bi\.?e\.?(?=[\s,])|\bthat\s+is\b|\bwhich\s+is\b|≈)[\s,:(≈]*"
    r"(?:(?P<alternative>or|i\.?e\.?|that\s+is)[\s,:]*)?(?:(?:about|approximately)\s+)?(?=[-$€£¥₹.]*\d)",
    re.I,
)
_BOUND_OR_MULTIPLE = re.compile(
    r"(?:\b(?:half|thirds?|quarters?|twice|double|triple|thrice|times|than|under|between|from|not|root|square|minus)\b"
    r"(?:\s+(?:of|as|a|an|the|many|much))*|[-+*/×÷^<>≤≥])\s*\Z",
    re.I,
)
_OPENS_BOUND = re.compile(
    r"\W*(?:(?:(?:a\s+(?:little|bit)|slightly|just)\s+)?(?:at\s+(?:the\s+)?(?:least|most)|over|above|below|under|beyond|up\s+to|(?:more|less|fewer|greater|larger|smaller)\s+than)"
    r"\s+)(?=[-$€£¥₹]{0,2}[\d.])",
    re.I,
)
_CONDITION = re.compile(r"\b(?:because|since|if|when|given|assuming|for|after)\b", re.I)
_CONCLUSION = re.compile(
    r"\b(?:so|thus|therefore|hence|total|then|means|which\s+(?:is|makes|gives|equals|comes))\b|=", re.I
)
_WORDS_BETWEEN = re.compile(r"(?:\s+[A-Za-z]{2,20}){2}\s[^\d]{0,100}\d")
_HYPHENATED = re.compile(r"-[a-z]{2}", re.I)
_NUMBER_WORD = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[a-z]{3,6}teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
    r"|dozen|hundred|thousand|million)\b",
    re.I,
)
_COUNTED = re.compile(
    r"\b(?:the|these|those|all|both|his|her|their|our|its|my|your|other|first|last|next)\s+"
    r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty)\s+(?=[a-z]{3})"
    r"(?!(?:hundred|thousand|million|dozen|times|and|more|less|plus|minus)\b)",
    re.I,
)
"""A number in words that counts known things: `the two farms`, `all four kids`."""
_STATEMENT = re.compile(
    r"\b(?:is|are|was|were|be|has|have|had|will|would|can|costs?|makes?|earns?|needs?|gets?|pays?|spends?|takes?|equals?"
    r"|made|paid|got|sold|bought|spent|took|left|ran|ate|won|gave|[a-z]{2,12}ed)\b"
    r"|[:$€£¥₹]|[.!]\s*\Z",
    re.I,
)


SEVERAL_NUMBERS = "is a sentence of several numbers"
"""How the message of a ConflictError ends for a sentence of which no number is known to be the answer."""


def read_number(written: str, opener: str = "", *, decimal_comma: bool | None = False) -> Answer | None:
    """The number that a short text states: `$1,800.00 per day.` -> 1800; None if it states none.

    In an equation it is the last side; in a sentence the only number; of several sentences the first counts. `opener`
    is what precedes the text, as in `answer_marks.Mark`: after `#`, `1. Add the costs` is a heading; after `A` and `:`
    may come a whole solution, so that its last equation decides unless the text starts with a number. Without an opener
    the text is a bare answer, such as a gold's, and a sentence states none. `decimal_comma` is that of
    `plain_numerals`.
    Raises ConflictError when the text leaves the number open (`18 or 19`, `2:30`, `3n`, `18 = 19`).
    """
    shown = plain_numerals(written, decimal_comma)
    shown = shown[_LEAD_WORDS.match(shown).end() :]  # type: ignore[union-attr]
    shown = with_digits(shown) if opener else shown
    if opener in ("", "#", "A", ":") and (_HEADING if opener in ("", "#") else _FIRST_STEP).match(shown):
        return None
    if opener == "#" and _LABELLED_HEADING.match(shown):
        return None
    if opener == ".":
        shown = _BULLET.sub("", shown)
        if _LIST_ITEM.match(shown) and "=" not in shown:
            raise open_answer(written, "is an item of a list")
    shown = _MINUS_WORD.sub("-", _ITEM.sub("", _CHOICE.sub("", shown, count=1)), count=1)
    check = _CHECK.search(shown)
    shown = shown[: check.start()] if check else shown
    if decimal_comma is None and re.match(r"\D*[1-9]\d{0,2}\.\d{3}(?!\d)", shown, re.ASCII):
        raise ConflictError(f"final answer {written.strip()[:60]!r}: its point may set off thousands or decimals")
    if opener and _DENIAL.match(shown):
        return None
    if twins := in_two_units(shown) if " " in shown else None:
        return Answer(canonical(twins[0]), twins[0], also=twins[1])
    sentence = _SENTENCE.match(shown)
    first = _ARROW.sub("=", sentence.group() if sentence else shown).replace("≈", "=")
    if _INEQUALITY.search(first):
        raise open_answer(written, "is an inequality")
    if "=" in first:
        return _of_equation(first, shown.replace("≈", "="), written, opener)
    answer = _number_of(first, written, opener)
    return answer if answer or not opener else _of_sentence(first, shown, written, opener)


def numbers_in(written: str) -> list[Fraction | float]:
    """The values of all numbers of a short text."""
    matches = _NUMBER_INSIDE.finditer(plain_numerals(written))
    return [answer.value for match in matches if (answer := _answer_of(match))]


def _of_equation(first: str, shown: str, written: str, opener: str) -> Answer | None:
    """The last side of an equation, or the number before the `=` where an explanation follows it."""
    left, _, sides = first.partition("=")
    stated, explained = _stated(left)
    if opener in ("A", ":") and not stated:
        sides = shown.partition("=")[2]
    if explained:
        return stated
    if not opener and _UNKNOWN.search(left):
        raise open_answer(written, "is an equation with an unknown")
    if stated and _computes(sides, stated):
        return stated
    last = _number_of(sides.rpartition("=")[2].strip(), written, opener)
    if stated and last and "=" not in sides and "≈" in written and _is_rounding(stated, last):
        return last
    assigned = _ASSIGNMENTS.search(first)
    if assigned and last and _differs(first[: assigned.start()].rpartition("=")[2].strip(), last):
        raise open_answer(written, "holds several equations")
    if opener in ("", "#") and last and not stated and "=" in shown[len(first) :]:
        raise open_answer(written, "holds several equations")
    if stated and last and not same_value(stated, last):
        raise open_answer(written, "holds several numbers")
    return stated if stated and last and stated.percent else last or stated


_OPERATORS = str.maketrans("×x÷", "**/")


def _is_rounding(exact: Answer, rounded: Answer) -> bool:
    """Whether the second number is the first, rounded or truncated to a whole or to the decimals that it shows."""
    decimals = len(rounded.text.partition(".")[2])
    return abs(Fraction(exact.value) - Fraction(rounded.value)) < Fraction(1, 10**decimals)


def _computes(sides: str, stated: Answer) -> bool:
    """Whether an expression after the number gives it: `14 = 7 * 2`."""
    if not _PLAIN_EXPRESSION.fullmatch(sides):
        return False
    try:
        expression = sides.translate(_OPERATORS).replace(",", "").replace("$", "").strip(" .")
        return exact_value(expression) == stated.value
    except (NotArithmeticError, OverBoundError):
        return False


def _differs(side: str, last: Answer) -> bool:
    """Whether a side of an equation starts with another number than the last one."""
    match = _NUMBER.match(side)
    answer = _answer_of(match) if match else None
    return answer is not None and not same_value(answer, last)


def _of_sentence(first: str, shown: str, written: str, opener: str) -> Answer | None:
    """The only number of a sentence that doesn't start with one; None where it has none, or is a heading.

    A condition or price at its end (`if they both work 20 hours`, `for 5 apples`) is no part of it, nor are the numbers
    of names and measures (`Step 2`, `7-day`).
    """
    numbers = [match for match in _NUMBER_INSIDE.finditer(shown) if not _names_something(shown, match)]
    if _OPENS_BOUND.match(first):
        raise open_answer(written, "gives a bound or a multiple")
    if not numbers or (opener == "#" and not _STATEMENT.search(first) and not _MONTH.match(first)):
        return None
    if opener == "is" and (stop := _STOP.search(shown)) and stop.start() < numbers[0].start():
        return None
    if _MATHS.search(first) or _NUMBER_WORD.search(_COUNTED.sub("", first[: numbers[0].start()])):
        raise open_answer(written, "holds an expression or a number in words")
    if _BOUND_OR_MULTIPLE.search(first, 0, numbers[0].start()):
        raise open_answer(written, "gives a bound or a multiple")
    condition = _CONDITION.search(first, numbers[0].end())
    if condition and not _CONCLUSION.search(first, condition.end()):
        outside = (condition.start(), len(first))
        numbers = [match for match in numbers if not outside[0] <= match.start() < outside[1]]
    answers = [answer for match in numbers if (answer := _answer_of(match))]
    if any(not same_value(answers[0], answer) for answer in answers):
        raise open_answer(written, SEVERAL_NUMBERS)
    end = condition.start() if condition else len(shown)
    return _number_of(shown[numbers[0].start() : end], written, opener)


def _names_something(shown: str, match: re.Match[str]) -> bool:
    """Whether a number is that of a name or of a measure before a noun: `Step 2`, `7-day`."""
    return bool(_AFTER_LABEL.search(shown, 0, match.start()) or _HYPHENATED.match(shown, match.end()))


def _stated(side: str) -> tuple[Answer | None, bool]:
    """The number left of an `=`, None where that side is arithmetic; and whether an explanation follows it."""
    match = _NUMBER.match(side)
    if match is None or (match["under"] and not match["whole"]):
        return None, False
    tail = side[match.end() :]
    said = _without_aside(tail) if "(" not in tail else tail
    if _ARITHMETIC.search(said):
        return None, False
    return _answer_of(match), len(said) < len(tail)


def _number_of(shown: str, written: str, opener: str) -> Answer | None:
    """The number that a text starts with, or None. Raises ConflictError when what follows leaves it open."""
    match = _NUMBER.match(shown)
    if match is None:
        return None
    answer = _answer_of(match)
    if answer is None:
        return None
    answer, end = completed(answer, match, shown, written)
    tail = shown[end:]
    if (rounded := _ROUNDED.match(tail)) and (to := _NUMBER.match(tail, rounded.end())):
        again = _answer_of(to)
        if again and _is_rounding(answer, again):
            return again
    twin, length, either = _twin(tail, written)
    if twin and same_value(answer, twin):
        answer, tail = (twin if twin.percent else answer), tail[length:].lstrip(")")
    elif twin and either:
        raise open_answer(written, "holds several numbers")
    if _ALGEBRA.match(tail) or (opener == "box" and tail.startswith("!")):
        raise open_answer(written, "goes on as an expression")
    aside = _without_aside(tail)
    if _PARALLEL.search(tail):
        raise open_answer(written, "holds several numbers")
    if _SECOND_NUMBER.search(aside) or _LIST.match(tail, len(aside)) or _AND_WORDS.search(aside):
        raise open_answer(written, SEVERAL_NUMBERS if _WORDS_BETWEEN.match(aside) else "holds several numbers")
    concluded = _CONCLUDES.match(tail, len(aside))
    if concluded and any(value not in (answer.value, answer.also) for value in numbers_in(concluded["said"])):
        raise open_answer(written, SEVERAL_NUMBERS)
    return answer


def _twin(tail: str, written: str) -> tuple[Answer | None, int, bool]:
    """A second number that may restate the first (`(25%)`, ", or 8%"), where it ends, and whether "or" joins it."""
    joined = _TWIN.match(tail)
    match = _NUMBER.match(tail, joined.end()) if joined else None
    twin = _answer_of(match) if match else None
    if joined is None or match is None or twin is None:
        return None, 0, False
    either = "or" in (joined["by"].lower(), (joined["alternative"] or "").lower())
    twin, end = completed(twin, match, tail, written)
    return twin, end, either


def _without_aside(tail: str) -> str:
    """The tail of an answer up to its end: a full stop or an explanation (`because 9*2 = 18`)."""
    stop = _STOP.search(tail)
    tail = tail[: stop.start()] if stop else tail
    aside = _ASIDE.search(tail)
    return tail[: aside.start()] if aside and not re.match(r"[,;]\d", tail[aside.start() :]) else tail


def _answer_of(match: re.Match[str]) -> Answer | None:
    """The Answer of a `_NUMBER` match; None for a zero denominator."""
    if match["under"]:
        over, under = int(match["over"].replace(",", "")), int(match["under"])
        if under == 0:
            return None
        whole = (match["whole"] or "0").replace("and", "").strip()
        value = Fraction(over, under) + int(whole.replace(",", ""))
    else:
        value = Fraction(match["decimal"].replace(",", ""))
    if match["lead"].count("-") % 2:
        value = -value
    return Answer(canonical(value), value, percent=bool(match["percent"]))
