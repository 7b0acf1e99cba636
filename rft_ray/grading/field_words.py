"""What the words and signs around a field say of it: whether its start is missing, what its numbers count. Pure."""

from __future__ import annotations

from fractions import Fraction

from rft_ray.grading.fields import Field, Number
from rft_ray.grading.numerals import canonical_digits, mixed_parts
from rft_ray.grading.quantities import (
    BREAKING_WORDS,
    CLOCK_WORDS,
    EQUALITY_WORDS,
    INEXACT_WORDS,
    OPERATOR_WORDS,
    PART_WORDS,
    SCALES,
    SPEEDS,
    UNIT_LETTERS,
    measure,
)
from rft_ray.grading.token_view import NUMBERS, TokenView, is_variable

_LIMITING = frozenset(["for", "per", "every", "each", "than", "if", "assume", "not", "all", "these", "those"])
_LEADING = frozenset(["so", "thus", "therefore", "then", "hence", "also", "entonces", "donc", "alors", "and", "we"])
"""Words that begin a clause and name nothing."""
_OPENING = _LEADING - {"also", "and", "we"}
"""Words that begin a new clause wherever they stand."""
_ARTICLES = frozenset(["the", "their", "this", "that", "a", "an"])
DASH = "a dash or a minus"
LETTERS = "letters right after a number"
NAMED_NUMBER = "a number that belongs to a name"
OF_SOMETHING = "a share of something that is no number, or a comparison"
MAX_UNIT_WORDS = 4
"""Words allowed between a number and the operator after it: `5 red apples + 3`."""
MAX_QUARTERS = 3
"""Up to this number, `quarters` may be parts of a whole; above, they are coins or terms."""
_COUNTED = frozenset(["day", "week", "month", "year", "hour", "minute", "step", "part", "page", "number"])
"""Nouns whose number comes after them: `day 1`."""
_PREPOSITIONS = frozenset(["of", "at", "every", "each", "per", "by", "for", "in", "x", "times", "de"])


def look_before(view: TokenView, index: int, side: Field, clause_has_number: bool) -> None:
    """Notes what an operator, a word or an adjacent character before a field says about its start."""
    opens = view.kinds[index] == "open"
    signed = view.kinds[index] == "op"
    kind = view.kinds[index - 1]
    before = index
    while kind == "currency":
        index -= 1
        kind = view.kinds[index - 1]
    clause_has_number &= kind != "word" or view.word(index - 1) not in _OPENING
    if kind in ("op", "power"):
        _operator_before(view, index, side)
        return
    glued = (
        index == before
        and view.glued(index)
        and kind in ("word", "number")
        and view.tokens[index - 1].text[-1:].isascii()
    )
    glued |= view.glued(index) and kind == "close"
    side.clean = not (kind in ("strange", "other", "percent", "relation") or glued)
    side.silent = kind == "relation"
    side.worded = kind == "word" and view.word(index - 1) not in _LEADING
    side.alone = not clause_has_number
    counted = kind == "close" and view.counted[index - 1] > view.counted[view.opening.get(index - 1, index - 1)]
    if counted and not view.numbers_item(index - 1):
        side.doubt = "a parenthesis before it"
    if kind == "word":
        _word_before(view, index, side, opens or signed, clause_has_number)
    elif kind in ("stop", "open"):
        _mark_before(view, index, side)


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
    side.doubt = DASH if dash else side.doubt
    algebra = before == "close" and view.holds_letter(view.opening.get(first - 1, first - 1), first - 1)
    side.clean, side.silent = dash, before == "word" or algebra


def _mark_before(view: TokenView, index: int, side: Field) -> None:
    """A stop or a parenthesis before a field that begins inside of a number or an expression.

    That is `84` in `0.8 + . 84`, `400` in `14, 400`, and `100` in `90+(100*2`, whose parenthesis does not close.
    """
    mark, before = view.tokens[index - 1].text, view.kinds[index - 2]
    if before in ("op", "power") and mark in "(." and view.kinds[index - 3] not in ("stop", "end"):
        side.clean = False
    elif mark == "," and before == "number" and view.kinds[index - 3] != "equals" and view.glued(index - 1):
        digits, earlier = view.tokens[index].text, view.tokens[index - 2].text
        if len(digits) == 3 and digits.isdecimal() and len(earlier) <= 3 and earlier.isdecimal():
            side.doubt = side.doubt or "a comma and a blank before three digits"


