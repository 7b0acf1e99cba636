"""Reads the arithmetic in ordinary text: text -> chains `a = b = c` of expressions.

    "He sells 48/2 = 24 clips, so 20% of 50 is = 10"  ->  48/2=24   20%*50=10

Understood: + - * / // ^ **, `x`, `×`, `·`, `÷`, `times`, `\\frac{}{}`, `\\times`, parentheses, currency, thousands
separators, percent (`20% of 50`), mixed numbers, units and remarks after numbers, names before them in a sum, rates
(`60 grams/cat`), `≈`, `equals`. What is only half read is marked as unclean or doubtful. One pass over the tokens,
without recursion: linear in the text.

Source of the forms: completions of chat models on GSM8K-like problems.
"""

from __future__ import annotations

from itertools import accumulate

from rft_ray.grading.fields import Field, Number
from rft_ray.grading.prose_tokens import Token, tokenize
from rft_ray.grading.quantities import (
    BREAKING_WORDS,
    BY,
    BY_WORDS,
    CLOCK_WORDS,
    COMPARING_WORDS,
    EQUALITY_WORDS,
    INEXACT_WORDS,
    MULTIPLES,
    OPERATOR_WORDS,
    PERCENT_WORDS,
    SCALES,
    SHARES,
    SPEEDS,
    UNIT_LETTERS,
    measure,
)

MAX_UNIT_WORDS = 4
"""Words allowed between a number and the operator after it: `5 red apples + 3`."""
MAX_NAME_WORDS = 5
"""Words allowed between an operator and the number after it: `+ Bea has 6`."""
MAX_LINK_WORDS = 4
"""Words allowed on either side of `=`: `5 * 3 dollars = a total of 15`."""
_AFTER_IS = frozenset(["equal", "to", "a", "an", "total", "of", "about", "approximately", "igual", "à", "exactly"])
_PREPOSITIONS = frozenset(["of", "at", "every", "each", "per", "by", "for", "in", "x", "times", "de"])
_LIMITING = frozenset(["for", "per", "every", "each", "than", "if", "assume", "not", "all", "these", "those"])
_NO_RESULT = frozenset(["a", "an", "the", "all", "these", "of", "each", "those", "their", "his", "her", "than"])
"""Words before an expression that, followed by `is`, is a name of something rather than a computation."""
_SIGNS = ("=", "≈", "≃", "≅", "＝", "\\approx", "\\simeq", *sorted(EQUALITY_WORDS))
_NUMBERS = ("number", "mixed")


def read_chains(text: str) -> list[list[Field]]:
    """Every chain of two or more fields linked by an equality, in the order of the text, with unclean fields."""
    if not any(sign in text for sign in _SIGNS):
        return []
    return [chain for chain in Reader(tokenize(text)).chains() if len(chain) > 1]


def read_annotation(inside: str) -> list[Field] | None:
    """The chain in the inside of `<<...>>`, or None where it is not one equation."""
    reader = Reader(tokenize(inside))
    chains = reader.chains()
    if len(chains) != 1 or len(chains[0]) < 2 or reader.leftover or not all(side.clean for side in chains[0]):
        return None
    return chains[0]


