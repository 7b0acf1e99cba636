"""The final answer of a completion: completion text -> Answer or None; ConflictError where several differ.

Paper mode is the reference's rule: the first `#### <digits>`. Strict mode reads answers as models
write them: after `####`, in `\\boxed{}`, after "the answer is" or "A:", and, where none of these is
there, in bold on the last line; currency, separators, fractions, percent and units are understood.

Limits: at most `MAX_ANSWER_CHARS` characters of a final answer are read in strict mode; all scanning
is linear in the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_ANSWER_CHARS = 200
"""Number of characters of one final answer that strict mode reads."""
MAX_ANSWERS = 100
"""Largest number of final answers in one completion that strict mode compares."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer. Votes (maj@k) are counted on `text`.

    Example: Answer("1800", Fraction(1800), percent=False) for `#### $1,800.00` in strict mode
    """

    text: str
    """Paper: the reference's string (commas removed). Strict: canonical, `18`, `0.5` or `1/3`."""
    value: Fraction | float
    """Paper: `float(text)`. Strict: the exact value as written, so 50 for `50%`."""
    percent: bool = False
    """Whether it was written as a percentage (strict mode only)."""


class ConflictError(ValueError):
    """Several final answers that differ, or one that holds several numbers: any choice among them would be a guess."""


_PAPER = re.compile(r"#### (-?[0-9.,]+)")


def paper_answer(text: str) -> Answer | None:
    """Answer by the reference's rule: the first `#### <number>` before any NUL, or None.

    The first match decides: if it is not a number (`1.2.3`), later ones are not read.
    """
    nul = text.find("\0")
    match = _PAPER.search(text if nul < 0 else text[:nul])
    if match is None:
        return None
    written = match.group(1)
    return _cached_paper_number(written) if len(written) <= MAX_ANSWER_CHARS else _paper_number(written)


def _paper_number(written: str) -> Answer | None:
    number = written.replace(",", "")
    try:
        return Answer(number, float(number))
    except ValueError:
        return None


_cached_paper_number = lru_cache(maxsize=4_096)(_paper_number)

_UNICODE = str.maketrans(
    {
        "−": "-", "‐": "-", "‑": "-", "–": "-", "﹣": "-", "－": "-",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "⁄": "/", "∕": "/", "％": "%", "＄": "$",
        "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅕": " 1/5", "⅛": " 1/8",
    }
)  # fmt: skip
_MARKS = re.compile(r"\\[\[\]()!,;:]|\\(?:left|right|displaystyle|quad)\b|[*_`~]+|\\(?=[$%])")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d[\d,]*)\s*\}\s*\{\s*(\d[\d,]*)\s*\}", re.ASCII)
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_BOXED = re.compile(r"\\boxed\s*\{")
_SIGN_AND_CURRENCY = r"[(\[{\s]*(?:-\s?)?(?:(?:US|USD|Rs\.?)\s?)?[$€£¥₹]*\s*(?:-\s?)?"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<lead>{_SIGN_AND_CURRENCY})"
    rf"(?:(?P<whole>{_DIGITS}\s+)?(?P<over>{_DIGITS})\s?/\s?(?P<under>\d+)(?![\d./])"
    rf"|(?P<decimal>{_DIGITS}(?:\.\d+)?|\.\d+))"
    r"(?P<percent>\s?%|\s?percent\b)?",
    re.ASCII,
)
_HEADING = re.compile(r"\s*\d+\s*[.):]\s+[^\W\d]")
_FIRST_STEP = re.compile(r"\s*1\s*[.):]\s+[^\W\d]")
_ITEM = re.compile(r"\A\d{1,2}[.)]\s+(?=[^A-Za-z=]*=)", re.ASCII)
_SENTENCE = re.compile(r"\D*\d.*?[.!?](?=\s|$)", re.ASCII)
_ARITHMETIC = re.compile(r"[\d+*/×÷^]|(?:^|\s)[-x](?:\s|$)")
_SECOND_NUMBER = re.compile(r"(?<![A-Za-z0-9^_{])\d|^[.,:]?\d|^[eE][-+]?\d|^\s*\^|^[-–]\s?\d", re.ASCII)
_ASIDE = re.compile(r"\s*(?:[,;(]|\b(?:because|since|as|so|which|where|when|given|and\s+not|for|after)\b)", re.I)
_LEAD_WORDS = re.compile(
    r"[\s:]*(?:(?:is|was|equals|about|approximately|approx\.?|exactly|only|simply|therefore|a\s+total\s+of|equal\s+to|~|≈)[\s:]*)*",
    re.I,
)


