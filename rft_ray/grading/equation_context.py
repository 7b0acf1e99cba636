"""What the words around an equation say of it: that it is rounded, asked or taken back. Pure.

Each look goes over at most `NEAR` characters on either side, and is made only for an equation that does not
hold exactly.
"""

from __future__ import annotations

import re
from fractions import Fraction

NEAR = 300
"""Characters that are looked at before and after an equation."""
_LINE_END = r"\\n(?!e\b|eq|u\b|abla|ot\b|i\b|mid)"
"""The two characters that end a line of a JSON text."""
_SENTENCE_END = re.compile(rf"[.!?](?=[\s*\"')\]]|{_LINE_END}|$)|\n|{_LINE_END}|[。！？]")

_ROUGH_GAP = re.compile(
    r"[≈≃≅~]|\\(?:approx|simeq)|\b(?:about|around|approx\w*|roughly|nearly|almost|rounded|rounds?)\b", re.IGNORECASE
)
_ROUGH_BEFORE = re.compile(
    r"(?:[≈~]|\b(?:about|around|approx\w*|roughly|nearly|almost))[\s*$\\(]{0,6}(?:<<)?\Z", re.IGNORECASE
)
_ROUGH_SENTENCE = re.compile(
    r"≈|\\approx|\b(?:approx\w*|roughly|nearest|whole numbers?|rounded|rounding|at most)\b"
    r"|\bround(?:s|ed|ing)?\s(?:\w+\s){0,4}(?:up|down|off|to)\b"
    r"|\b(?:number of|how many|only) (?:full|complete|whole)\b(?![ -](?:price|time))",
    re.IGNORECASE,
)
_WHOLE_THINGS = r"[\s*$\\)]{0,4}(?:[^\W\d]+ )?(?:full|complete|whole)\b(?![ -](?:price|time))"
_WHOLE_RESULT = re.compile(rf"[\s*$\\(]{{0,8}}(\d[\d,]{{0,20}})(?:>>\W{{0,4}}\1)?({_WHOLE_THINGS})?", re.IGNORECASE)
"""A result, and whether it counts whole things: `3 full boxes`."""
_WHOLE_LABEL = re.compile(r"\b(?:full|complete|whole) [^\W\d]+s[\s*]{0,3}[:=][\s*$\\(]{0,6}(?:<<)?\Z", re.IGNORECASE)
"""Before the equation: `Full boxes: 10 / 3 = 3`."""
_REST = r"\$?(\d{1,15}(?:\.\d{1,4})?)"
_REMAINS = re.compile(
    r"\b(?:remainder|left[ -]?over|remaining)(?: (?!(?:for|by|to|in|on|at|after|among|until)\b)[^\W\d]+)?"
    rf"(?: is| are| of| was| =|:)? (?:[\d $*x×+-]{{1,20}}= ?)?{_REST}\b"
    rf"|(?<![\d.]){_REST}(?: [^\W\d]+){{0,2}} (?:left[ -]?over|remaining)\b"
    rf"|\bwith {_REST}(?: [^\W\d]+){{0,2}} left\b",
    re.IGNORECASE,
)
"""A remainder with its number."""
_ROUGH_NEIGHBOUR = re.compile(
    r"\b(?:nearest|whole numbers?|rounded|rounding)\b|\bround(?:s|ed|ing)?\s(?:\w+\s){0,4}(?:up|down|off|to)\b",
    re.IGNORECASE,
)
_ANNOTATED_DECIMAL = re.compile(r"\.\d+>>")
_FRACTION_AFTER = re.compile(
    r"\s{0,2}(?:\w+\s)?(?:and (?:a (?:half|third|quarter)\b|\(?\$?\d+/\d)|r(?:emainder)? ?\d)", re.I
)
_IT = r"\b(?:that|this|which|it)"
_IS = r"(?:\b(?:is|was|looks|seems)|['’]s)"
_TAKEN_BACK = re.compile(
    rf"{_IT}(?:['’]s| is| was| isn['’]t| looks| seems)? (?:\w+ )?(?:wrong|incorrect|not (?:right|correct)|mistaken)\b"
    rf"|{_IS} (?:\w+ )?(?:incorrect|not (?:right|correct))\b|\b(?:is|was)n['’]t (?:\w+ )?(?:right|correct)\b"
    rf"|(?:{_IT}(?: \w+)?|\b(?:equation|calculation|result)) should (?:\w+ )?(?:be|have been)\b"
    r"(?! (?:more than )?(?:enough|sufficient|plenty|fine|done|ready|able|good|fun|there)\b)"
    rf"|(?:{_IS} (?:\w+ )?(?:an?|my|our|the)|\b(?:my|our)) (?:\w+ )?mistake\b"
    r"|\b(?:i|we)(?:['’]ve| have)? made (?:an?|the) (?:\w+ )?mistake\b"
    r"|\bmistake (?:here|above|in (?:the|my|our|this|that) (?:\w+ )?(?:calculation|equation|computation|step)s?)\b"
    r"|\A\W{0,8}(?:(?:an? )?mistake|incorrect|wrong|not (?:right|correct)|should (?:be|have been) \W{0,4}\d)"
    r"|\b(?:miscalculat\w+|correction|let me (?:correct|redo|fix)|i must correct|oops|scratch that)\b",
    re.IGNORECASE,
)
"""Says of an equation that it is wrong; at the beginning also without naming it: `= 8 (incorrect)`."""
_SECOND_THOUGHT = re.compile(
    r"\b(?:(?:wait|hold on|actually|hmm+|sorry|let me (?:re\w+|check|double)|let['’]s (?:re\w+|check))\b|no,)",
    re.IGNORECASE,
)


