"""Questions about the tokens of a text by index: what kind, whether an operand starts there, what a word stands for.

All answers are found in constant time or from a fixed number of neighbours. Indices past the end are of kind "end".
"""

from __future__ import annotations

from itertools import accumulate

from rft_ray.grading.prose_tokens import Token
from rft_ray.grading.quantities import (
    BY,
    BY_WORDS,
    EQUALITY_WORDS,
    INEXACT_WORDS,
    LIST_NAMES,
    MULTIPLES,
    OPERATOR_WORDS,
    PERCENT_WORDS,
    REMAINDER_WORDS,
    RESTATING_WORDS,
    SHARES,
    UNIT_LETTERS,
)

MAX_NAME_WORDS = 5
"""Words allowed between an operator and the number after it: `+ Bea has 6`."""
MAX_LISTED = 6
"""Numbers of `the sum of 3, 4 and 5` that are read."""
MAX_NEAR = 10
"""Tokens after a half-read expression in which its equality is looked for."""
NUMBERS = ("number", "mixed")
MAX_LINK_WORDS = 4
"""Words allowed on either side of `=`: `5 * 3 dollars = a total of 15`."""
MAX_LONG_LINK_WORDS = 8
"""Words before `=` with which an equation is read, and is doubtful."""
MAX_REMARK = 12
"""Tokens of a remark in parentheses that are looked at."""
_AFTER_IS = frozenset(["equal", "to", "a", "an", "total", "of", "about", "approximately", "igual", "à", "exactly"])