def read_number(written: str, opener: str = "#") -> Answer | None:
    """The number that a short text states: `$1,800.00 per day.` -> 1800; None if it states none.

    In an equation it is the last side (`9*2 = 18`); of several sentences, only the first is read. `opener` is what
    precedes the text, as in `_Claim`: after `#`, `1. Add the costs` is a heading; after `A` and `:` may come a whole
    solution, so that its last equation decides unless the text starts with a number.
    Raises ConflictError when the text holds several numbers (`18 or 19`, `5:30`, `18 = 19`).
    """
    written = _ANNOTATION.sub("", written)
    shown = _MARKS.sub(" ", _TEXT.sub(r" \1 ", _FRAC.sub(r" \1/\2 ", written.translate(_UNICODE)))).strip()
    shown = shown[_LEAD_WORDS.match(shown).end() :]  # type: ignore[union-attr]
    if (_HEADING if opener == "#" else _FIRST_STEP).match(shown) and opener in ("#", "A", ":"):
        return None
    shown = _ITEM.sub("", shown)
    sentence = _SENTENCE.match(shown)
    first, equals, sides = (sentence.group() if sentence else shown).partition("=")
    if not equals:
        return _number_of(first, written)
    stated, explained = _stated(first)
    if opener in ("A", ":") and not stated:
        sides = shown.partition("=")[2]
    if explained:
        return stated
    last = _number_of(sides.rpartition("=")[2], written)
    if stated and last and stated.value != last.value:
        raise ConflictError(f"final answer {written.strip()[:60]!r} holds several numbers")
    return last or stated


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


def _number_of(shown: str, written: str) -> Answer | None:
    """The number that a text starts with, or None. Raises ConflictError when the text holds another one."""
    match = _NUMBER.match(shown)
    if match is None:
        return None
    if _SECOND_NUMBER.search(_without_aside(shown[match.end() :])):
        raise ConflictError(f"final answer {written.strip()[:60]!r} holds several numbers")
    return _answer_of(match)


def _without_aside(tail: str) -> str:
    """The tail of an answer up to its end: a full stop or an explanation (`because 9*2 = 18`)."""
    stop = re.search(r"[.!?](?:\s|$)", tail)
    tail = tail[: stop.start()] if stop else tail
    aside = _ASIDE.search(tail)
    return tail[: aside.start()] if aside and not re.match(r"[,;]\d", tail[aside.start() :]) else tail


def _answer_of(match: re.Match[str]) -> Answer | None:
    """The Answer of a `_NUMBER` match; None for a zero denominator."""
    if match["under"]:
        over, under = int(match["over"].replace(",", "")), int(match["under"])
        if under == 0:
            return None
        value = Fraction(over, under) + int((match["whole"] or "0").strip().replace(",", ""))
    else:
        value = Fraction(match["decimal"].replace(",", ""))
    if match["lead"].count("-") % 2:
        value = -value
    return Answer(canonical(value), value, percent=bool(match["percent"]))