def _word_before(view: TokenView, index: int, side: Field, apart: bool, clause_has_number: bool) -> None:
    """The word before a field; `apart`: the field begins with a parenthesis or a sign."""
    word = view.word(index - 1)
    if word in OPERATOR_WORDS:
        side.clean = False
    side.alone &= word not in _PREPOSITIONS
    before = view.kinds[index - 2]
    named = view.tokens[index - 1].text[:1].isupper() and before in ("word", "equals", "op")
    if (
        named
        or word in _LIMITING
        or (clause_has_number and (apart or word in _PREPOSITIONS or word == "the"))
        or word in _COUNTED
        or word == "by"
        or (measure(word) and before == "number")
        or (word == "and" and before in NUMBERS and not _repeated(view, index))
        or (word == "and" and measure(view.word(index - 2)) and view.kinds[index - 3] == "number")
        or view.operator_before_words(index - 1)
    ):
        side.doubt = side.doubt or "words before it that may belong to it"


def _repeated(view: TokenView, index: int) -> bool:
    """Whether the number of `= 316 and 316 + 5` is the result before it."""
    result, again = (view.tokens[at].text.replace(",", "") for at in (index - 2, index))
    return view.kinds[index - 3] == "equals" and result == again


def begins_clause(view: TokenView, index: int) -> bool:
    """Whether nothing but an article stands before `sum of 5 and 8` in its clause."""
    before = index - (view.word(index - 1) in _ARTICLES)
    return view.kinds[before - 1] in ("stop", "end") or view.word(before - 1) in _LEADING


def clean_after(view: TokenView, index: int, linked: bool) -> bool:
    """False where the token after a field, at `index`, shows that its end is missing."""
    kind, glued = view.kinds[index], view.glued(index)
    if kind == "word" and glued and len(view.tokens[index].text) == 1:
        text = view.tokens[index].text
        return text in UNIT_LETTERS or not text.isascii()
    if kind == "op" and view.tokens[index].text == "-" and not view.glued(index + 1):
        return linked
    return not (kind in ("op", "power", "other", "number", "mixed", "relation") or (glued and kind == "strange"))


def add_mixed(text: str, side: Field) -> None:
    """Adds a mixed number or a sign for a fraction: `2 1/2`, `½`."""
    whole, fraction = mixed_parts(text)
    if whole:
        side.add(f"({whole}+{fraction})")
    else:
        side.add(f"({fraction})" if side.pieces[-1:] == ["/"] else fraction)
    side.numbers.append(Number(len(side.pieces) - 1, side.pieces[-1]))
    side.operators = True


def joins_smaller_unit(view: TokenView, index: int, words: list[str]) -> int:
    """Index of the `30` of `2 hours and 30 minutes`, after the words of the first number; 0 where it is none."""
    known = measure(words[0]) if len(words) == 1 else None
    index += view.word(index) == "and"
    other = measure(view.word(index + 1)) if known and view.kinds[index] == "number" else None
    if not known or not other or known[0] != other[0]:
        return 0
    return index if Fraction(canonical_digits(view.tokens[index].text)[0]) < known[1] / other[1] else 0


def add_remainder(view: TokenView, index: int, side: Field, divisor: str) -> int:
    """Adds the `R 3` of `27 / 4 = 6 R 3`, whose divisor is given, as `+3/4`.

    Returns the index after it, or 0 where none follows.
    """
    if view.kinds[index] not in ("word", "stop") or side.operators or side.decimals:
        return 0
    remainder = view.remainder(index)
    if remainder is None:
        return 0
    side.add("+")
    side.add(f"{remainder[0]}/{divisor}")
    side.operators = True
    return remainder[1]