class TokenView:
    """The tokens of one text, with what is known of each index."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.kinds = [token.kind for token in tokens] + ["end"] * 4  # so that indices -1 and -2 are "end" too
        enclosed = "open" in self.kinds or "close" in self.kinds
        self.partner = _matching_parentheses(tokens) if enclosed else {}
        self.opening = {close: opening for opening, close in self.partner.items()}
        self.counted = list(accumulate((kind in NUMBERS for kind in self.kinds), initial=0)) if enclosed else []
        """Numbers before each index; empty where no parenthesis asks for it."""
        self._operand_at = self._find_operands()

    def equality_ahead(self) -> list[bool]:
        """For every token, whether an equality or a word for it stands at it or after it in its clause."""
        ahead = [False] * (len(self.tokens) + 1)
        found = False
        for index in range(len(self.tokens) - 1, -1, -1):
            kind, text = self.tokens[index][:2]
            if kind == "word":
                found = found or text.lower() in EQUALITY_WORDS
            elif kind == "equals":
                found = True
            elif kind == "stop":
                found = False
            ahead[index] = found
        return ahead

    def equals_near(self, index: int) -> bool:
        """Whether an equality with a number after it follows in the same clause, a few tokens on."""
        near = self.kinds[index : index + MAX_NEAR]
        end = near.index("stop") if "stop" in near else len(near)
        equals = near.index("equals") if "equals" in near else end
        if not any(kind in NUMBERS for kind in near[equals:end]):
            return False
        return not any(self.word(at) in RESTATING_WORDS for at in range(index, index + equals))

    def equals_letter(self, index: int) -> bool:
        """Whether a letter of algebra stands after the next sign of equality, a few tokens on: `= x / 18`."""
        near = self.kinds[index : index + MAX_NEAR]
        after = index + near.index("equals") + 1 if "equals" in near else index
        after += self.kinds[after] == "open"
        return self.kinds[after] == "word" and is_variable(self.tokens[after].text)

    def opens_remark(self, index: int) -> bool:
        """Whether a parenthesis holds words that are no part of the arithmetic: `(cost of a pen)`."""
        return index in self.partner and (not self.starts_operand(index + 1) or self.is_remark(index))

    def is_remark(self, index: int) -> bool:
        """Whether a parenthesis after a blank says a number in words, `(20% increase)`, and computes nothing."""
        close = self.partner.get(index, 0)
        inside = self.kinds[index + 1 : close]
        if not 2 < close - index < MAX_REMARK or self.glued(index) or "word" not in inside:
            return False
        if "op" in inside or "power" in inside or "open" in inside:
            return False
        return not any(self.word(at) in OPERATOR_WORDS for at in range(index + 1, close))

    def holds_letter(self, opening: int, close: int) -> bool:
        """Whether one of the first tokens between two parentheses is a letter of algebra: `(a - 4)`."""
        return any(
            len(word := self.word(at)) == 1 and word.isascii()
            for at in range(opening + 1, min(close, opening + MAX_REMARK))
        )

    def ends_operand(self, index: int) -> bool:
        """Whether a currency sign belongs to what is before it, as in `5$`, or is LaTeX's mark."""
        return self.glued(index) and not (self.starts_operand(index + 1) and self.glued(index + 1))

    def starts_operand(self, index: int) -> bool:
        return index < len(self._operand_at) and self._operand_at[index]

    def _find_operands(self) -> list[bool]:
        """For every token, whether an operand starts there: signs, `$` and `(` may precede its number."""
        starts = [False] * (len(self.tokens) + 1)
        for index in range(len(self.tokens) - 1, -1, -1):
            kind = self.tokens[index].kind
            if kind == "currency" or (kind == "open" and index in self.partner) or self.is_sign(index):
                starts[index] = starts[index + 1]
            else:
                starts[index] = kind in NUMBERS
        return starts

    def multiplier(self, index: int) -> tuple[str, int] | None:
        """`half of 10`, `twice 5`: the factor, and the index of the number; None for other words."""
        first = self.tokens[index].text.lower()
        if first in MULTIPLES and self.starts_operand(index + 1):
            return MULTIPLES[first], index + 1
        if first not in ("a", "one", "two", "three", "half") and "-" not in first:
            return None
        end = index + 1
        words = first
        if words not in SHARES and self.kinds[end] == "word":
            words, end = f"{first} {self.tokens[end].text.lower()}", end + 1
        if words in SHARES and self.word(end) == "of" and self.starts_operand(end + 1):
            return SHARES[words], end + 1
        return None

    def starts_field(self, index: int) -> bool:
        """Whether an expression can start there."""
        kind = self.kinds[index]
        if kind in NUMBERS:
            return True
        if kind == "word":
            named = self.tokens[index].text in LIST_NAMES
            return self.multiplier(index) is not None or (named and bool(self.listed(index)))
        if kind == "open":
            return index in self.partner and self.starts_operand(index + 1)
        return kind == "op" and self.is_sign(index) and self.starts_operand(index + 1)

    def after_equality(self, index: int) -> int:
        """Index of the number after `equals`, `is`, `is equal to`; 0 where none follows."""
        index += 1
        start = index
        while self.word(index) in _AFTER_IS and index - start < MAX_LINK_WORDS:
            index += 1
        if self.kinds[index] == "currency":
            index += 1
        return index if self.starts_field(index) else 0

    def listed(self, index: int) -> list[int]:
        """Indices of the numbers of `sum of 5, 8 and 2`, whose name is at `index`; empty where it is none."""
        if self.tokens[index].text not in LIST_NAMES or self.word(index + 1) not in ("of", "between"):
            return []
        operands: list[int] = []
        index, last = index + 2, False
        while len(operands) < MAX_LISTED:
            index += self.kinds[index] == "currency"
            if self.kinds[index] != "number":
                return []
            operands.append(index)
            index += 1
            if last:
                return operands
            while self.kinds[index] == "word" and self.word(index) != "and" and index - operands[-1] <= 2:
                index += 1
            index += self.tokens[index].text == "," if self.kinds[index] == "stop" else 0
            last = self.word(index) == "and"
            index += last
        return []

    def remainder(self, index: int) -> tuple[str, int] | None:
        """`boxes, with a remainder of 3`, `R 3`: the digits, and the index after them; None where none follows."""
        end = index + 2
        while self.kinds[index] == "word" and self.tokens[index].text not in REMAINDER_WORDS and index < end:
            index += 1
        index += self.kinds[index] == "stop" and self.tokens[index].text == ","
        for word in ("with", "a"):
            index += self.word(index) == word
        if self.kinds[index] != "word" or self.tokens[index].text not in REMAINDER_WORDS:
            return None
        index += 1
        index += self.word(index) in ("of", "de", "von")
        if self.kinds[index] != "number" or not self.tokens[index].text.isdecimal() or self.kinds[index + 1] == "op":
            return None
        return self.tokens[index].text, index + 1

    def numbers_item(self, close: int) -> bool:
        """Whether the parentheses that end at `close` number the line that they begin: `(7) 2 + 3 = 5`."""
        opening = self.opening.get(close, close)
        before = self.tokens[opening - 1].text if opening else "\n"
        return close == opening + 2 and before[0] in '\n"' and not self.glued(close + 1)

    def word(self, index: int) -> str:
        return self.tokens[index].text.lower() if self.kinds[index] == "word" else ""

    def is_sign(self, index: int) -> bool:
        """A minus that belongs to the number right after it: `-5`, `-$5`, `-(`, not `- 5`; a first plus."""
        if self.kinds[index] != "op":
            return False
        signs = "+-" if self.kinds[index - 1] in ("end", "equals", "open", "op") else "-"
        return (
            self.tokens[index].text in signs
            and self.kinds[index + 1] in ("number", "mixed", "currency", "open")
            and self.glued(index + 1)
        )

    def glued(self, index: int) -> bool:
        """Whether a token follows the one before it without white space."""
        return 0 < index < len(self.tokens) and self.tokens[index - 1].end == self.tokens[index].start

    def after_percent(self, index: int) -> int:
        """Index after a percent sign or word at `index`; 0 where there is none, or where it is a modulo."""
        if self.kinds[index] == "percent":
            number = self.kinds[index + 1] in ("number", "mixed", "open") and self.starts_operand(index + 1)
            modulo = number and (self.glued(index + 1) or not self.glued(index))
            return 0 if modulo else index + 1
        word = self.word(index)
        if word in PERCENT_WORDS:
            return index + 1
        if word in ("per", "por", "pour") and self.word(index + 1) in ("cent", "ciento"):
            return index + 2
        return 0

    def past_name(self, index: int) -> int:
        """Index of the operand after the words of a name (`+ Bea has 6`), or 0."""
        start = index
        while self.kinds[index] == "word" and index - start < MAX_NAME_WORDS:
            if self.multiplier(index) is not None:
                return index
            word = self.tokens[index].text
            if len(word) == 1 or word.lower() in EQUALITY_WORDS or word.lower() in INEXACT_WORDS:
                return 0
            index += 1
        return index if self.starts_operand(index) and index > start else 0

    def follows_names(self, first: int, operand: int) -> bool:
        """Whether numbers in parentheses follow names, `Ann (4) + Bea (6)`, and do not count them from 1."""
        enclosed = all(self.kinds[at] == "open" and self.partner.get(at) == at + 2 for at in (first, operand))
        return enclosed and self.tokens[first + 1].text != "1"

    def past_unit_power(self, index: int) -> int:
        """Past the power of a unit: `ft³`, `m^2`."""
        if self.kinds[index] == "super":
            return index + 1
        if self.kinds[index] == "power" and self.glued(index) and self.kinds[index + 1] == "number":
            return index + 2
        return index

    def word_operator(self, index: int, after_unit: bool) -> tuple[str, int] | None:
        """`x` between two operands, and `of` after a share, multiply."""
        word = self.tokens[index].text
        operator = OPERATOR_WORDS.get(word) or OPERATOR_WORDS.get(word.lower())
        if operator and self.starts_operand(index + 1) and not (word in "xX" and self.is_sign(index + 1)):
            return operator, index + 1
        if word.lower() in BY_WORDS and self.word(index + 1) in BY and self.starts_operand(index + 2):
            return BY_WORDS[word.lower()], index + 2
        if word.lower() == "of" and not after_unit and self._after_share(index):
            return "*", index + 1
        return None

    def _after_share(self, index: int) -> bool:
        """Whether `of` at index multiplies: `20% of 50`, `1/2 of 10`, `(1/3) of $9`."""
        before, earlier = self.kinds[index - 1], self.kinds[index - 2]
        share = (
            before in ("percent", "close", "mixed")
            or self.word(index - 1) in PERCENT_WORDS
            or (before == "number" and earlier == "op" and self.tokens[index - 2].text == "/")
        )
        return share and self.starts_operand(index + 1)

    def operator_before_words(self, index: int) -> bool:
        """Whether an operator stands before the words that end at `index`."""
        first = index
        while self.kinds[first] == "word" and index - first < MAX_NAME_WORDS:
            first -= 1
        return self.kinds[first] in ("op", "power") and self.kinds[first - 1] not in ("stop", "end")


def is_variable(word: str) -> bool:
    """Whether a word is a letter of algebra, perhaps with a unit: `x`, `xg`."""
    return (len(word) == 1 and word.isascii() and word not in UNIT_LETTERS) or (word[0] == "x" and len(word) < 4)


def _equates(tokens: list[Token], index: int) -> bool:
    """Whether a word joins two numbers as `=` does: `(1/4 of 20 is 5)`."""
    if not 0 < index < len(tokens) - 1 or tokens[index].text not in EQUALITY_WORDS:
        return False
    return tokens[index - 1].kind in NUMBERS and tokens[index + 1].kind in NUMBERS


def _matching_parentheses(tokens: list[Token]) -> dict[int, int]:
    """Index of the closing parenthesis of each opening one, where neither `=` nor a stop is between them."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind == "open":
            opened.append(index)
        elif token.kind == "close" and opened:
            partner[opened.pop()] = index
        elif token.kind in ("equals", "stop") or (opened and token.kind == "word" and _equates(tokens, index)):
            opened.clear()
    return partner