def canonical(value: Fraction) -> str:
    """One spelling per value: `18`, `-0.25`, and `1/3` where no finite decimal is equal."""
    twos = fives = 0
    rest = value.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1 or value.denominator == 1:
        return str(value)
    digits = max(twos, fives)
    scaled = str(abs(value.numerator) * 10**digits // value.denominator).rjust(digits + 1, "0")
    return f"{'-' if value < 0 else ''}{scaled[:-digits]}.{scaled[-digits:]}"


_HASHES = re.compile(r"#{4,}")
_PHRASE = re.compile(
    r"\banswer\b[ \t]{0,2}(?:(?:to|for)\b[^\n.:=]{0,80}?)?[*_ \t]{0,4}(?P<by>[:=]|\bis\b)[ \t]{0,2}[:=]?"
    r"|^[ \t*_]{0,8}(?P<a>A)[*_]{0,2}:[*_]{0,2}",
    re.I | re.M,
)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")


def strict_answer(text: str) -> Answer | None:
    """The final answer of a completion in any of the forms that models write, or None.

    Raises ConflictError when several final answers differ.
    """
    answers: dict[Fraction | float, Answer] = {}
    claims = _candidates(text)
    if len(claims) > MAX_ANSWERS:
        raise ConflictError(f"{len(claims)} final answers, bound {MAX_ANSWERS}")
    for written, opener in claims:
        if len(written) > MAX_ANSWER_CHARS and written[:MAX_ANSWER_CHARS].strip(" \t$-").isdigit():
            raise ConflictError(f"final answer of more than {MAX_ANSWER_CHARS} digits (bound)")
        answer = read_number(written[:MAX_ANSWER_CHARS], opener)
        if answer is not None:
            answers.setdefault(answer.value, answer)
    if len(answers) > 1:
        raise ConflictError(f"final answers differ: {', '.join(a.text for a in list(answers.values())[:4])}")
    return next(iter(answers.values()), None)


class _Claim(NamedTuple):
    """A place in the text that is marked as the final answer.

    Example: _Claim(40, 54, "is", " 18 apples.") for `The answer is 18 apples.`
    """

    start: int
    end: int
    opener: str
    """`#`, `box`, `is`, `:`, `=` (after `answer`) or `A` (`A:` at the beginning of a line)."""
    written: str
    """The rest of the line, up to one character more than is read."""


def _candidates(text: str) -> list[tuple[str, str]]:
    """Texts that are marked as the final answer, each with its opener.

    Where other claims follow, `A:` and `Answer:` before an equation open the solution that ends in them, and so does
    `A:` with another claim on its line. Bold on the last line counts only without others.
    """
    claims = [claim for claim in sorted(_claims(text)) if _has_digit(claim.written)]
    candidates: list[tuple[str, str]] = []
    for claim, after in itertools.zip_longest(claims, claims[1:]):
        written, opener = claim.written, claim.opener
        if after and opener in ("A", ":"):
            on_line = text.find("\n", claim.end, after.start) < 0
            written = text[claim.end : after.start][: MAX_ANSWER_CHARS + 1] if on_line else written
            if "=" in written or (on_line and opener == "A"):
                continue
            opener = "is" if on_line else opener
        candidates.append((written, opener))
    if not candidates and "**" in text:
        candidates = [(bold, "**") for bold in _BOLD.findall(text.rstrip().rpartition("\n")[2]) if _has_digit(bold)]
    return candidates


def _claims(text: str) -> Iterator[_Claim]:
    if "####" in text:
        for match in _HASHES.finditer(text):
            yield _Claim(match.start(), match.end(), "#", _line(text, match.end()))
    if "\\boxed" in text:
        for match in itertools.islice(_BOXED.finditer(text), MAX_ANSWERS + 1):
            yield _Claim(match.start(), match.end(), "box", _braced(text, match.end()))
    for match in _PHRASE.finditer(text):
        opener = "A" if match["a"] else match["by"].lower()
        yield _Claim(match.start(), match.end(), opener, _line(text, match.end()))


def _line(text: str, start: int) -> str:
    return text[start : start + MAX_ANSWER_CHARS + 1].partition("\n")[0]


def _has_digit(line: str) -> bool:
    return bool(re.search(r"[\d½¼¾⅓⅔⅕⅛]", line[:MAX_ANSWER_CHARS]))


def _braced(text: str, start: int) -> str:
    """The text between an open brace and the one that closes it, at most MAX_ANSWER_CHARS + 1 characters."""
    depth = 1
    for end in range(start, min(len(text), start + MAX_ANSWER_CHARS + 1)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return ""