class Reader:
    """One pass over the tokens of a text; `position` is the next token."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self._kinds = [token.kind for token in tokens] + ["end"] * 4  # so that indices -1 and -2 are "end" too
        self.leftover = False
        """Whether a token was skipped that is neither part of a field nor a currency sign."""
        self._partner = _matching_parentheses(tokens)
        self._opening = {close: opening for opening, close in self._partner.items()}
        self._counted = list(accumulate((kind in _NUMBERS for kind in self._kinds), initial=0))
        self._operand_at = self._find_operands()
        self._linked = False
        """Whether the field that is read is not the first of its chain."""
        self._field_at = 0
        self._by_word = False
        """Whether it is linked to the one before it by a word, as `is`."""
        self._clause_has_number = False

    def chains(self) -> list[list[Field]]:
        chains: list[list[Field]] = []
        chain: list[Field] = []
        while self.position < len(self.tokens):
            if not self._starts_field(self.position):
                kind = self._kinds[self.position]
                self.leftover |= kind != "currency"
                self._clause_has_number &= kind != "stop"
                self.position += 1
                continue
            self._linked = bool(chain)
            chain.append(self._field())
            if not self._link(chain[-1]):
                chains.append(chain)
                chain = []
        if chain:
            chains.append(chain)
        return chains

    def _starts_field(self, index: int) -> bool:
        kind = self._kinds[index]
        if kind in _NUMBERS:
            return True
        if kind == "word":
            return self._multiplier(index) is not None
        if kind == "open":
            return index in self._partner and self._starts_operand(index + 1)
        return self._is_sign(index) and self._starts_operand(index + 1)

    def _starts_operand(self, index: int) -> bool:
        return index < len(self._operand_at) and self._operand_at[index]

    def _find_operands(self) -> list[bool]:
        """For every token, whether an operand starts there: signs, `$` and `(` may precede its number."""
        starts = [False] * (len(self.tokens) + 1)
        for index in range(len(self.tokens) - 1, -1, -1):
            kind = self.tokens[index].kind
            if kind == "currency" or (kind == "open" and index in self._partner) or self._is_sign(index):
                starts[index] = starts[index + 1]
            else:
                starts[index] = kind in _NUMBERS
        return starts

    def _multiplier(self, index: int) -> tuple[str, int] | None:
        """`half of 10`, `twice 5`: the factor, and the index of the number; None for other words."""
        first = self.tokens[index].text.lower()
        if first in MULTIPLES and self._starts_operand(index + 1):
            return MULTIPLES[first], index + 1
        if first not in ("a", "one", "two", "three", "half") and "-" not in first:
            return None
        end = index + 1
        words = first
        if words not in SHARES and self._kinds[end] == "word":
            words, end = f"{first} {self.tokens[end].text.lower()}", end + 1
        if words in SHARES and self._word(end) == "of" and self._starts_operand(end + 1):
            return SHARES[words], end + 1
        return None

    def _word(self, index: int) -> str:
        return self.tokens[index].text.lower() if self._kinds[index] == "word" else ""

    def _is_sign(self, index: int) -> bool:
        """A minus that belongs to the number right after it: `-5`, `-$5`, `-(`, not `- 5`; a first plus."""
        if self._kinds[index] != "op":
            return False
        signs = "+-" if self._kinds[index - 1] in ("end", "equals", "open", "op") else "-"
        return (
            self.tokens[index].text in signs
            and self._kinds[index + 1] in ("number", "mixed", "currency", "open")
            and self._glued(index + 1)
        )

    def _glued(self, index: int) -> bool:
        """Whether a token follows the one before it without white space."""
        return 0 < index < len(self.tokens) and self.tokens[index - 1].end == self.tokens[index].start

    def _field(self) -> Field:
        """Reads the longest expression that starts here: operand (operator operand)*."""
        side = Field(start=self.tokens[self.position].start)
        self._field_at = self.position
        self._look_before(self.position, side)
        self._clause_has_number = True
        depth = 0
        expects_operand = True
        while self.position < len(self.tokens):
            if expects_operand:
                kind = self.tokens[self.position].kind
                if not self._operand_token(side):
                    break
                depth += kind == "open"
                expects_operand = kind not in _NUMBERS
            elif depth and self._past_parenthesis(side):
                depth -= 1
            else:
                operator = self._operator(side)
                if operator is None:
                    break
                side.add(operator)
                side.operators = expects_operand = True
        side.clean &= depth == 0 and not expects_operand and self._clean_after()
        side.end = max(side.end, self.tokens[self.position - 1].end)
        return side

    def _operand_token(self, side: Field) -> bool:
        """Takes one token of an operand: currency, sign, opening parenthesis, `half of`, or the number itself."""
        token = self.tokens[self.position]
        if token.kind == "currency":
            pass
        elif token.kind == "word":
            multiplier = self._multiplier(self.position)
            if multiplier is None:
                return False
            factor = f"({multiplier[0]})" if side.pieces and "/" in multiplier[0] else multiplier[0]
            side.add(factor)
            side.add("*")
            side.operators = True
            self.position = multiplier[1]
            return True
        elif self._is_sign(self.position):
            side.add(token.text)
        elif token.kind == "open" and self.position in self._partner:
            side.add("(")
        elif token.kind in _NUMBERS:
            self._number(token, side)
        else:
            return False
        self.position += 1
        return True

    def _number(self, token: Token, side: Field) -> None:
        """Adds a number, with the power or the percent sign after it."""
        if token.kind == "mixed":
            self._mixed(token, side)
            return
        digits, side.decimals = _canonical_digits(token.text)
        number = Number(len(side.pieces), digits, side.decimals)
        if self._kinds[self.position - 1] == "currency":
            number.unit = self.tokens[self.position - 1].text
        elif " " in token.text and token.text.count(" ") == 1:
            side.doubt = side.doubt or "a blank between digits"
        if "," in token.text and len(token.text.rpartition(",")[2]) != 3 and "." not in token.text:
            side.doubt = side.doubt or "a comma for a decimal point"
        side.numbers.append(number)
        after = self._after_percent(self.position + 1)
        if after:
            side.decimals += 2
            number.percent = True
            side.add(digits + "%", f"({digits}/100)")
            self.position = after - 1
        else:
            side.add(digits)
            self._superscript(side)

    def _superscript(self, side: Field) -> None:
        """Takes `²` or `³` after a number or a parenthesis."""
        if self._kinds[self.position + 1] == "super":
            side.add("**")
            side.add(self.tokens[self.position + 1].text.translate(_SUPERSCRIPTS))
            side.operators = True
            self.position += 1

    def _mixed(self, token: Token, side: Field) -> None:
        whole, fraction = _mixed_parts(token.text)
        if whole:
            side.add(f"({whole}+{fraction})")
        else:
            side.add(f"({fraction})" if side.pieces[-1:] == ["/"] else fraction)
        side.numbers.append(Number(len(side.pieces) - 1, side.pieces[-1]))
        side.operators = True

    def _after_percent(self, index: int) -> int:
        """Index after a percent sign or word at `index`; 0 where there is none, or where it is a modulo."""
        if self._kinds[index] == "percent":
            number = self._kinds[index + 1] in ("number", "mixed", "open") and self._starts_operand(index + 1)
            modulo = number and (self._glued(index + 1) or not self._glued(index))
            return 0 if modulo else index + 1
        word = self._word(index)
        if word in PERCENT_WORDS:
            return index + 1
        if word in ("per", "por", "pour") and self._word(index + 1) in ("cent", "ciento"):
            return index + 2
        return 0

    def _operator(self, side: Field) -> str | None:
        """Takes the operator after an operand, past units; None where the field ends instead."""
        index, words = self._past_units(self.position, side)
        kind = self._kinds[index]
        worded = self._word_operator(index, bool(words)) if kind == "word" else None
        if worded:
            self._units(words, side)
            if self._linked and self.tokens[index].text not in "xX" and self._word(index) != "of":
                side.doubt = side.doubt or "words that go on after a result"
            if self._word(index) == "of" and not side.share_of:
                side.share_of = len(side.pieces)
            side.letters = (side.letters or not side.operators) and self.tokens[index].text in "xX"
            self.position = worded[1]
            return worded[0]
        if kind in ("op", "power"):
            return self._sign_operator(index, words, side)
        if kind == "percent" and not words and self._starts_operand(index + 1):
            self.position = index + 1
            return "%"
        if kind == "open" and not words and index in self._partner and self._starts_operand(index + 1):
            if not self._glued(index):
                side.doubt = side.doubt or "a parenthesis after a blank"
            self.position = index
            return "*"
        self._end(index, words, side)
        return None

    def _sign_operator(self, index: int, words: list[str], side: Field) -> str | None:
        sign = "**" if self._kinds[index] == "power" else self.tokens[index].text
        if words and self._is_sign(index) and not self._glued(index):
            self._end(index, words, side)
            return None
        operand = index + 1
        if not self._starts_operand(operand):
            operand = self._past_name(operand) if sign == "+" or not self._linked else 0
        if not operand:
            self._end(index, words, side)
            word = self.tokens[index + 1].text if self._kinds[index + 1] == "word" else ""
            if sign == "-" and self._linked and not self._glued(index + 1) and len(word) != 1:
                side.doubt = side.doubt or "a dash or a minus"
            else:
                side.clean = False
                side.silent |= bool(word)
            return None
        self._units(words, side)
        side.letters = False
        if operand > index + 1:
            side.named = True
            if self.tokens[operand - 1].text[:1].isupper():
                side.doubt = side.doubt or "a number that belongs to a name"
        if sign == "/":
            self._quotient(index, words, side)
        self.position = operand
        return sign

    def _quotient(self, index: int, words: list[str], side: Field) -> None:
        """Notes a `/` that may belong to one quantity: `÷ 1/2`, `/ 200 calories/100 ml`, `12 masks/2 days`."""
        if side.pieces[-2:-1] == ["/"] and (words or self._glued(index)):
            side.quotients.append(len(side.pieces))
        if words and self._glued(index) and self._kinds[index + 2] == "word":
            side.doubt = side.doubt or "a rate"

    def _past_name(self, index: int) -> int:
        """Index of the operand after the words of a name (`+ Bea has 6`), or 0."""
        start = index
        while self._kinds[index] == "word" and index - start < MAX_NAME_WORDS:
            if self._multiplier(index) is not None:
                return index
            word = self.tokens[index].text
            if len(word) == 1 or word.lower() in EQUALITY_WORDS or word.lower() in INEXACT_WORDS:
                return 0
            index += 1
        return index if self._starts_operand(index) and index > start else 0

    def _past_units(self, index: int, side: Field) -> tuple[int, list[str]]:
        """Moves past units, rates and remarks after a number: `cm²`, `dollars/hour`, `(cost of a pen)`."""
        words: list[str] = []
        while True:
            kind = self._kinds[index]
            if kind == "word" and len(words) < MAX_UNIT_WORDS:
                word = self.tokens[index].text
                lowered = word.lower()
                if lowered in EQUALITY_WORDS or lowered in BREAKING_WORDS or self._word_operator(index, bool(words)):
                    break
                words.append(word)
                index = self._past_unit_power(index + 1)
            elif kind == "currency" and self._glued(index) and not self._starts_operand(index + 1):
                index += 1
            elif kind == "currency" and self._glued(index) and not self._glued(index + 1):
                index += 1
            elif kind == "op" and self.tokens[index].text == "/" and self._kinds[index + 1] == "word":
                unit = self.tokens[index + 1].text
                if _is_variable(unit):
                    side.clean, side.silent = False, True
                if side.numbers:
                    side.numbers[-1].per = unit
                index = self._past_unit_power(index + 2)
            elif kind == "open" and index in self._partner and not self._starts_operand(index + 1):
                close = self._partner[index]
                if self._counted[close] > self._counted[index] or (self._glued(index) and index == self.position):
                    side.doubt = side.doubt or "a remark with numbers"
                index = close + 1
            else:
                break
        return index, words

    def _past_unit_power(self, index: int) -> int:
        """Past the power of a unit: `ft³`, `m^2`."""
        if self._kinds[index] == "super":
            return index + 1
        if self._kinds[index] == "power" and self._glued(index) and self._kinds[index + 1] == "number":
            return index + 2
        return index

    def _end(self, index: int, words: list[str], side: Field) -> None:
        """Ends a field before `index`: the units that follow are its own as far as they are known."""
        side.end = self.tokens[self.position - 1].end
        self._units(words if self._kinds[index] == "equals" else words[:1], side)
        lowered = [word.lower() for word in words]
        if self._kinds[self.position] == "op":
            self.position = index
        follows = index + 1 if self._word(index) == "and" else index
        if words and measure(words[-1]) and self._kinds[follows] == "number" and measure(self._word(follows + 1)):
            side.doubt = side.doubt or "a compound quantity"
        if self._by_word and any(word in COMPARING_WORDS for word in lowered[:2]):
            side.doubt = side.doubt or "a comparison"

    def _word_operator(self, index: int, after_unit: bool) -> tuple[str, int] | None:
        """`x` between two operands, and `of` after a share, multiply."""
        word = self.tokens[index].text
        operator = OPERATOR_WORDS.get(word) or OPERATOR_WORDS.get(word.lower())
        if operator and self._starts_operand(index + 1) and not (word in "xX" and self._is_sign(index + 1)):
            return operator, index + 1
        if word.lower() in BY_WORDS and self._word(index + 1) in BY and self._starts_operand(index + 2):
            return BY_WORDS[word.lower()], index + 2
        if word.lower() == "of" and not after_unit and self._after_share(index):
            return "*", index + 1
        return None

    def _past_parenthesis(self, side: Field) -> bool:
        """Moves past units and a closing parenthesis, if these come next: `(5 apples + 3 apples)`."""
        index, words = self._past_units(self.position, side)
        if self._kinds[index] != "close":
            return False
        self._units(words, side)
        self.position = index
        side.add(")")
        self._superscript(side)
        self.position += 1
        if self._kinds[self.position] == "percent" and not self._starts_operand(self.position + 1):
            side.add("/")
            side.add("100")
            self.position += 1
        return True

    def _after_share(self, index: int) -> bool:
        """Whether `of` at index multiplies: `20% of 50`, `1/2 of 10`, `(1/3) of $9`."""
        before, earlier = self._kinds[index - 1], self._kinds[index - 2]
        share = (
            before in ("percent", "close", "mixed")
            or self._word(index - 1) in PERCENT_WORDS
            or (before == "number" and earlier == "op" and self.tokens[index - 2].text == "/")
        )
        return share and self._starts_operand(index + 1)

    def _units(self, words: list[str], side: Field) -> None:
        """Notes the words after the last number of a field."""
        if not words or not side.numbers:
            return
        number = side.numbers[-1]
        glued = self._kinds[self.position] == "word" and self._glued(self.position)
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
            side.doubt = side.doubt or "a share of something that is no number, or a comparison"
        for word in words:
            if len(word) == 1 and word.isascii() and word not in UNIT_LETTERS:
                side.clean, side.silent = False, True
            elif word.lower() in INEXACT_WORDS:
                side.clean = False

    def _look_before(self, index: int, side: Field) -> None:
        """Notes what an operator, a word or an adjacent character before a field says about its start."""
        opens = self._kinds[index] == "open"
        signed = self._kinds[index] == "op"
        kind = self._kinds[index - 1]
        while kind == "currency":
            index -= 1
            kind = self._kinds[index - 1]
        if kind in ("op", "power"):
            self._operator_before(index, side)
            return
        glued = self._glued(index) and kind in ("word", "number") and self.tokens[index - 1].text[-1:].isascii()
        glued |= self._glued(index) and kind == "close"
        side.clean = not (kind in ("strange", "other", "percent", "relation") or glued)
        side.worded = kind == "word"
        side.alone = not self._clause_has_number
        if kind == "close" and self._counted[index - 1] > self._counted[self._opening.get(index - 1, index - 1)]:
            side.doubt = "a parenthesis before it"
        if kind == "word":
            self._word_before(index, side, opens or signed)

    def _operator_before(self, index: int, side: Field) -> None:
        """An operator before a field: its start is missing, unless the operator begins the line."""
        first = index - 1
        while self._kinds[first - 1] == "op" and index - first < 5:
            first -= 1
        before = self._kinds[first - 1]
        side.alone = False
        if before in ("stop", "end"):
            return
        dash = before == "word" and self.tokens[index - 1].text == "-" and not self._glued(index)
        side.doubt = "a dash or a minus" if dash else side.doubt
        side.clean, side.silent = dash, before == "word"

    def _word_before(self, index: int, side: Field, apart: bool) -> None:
        """The word before a field; `apart`: the field begins with a parenthesis or a sign."""
        word = self._word(index - 1)
        if word in OPERATOR_WORDS or word == "by":
            side.clean = False
        side.alone &= word not in _PREPOSITIONS
        before = self._kinds[index - 2]
        named = self.tokens[index - 1].text[:1].isupper() and before in ("word", "equals", "op")
        if (
            named
            or word in _LIMITING
            or (self._clause_has_number and (apart or word in _PREPOSITIONS))
            or (measure(word) and before == "number")
            or (word == "and" and before in _NUMBERS)
            or (word == "and" and measure(self._word(index - 2)) and self._kinds[index - 3] == "number")
            or self._operator_before_words(index - 1)
        ):
            side.doubt = side.doubt or "words before it that may belong to it"

    def _operator_before_words(self, index: int) -> bool:
        """Whether an operator stands before the words that end at `index`."""
        first = index
        while self._kinds[first] == "word" and index - first < MAX_NAME_WORDS:
            first -= 1
        return self._kinds[first] in ("op", "power") and self._kinds[first - 1] not in ("stop", "end")

    def _clean_after(self) -> bool:
        """False where the token after a field shows that its end is missing."""
        kind, glued = self._kinds[self.position], self._glued(self.position)
        if kind == "word" and glued and len(self.tokens[self.position].text) == 1:
            text = self.tokens[self.position].text
            return text in UNIT_LETTERS or not text.isascii()
        if kind == "op" and self.tokens[self.position].text == "-" and not self._glued(self.position + 1):
            return self._linked
        return not (kind in ("op", "power", "other", "number", "mixed", "relation") or (glued and kind == "strange"))

    def _link(self, side: Field) -> bool:
        """Moves past `=`, or a word that says it, to the next field, if one follows."""
        most = MAX_LINK_WORDS if side.operators else 1
        index = self.position
        words = 0
        while self._kinds[index] in ("word", "currency", "percent", "open", "super") and words <= most:
            if self._kinds[index] == "open":
                if index not in self._partner or self._starts_operand(index + 1):
                    return False
                index = self._partner[index] + 1
                continue
            word = self._word(index)
            if word in BREAKING_WORDS and word not in ("has", "have", "be", "will"):
                return False
            if side.operators and not side.share and word in EQUALITY_WORDS and self._equality_word(index):
                self._by_word = True
                enclosed = side.pieces[0] == "(" and side.worded
                if enclosed or side.letters or side.named or self._before(side) in _NO_RESULT:
                    side.doubt = side.doubt or "a name rather than a computation"
                return True
            words += self._kinds[index] == "word"
            index += 1
        self._by_word = False
        if self._kinds[index] != "equals" or words > most:
            return False
        index += 1
        words = 0
        while self._kinds[index] in ("word", "currency") and words < (MAX_LINK_WORDS if side.operators else 1):
            if self._starts_field(index):
                break
            words += self._kinds[index] == "word"
            index += 1
        if not self._starts_field(index):
            return False
        self.position = index
        return True

    def _before(self, side: Field) -> str:
        return self._word(self._field_at - 1)

    def _equality_word(self, index: int) -> bool:
        """Moves to the number after `equals`, `is`, `is equal to`, if one follows."""
        index += 1
        start = index
        while self._word(index) in _AFTER_IS and index - start < MAX_LINK_WORDS:
            index += 1
        if self._kinds[index] == "currency":
            index += 1
        if not self._starts_field(index):
            return False
        self.position = index
        return True


def _is_variable(word: str) -> bool:
    """Whether a word is a letter of algebra, perhaps with a unit: `x`, `xg`."""
    return (len(word) == 1 and word.isascii() and word not in UNIT_LETTERS) or (word[0] == "x" and len(word) < 4)


def _matching_parentheses(tokens: list[Token]) -> dict[int, int]:
    """Index of the closing parenthesis of each opening one, where neither `=` nor a stop is between them."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind == "open":
            opened.append(index)
        elif token.kind == "close" and opened:
            partner[opened.pop()] = index
        elif token.kind in ("equals", "stop"):
            opened.clear()
    return partner


def _canonical_digits(written: str) -> tuple[str, int]:
    """`1,800.00` -> `1800` and 2 decimals, `.5` -> `0.5`, `007` -> `7`, `2,5` -> `2.5`."""
    written = written.rstrip("…")
    if written.endswith("..."):
        written = written[:-3]
    head, comma, tail = written.rpartition(",")
    if comma and "." not in written and len(tail) != 3:
        written = f"{head.replace(',', '')}.{tail}"
    whole, _, fraction = written.replace(",", "").replace(" ", "").partition(".")
    decimals = len(fraction)
    whole = whole.lstrip("0") or "0"
    fraction = fraction.rstrip("0")
    return (f"{whole}.{fraction}" if fraction else whole), decimals


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_FRACTIONS = dict(
    zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split(), strict=True)
)


def _mixed_parts(written: str) -> tuple[str, str]:
    """`2 1/2` and `2½` -> ("2", "1/2"), `½` -> ("", "1/2")."""
    if written[-1] in _FRACTIONS:
        return written[:-1].strip(), _FRACTIONS[written[-1]]
    whole, _, fraction = written.partition(" ")
    return whole, fraction.strip()