def put_larger_first(side: Field) -> None:
    """Turns the difference of 5 and 8 to `8-5`; it may be meant as `5-8`."""
    first, second = side.numbers[:2]
    if Fraction(first.digits) < Fraction(second.digits):
        side.pieces.reverse()
        side.sources.reverse()
        first.piece, second.piece = second.piece, first.piece
        side.doubt = side.doubt or "a difference without its order"


def note_quotient(view: TokenView, index: int, after_unit: bool, side: Field) -> None:
    """Notes a `/` that may belong to one quantity: `÷ 1/2`, `/ 1 / 4`, `/ 200 calories/100 ml`, `12 masks/2 days`."""
    glued = view.glued(index)
    if side.pieces[-2:-1] == ["/"] and (after_unit or glued or side.pieces[-1] == "1"):
        side.quotients.append(len(side.pieces))
    if after_unit and glued and view.kinds[index + 2] == "word":
        side.doubt = side.doubt or "a rate"


def note_remark(view: TokenView, index: int, follows: bool, side: Field) -> None:
    """Notes what a remark in parentheses makes doubtful; a percentage in words computes nothing.

    `follows`: whether it comes right after a number or a parenthesis.
    """
    close = view.partner[index]
    bare = view.glued(index) and follows
    foreign = close == index + 2 and not view.tokens[index + 1].text.isascii()
    numbers = view.counted[close] > view.counted[index] and view.kinds[index + 2] != "percent"
    if numbers or (bare and not foreign):
        side.doubt = side.doubt or "a remark with numbers"
    if bare and view.holds_letter(index, close):
        side.clean, side.silent = False, True


def past_units(view: TokenView, start: int, side: Field) -> tuple[int, list[str]]:
    """Moves past units, rates and remarks after a number: `cm²`, `dollars/hour`, `(cost of a pen)`."""
    words: list[str] = []
    index = start
    while True:
        kind = view.kinds[index]
        if kind == "word" and len(words) < MAX_UNIT_WORDS:
            word = view.tokens[index].text
            lowered = word.lower()
            if lowered in EQUALITY_WORDS or lowered in BREAKING_WORDS or view.word_operator(index, bool(words)):
                break
            words.append(word)
            index = view.past_unit_power(index + 1)
        elif kind == "currency" and view.ends_operand(index):
            index += 1
        elif kind == "op" and view.tokens[index].text == "/" and view.kinds[index + 1] == "word":
            unit = view.tokens[index + 1].text
            if is_variable(unit):
                side.clean, side.silent = False, True
            if side.numbers:
                side.numbers[-1].per = unit
            index = view.past_unit_power(index + 2)
        elif kind == "open" and view.opens_remark(index):
            note_remark(view, index, index == start, side)
            index = view.partner[index] + 1
        else:
            break
    return index, words


def note_units(words: list[str], side: Field, glued: bool) -> None:
    """Notes the words after the last number of a field."""
    if not words or not side.numbers:
        return
    number = side.numbers[-1]
    first = words[0]
    if first in CLOCK_WORDS:
        side.clean, side.silent = False, True
    elif glued and first.isascii() and first.isalpha() and (len(first) == 1 or not (measure(first) or first in SCALES)):
        side.doubt, side.silent, side.letter = LETTERS, True, first
    number.scale = SCALES.get(first, SCALES.get(first.lower(), 1)) if len(first) > 1 or glued else 1
    if first.lower() in SPEEDS:
        number.unit, number.per = SPEEDS[first.lower()]
    number.unit = number.unit or first
    if "per" in words[:-1]:
        number.per = words[words.index("per") + 1]
    if "than" in words or ("of" in words and (number.percent or side.pieces[-2:-1] == ["/"])):
        side.doubt = side.doubt or OF_SOMETHING
    rated = False
    for word in words:
        lowered = word.lower()
        if len(word) == 1 and word.isascii() and word not in UNIT_LETTERS:
            side.clean, side.silent = False, True
        elif lowered in PART_WORDS:
            coins = lowered in ("quarter", "quarters") and Fraction(number.digits) > MAX_QUARTERS
            side.doubt = side.doubt or ("" if rated or coins else "a part of a whole in words")
        elif lowered in INEXACT_WORDS:
            side.clean = False
        rated = lowered == "per"
