"""What the words and signs around a field say of it: whether its start is missing, what its numbers count. Pure."""

from __future__ import annotations

from rft_ray.grading.fields import Field
from rft_ray.grading.quantities import (
    CLOCK_WORDS,
    INEXACT_WORDS,
    OPERATOR_WORDS,
    SCALES,
    SPEEDS,
    UNIT_LETTERS,
    measure,
)
from rft_ray.grading.token_view import NUMBERS, TokenView

_LIMITING = frozenset(["for", "per", "every", "each", "than", "if", "assume", "not", "all", "these", "those"])
_LEADING = frozenset(["so", "thus", "therefore", "then", "hence", "also", "entonces", "donc", "alors", "and", "we"])
"""Words that begin a clause and name nothing."""
OF_SOMETHING = "a share of something that is no number, or a comparison"
_PREPOSITIONS = frozenset(["of", "at", "every", "each", "per", "by", "for", "in", "x", "times", "de"])


def look_before(view: TokenView, index: int, side: Field, clause_has_number: bool) -> None:
    """Notes what an operator, a word or an adjacent character before a field says about its start."""
    opens = view.kinds[index] == "open"
    signed = view.kinds[index] == "op"
    kind = view.kinds[index - 1]
    while kind == "currency":
        index -= 1
        kind = view.kinds[index - 1]
    if kind in ("op", "power"):
        _operator_before(view, index, side)
        return
    glued = view.glued(index) and kind in ("word", "number") and view.tokens[index - 1].text[-1:].isascii()
    glued |= view.glued(index) and kind == "close"
    side.clean = not (kind in ("strange", "other", "percent", "relation") or glued)
    side.worded = kind == "word" and view.word(index - 1) not in _LEADING
    side.alone = not clause_has_number
    if kind == "close" and view.counted[index - 1] > view.counted[view.opening.get(index - 1, index - 1)]:
        side.doubt = "a parenthesis before it"
    if kind == "word":
        _word_before(view, index, side, opens or signed, clause_has_number)


def _operator_before(view: TokenView, index: int, side: Field) -> None:
    """An operator before a field: its start is missing, unless the operator begins the line."""
    first = index - 1
    while view.kinds[first - 1] == "op" and index - first < 5:
        first -= 1
    before = view.kinds[first - 1]
    side.alone = False
    if before in ("stop", "end"):
        return
    dash = before == "word" and view.tokens[index - 1].text == "-" and not view.glued(index)
    side.doubt = "a dash or a minus" if dash else side.doubt
    side.clean, side.silent = dash, before == "word"


def _word_before(view: TokenView, index: int, side: Field, apart: bool, clause_has_number: bool) -> None:
    """The word before a field; `apart`: the field begins with a parenthesis or a sign."""
    word = view.word(index - 1)
    if word in OPERATOR_WORDS or word == "by":
        side.clean = False
    side.alone &= word not in _PREPOSITIONS
    before = view.kinds[index - 2]
    named = view.tokens[index - 1].text[:1].isupper() and before in ("word", "equals", "op")
    if (
        named
        or word in _LIMITING
        or (clause_has_number and (apart or word in _PREPOSITIONS))
        or (measure(word) and before == "number")
        or (word == "and" and before in NUMBERS and not _repeated(view, index))
        or (word == "and" and measure(view.word(index - 2)) and view.kinds[index - 3] == "number")
        or view.operator_before_words(index - 1)
    ):
        side.doubt = side.doubt or "words before it that may belong to it"


def _repeated(view: TokenView, index: int) -> bool:
    """Whether the number of `= 316 and 316 + 5` is the result before it."""
    return view.kinds[index - 3] == "equals" and view.tokens[index - 2].text == view.tokens[index].text


def note_units(words: list[str], side: Field, glued: bool) -> None:
    """Notes the words after the last number of a field."""
    if not words or not side.numbers:
        return
    number = side.numbers[-1]
    first = words[0]
    if first in CLOCK_WORDS:
        side.clean, side.silent = False, True
    elif glued and first.isascii() and first.isalpha() and (len(first) == 1 or not (measure(first) or first in SCALES)):
        side.doubt, side.silent = "letters right after a number", True
    number.scale = SCALES.get(first, SCALES.get(first.lower(), 1)) if len(first) > 1 or glued else 1
    if first.lower() in SPEEDS:
        number.unit, number.per = SPEEDS[first.lower()]
    number.unit = number.unit or first
    if "per" in words[:-1]:
        number.per = words[words.index("per") + 1]
    if "than" in words or ("of" in words and (number.percent or side.pieces[-2:-1] == ["/"])):
        side.doubt = side.doubt or OF_SOMETHING
    for word in words:
        if len(word) == 1 and word.isascii() and word not in UNIT_LETTERS:
            side.clean, side.silent = False, True
        elif word.lower() in INEXACT_WORDS:
            side.clean = False