def says_rounded(text: str, start: int, gap: tuple[int, int], end: int, divisor: Fraction = Fraction()) -> bool:
    """Whether the words at an equation say that its right side is rounded, or name what remains.

    `gap` is the text between its sides. A word in the same sentence may say so, or that one before or after it.
    `divisor`: that of a quotient which is shown too small, so that less than it may remain; 0 where none is.
    """
    if _ROUGH_GAP.search(text, *gap) or _ROUGH_BEFORE.search(text[max(0, start - 30) : start]):
        return True
    between = text[gap[0] : gap[1]]
    if "<<" in between and _ANNOTATED_DECIMAL.search(between):
        return True
    if _FRACTION_AFTER.match(text, end, end + 60):
        return True
    before = _last_sentences(text, start)
    after = _next_sentences(text, end)
    sentence = f"{before[0]} {text[start:end]}{after[0]}"
    following = after[1].partition("=")[0]  # a word after an equation belongs to that one
    return bool(
        _ROUGH_SENTENCE.search(sentence)
        or _ROUGH_NEIGHBOUR.search(before[1])
        or _ROUGH_NEIGHBOUR.search(following)
        or _counts_whole_things(text, gap[1], before[0])
        or any(0 < Fraction(next(filter(None, named.groups()))) < divisor for named in _REMAINS.finditer(after[0]))
    )


def _counts_whole_things(text: str, start: int, before: str) -> bool:
    """Whether the result at a position counts whole things, as its words or those before the equation say."""
    if _WHOLE_LABEL.search(before):
        return True
    result = _WHOLE_RESULT.match(text, start)
    if not result:
        return False
    return bool(result[2] or re.search(rf"(?<![\d.,]){result[1]}{_WHOLE_THINGS}", before, re.IGNORECASE))


def is_asked(text: str, end: int) -> bool:
    """Whether a question mark follows: `3 + 4 = 8?`."""
    return text[end : end + 30].lstrip(" *)$\\").startswith(("?", "？"))


def says_wrong(text: str, end: int) -> bool:
    """Whether the sentence after an equation, or the rest of its own, calls it wrong."""
    own, following = _next_sentences(text, end)
    return bool(_TAKEN_BACK.search(own) or _TAKEN_BACK.search(following))


def second_thought(text: str, end: int, later: int) -> bool:
    """Whether the text between two equations hesitates: `wait`, `actually`, `let me check`."""
    between = text[end : min(later, end + 2 * NEAR)]
    return bool(_SECOND_THOUGHT.search(between) or _TAKEN_BACK.search(between))


def _last_sentences(text: str, start: int) -> tuple[str, str]:
    """The part of its sentence before a position, and the sentence before that; within NEAR characters."""
    near = text[max(0, start - NEAR) : start]
    ends = [match.end() for match in _SENTENCE_END.finditer(near)]
    own = ends[-1] if ends else 0
    earlier = next((end for end in reversed(ends[:-1]) if near[end:own].strip(" .!?\n*#-")), 0)
    return near[own:], near[earlier:own]


def _next_sentences(text: str, end: int) -> tuple[str, str]:
    """The rest of its sentence after a position, and the sentence after that; within NEAR characters."""
    near = text[end : end + NEAR]
    ends = (match.end() for match in _SENTENCE_END.finditer(near))
    own = next(ends, len(near))
    later = next((stop for stop in ends if near[own:stop].strip(" .!?\n*#-")), len(near))
    return near[:own], near[own:later]
