"""Reads the arithmetic in ordinary text: text -> chains `a = b = c` of expressions.

    "He sells 48/2 = 24 clips, so 20% of 50 is = 10"  ->  48/2=24   20%*50=10

Understood: + - * / // ^ **, `x`, `×`, `·`, `÷`, `times`, `\\frac{}{}`, `\\times`, parentheses, currency, thousands
separators, percent (`20% of 50`), mixed numbers, units and remarks after numbers, names before them in a sum, rates
(`60 grams/cat`), `≈`, `equals`. What is only half read is marked as unclean or doubtful. One pass over the tokens,
without recursion: linear in the text. Source of the forms: completions of chat models on GSM8K-like problems.
"""

from __future__ import annotations

from rft_ray.grading.arithmetic import OverBoundError
from rft_ray.grading.field_words import (
    DASH,
    NAMED_NUMBER,
    add_mixed,
    add_remainder,
    begins_clause,
    clean_after,
    joins_smaller_unit,
    look_before,
    note_quotient,
    note_units,
    past_units,
    put_larger_first,
)
from rft_ray.grading.fields import Field, Number
from rft_ray.grading.numerals import SUPERSCRIPTS, canonical_digits, odd_numeral
from rft_ray.grading.prose_tokens import Token, tokenize
from rft_ray.grading.quantities import (
    BREAKING_WORDS,
    COMPARING_WORDS,
    EQUALITY_WORDS,
    LIST_NAMES,
    LISTS,
    MEANS,
    RESTATING_WORDS,
)
from rft_ray.grading.token_view import MAX_LINK_WORDS, MAX_LONG_LINK_WORDS, NUMBERS, TokenView

MAX_FIELDS = 20_000  # numbers and expressions of one text
_NO_RESULT = frozenset(["a", "an", "the", "all", "these", "of", "each", "those", "their", "his", "her", "than"])
"""Words before an expression that, followed by `is`, is a name of something rather than a computation."""
_SIGNS = ("=", "≈", "≃", "≅", "＝", "\\approx", "\\simeq", *sorted(EQUALITY_WORDS))


def read_chains(text: str) -> list[list[Field]]:
    """Every chain of fields that are linked by an equality, in order, with unclean fields.

    One unclean field alone is an expression that was read in part; a share (`3/4 of them`) is none.
    """
    if not any(sign in text for sign in _SIGNS):
        return []
    chains = Reader(tokenize(text)).chains(all_clauses=False)
    return [chain for chain in chains if len(chain) > 1 or not (chain[0].clean or chain[0].plain)]


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
        self._tokens = tokens
        self._view = TokenView(tokens)
        self.position = 0
        self.leftover = False
        """Whether a token was skipped that is neither part of a field nor a currency sign."""
        self._linked = False
        """Whether the field that is read is not the first of its chain."""
        self._divisor = ""
        """Divisor of the field before it in its chain, where that is a quotient of whole numbers."""
        self._field_at = 0
        self._by_word = False
        """Whether it is linked to the one before it by a word, as `is`."""
        self._clause_has_number = False

    def chains(self, *, all_clauses: bool = True) -> list[list[Field]]:
        """Fields that are linked by a sign of equality, in order. Raises OverBoundError past MAX_FIELDS.

        `all_clauses`: whether those without a sign of equality are read too.
        """
        chains: list[list[Field]] = []
        chain: list[Field] = []
        fields = 0
        ahead = [] if all_clauses else self._view.equality_ahead()
        while self.position < len(self._tokens):
            if ahead and not ahead[self.position] and not chain and self._past_other_clause():
                continue
            if not self._view.starts_field(self.position):
                kind = self._view.kinds[self.position]
                self.leftover |= kind != "currency"
                self._clause_has_number &= kind != "stop"
                self.position += 1
                continue
            fields += 1
            if fields > MAX_FIELDS:
                raise OverBoundError(f"more than {MAX_FIELDS} numbers and expressions in one text")
            self._linked = bool(chain)
            self._divisor = chain[-1].divisor if chain else ""
            chain.append(self._field())
            if not self._link(chain[-1]):
                if len(chain) == 1 and chain[0].operators and self._view.equals_near(self.position):
                    chain[0].clean = False
                    chain[0].silent |= self._view.equals_letter(self.position)
                chains.append(chain)
                chain = []
        if chain:
            chains.append(chain)
        return chains

    def _past_other_clause(self) -> bool:
        """Moves past a token of a clause without a sign of equality; not past a word that lists numbers."""
        kind = self._view.kinds[self.position]
        if kind == "word" and self._tokens[self.position].text in LIST_NAMES:
            return False
        self._clause_has_number = kind in NUMBERS or (self._clause_has_number and kind != "stop")
        self.position += 1
        return True

    def _field(self) -> Field:
        """Reads the longest expression that starts here: operand (operator operand)*, or `the sum of 5 and 8`."""
        side = Field(start=self._tokens[self.position].start)
        self._field_at = self.position
        look_before(self._view, self.position, side, self._clause_has_number)
        self._clause_has_number = True
        if self._view.kinds[self.position] == "word":
            self._list(side, self._view.listed(self.position))
        listed = len(side.pieces)
        depth = 0
        expects_operand = not listed
        while self.position < len(self._tokens):
            if expects_operand:
                kind = self._tokens[self.position].kind
                if not self._operand_token(side):
                    break
                depth += kind == "open"
                expects_operand = kind not in NUMBERS
            elif depth and self._past_parenthesis(side):
                depth -= 1
            else:
                operator = self._operator(side)
                if operator is None:
                    break
                side.add(operator)
                side.operators = expects_operand = True
        if side.listed and len(side.pieces) > listed:
            side.doubt = side.doubt or "an operator after a list of numbers"
        side.silent |= self._view.kinds[self.position] == "relation"
        side.clean &= depth == 0 and not expects_operand and clean_after(self._view, self.position, self._linked)
        side.end = max(side.end, self._tokens[self.position - 1].end)
        return side

    def _list(self, side: Field, operands: list[int]) -> None:
        """Adds `5+8` for `the sum of 5 and 8`, whose numbers are at these indices, if there are any."""
        if not operands:
            return
        name = self._view.word(self.position)
        side.listed = side.operators = True
        side.doubt = "" if begins_clause(self._view, self.position) else "words before it that may change it"
        if name in MEANS:
            side.add("(")
        for index in operands:
            if side.numbers:
                side.add(LISTS[name])
            self.position = index
            self._number(self._tokens[index], side)
            self.position += 1
        if name in MEANS:
            for piece in (")", "/", str(len(operands))):
                side.add(piece)
        if name == "difference":
            put_larger_first(side)
        named = self._view.kinds[self.position] == "word" and self._view.word(self.position) not in EQUALITY_WORDS
        if named and self._view.word(operands[0] + 1) in ("", "and"):
            side.doubt = side.doubt or "a list of names"

    def _operand_token(self, side: Field) -> bool:
        """Takes one token of an operand: currency, sign, opening parenthesis, `half of`, or the number itself."""
        token = self._tokens[self.position]
        if token.kind == "currency":
            pass
        elif token.kind == "word":
            multiplier = self._view.multiplier(self.position)
            if multiplier is None:
                return False
            factor = f"({multiplier[0]})" if side.pieces and "/" in multiplier[0] else multiplier[0]
            side.add(factor)
            side.add("*")
            side.operators = True
            self.position = multiplier[1]
            return True
        elif self._view.is_sign(self.position):
            side.add(token.text)
        elif token.kind == "open" and self.position in self._view.partner:
            side.add("(")
        elif token.kind in NUMBERS:
            self._number(token, side)
        else:
            return False
        self.position += 1
        return True

    def _number(self, token: Token, side: Field) -> None:
        """Adds a number, with the power or the percent sign after it."""
        if token.kind == "mixed":
            add_mixed(token.text, side)
            return
        digits, side.decimals = canonical_digits(token.text)
        number = Number(len(side.pieces), digits, side.decimals)
        if self._view.kinds[self.position - 1] == "currency":
            number.unit = self._tokens[self.position - 1].text
        elif token.text.count(" ") == 1 and "." not in token.text:
            number.halves = (digits[:-3], token.text[-3:])
        if token.text[0] == "0" or "," in token.text:
            side.doubt = side.doubt or odd_numeral(token.text)
        side.numbers.append(number)
        after = self._view.after_percent(self.position + 1)
        if after:
            side.decimals += 2
            number.percent = True
            side.add(digits + "%", f"({digits}/100)")
            self.position = after - 1
        else:
            side.add(digits)
            if side.closes:
                side.add(")")
                side.closes = False
            self._superscript(side)

    def _superscript(self, side: Field) -> None:
        """Takes `²` or `³` after a number or a parenthesis."""
        if self._view.kinds[self.position + 1] == "super":
            side.add("**")
            side.add(self._tokens[self.position + 1].text.translate(SUPERSCRIPTS))
            side.operators = True
            self.position += 1

    def _operator(self, side: Field) -> str | None:
        """Takes the operator after an operand, past units; None where the field ends instead."""
        after = add_remainder(self._view, self.position, side, self._divisor) if self._divisor else 0
        if after:
            self.position = after
            return None
        index, words = past_units(self._view, self.position, side)
        kind = self._view.kinds[index]
        smaller = joins_smaller_unit(self._view, index, words) if kind in ("word", "number") and words else 0
        if smaller:
            note_units(words, side, self._follows_glued())
            side.open_compound()
            self.position = smaller
            return "+"
        worded = self._view.word_operator(index, bool(words)) if kind == "word" else None
        if worded:
            note_units(words, side, self._follows_glued())
            if self._linked and self._tokens[index].text not in "xX" and self._view.word(index) != "of":
                side.doubt = side.doubt or "words that go on after a result"
                side.goes_on = side.goes_on or len(side.pieces)
            if self._view.word(index) == "of" and not side.share_of:
                side.share_of = len(side.pieces)
            side.letters = (side.letters or not side.operators) and self._tokens[index].text in "xX"
            self.position = worded[1]
            return worded[0]
        if kind in ("op", "power"):
            return self._sign_operator(index, words, side)
        if kind == "percent" and not words and self._view.starts_operand(index + 1):
            self.position = index + 1
            return "%"
        if kind == "open" and not words and index in self._view.partner and self._view.starts_operand(index + 1):
            if not self._view.glued(index):
                side.doubt = side.doubt or "a parenthesis after a blank"
            self.position = index
            return "*"
        self._end(index, words, side)
        return None

    def _sign_operator(self, index: int, words: list[str], side: Field) -> str | None:
        sign = "**" if self._view.kinds[index] == "power" else self._tokens[index].text.replace("÷", "/")
        if words and self._view.is_sign(index) and not self._view.glued(index):
            self._end(index, words, side)
            return None
        operand = index + 1
        if not self._view.starts_operand(operand):
            operand = self._view.past_name(operand) if sign == "+" or not self._linked else 0
        if not operand:
            self._end(index, words, side)
            word = self._tokens[index + 1].text if self._view.kinds[index + 1] == "word" else ""
            if sign == "-" and self._linked and not self._view.glued(index + 1) and len(word) != 1:
                side.doubt = side.doubt or DASH
            else:
                side.clean = False
                side.silent |= bool(word)
            return None
        note_units(words, side, self._follows_glued())
        side.letters = False
        if operand > index + 1 and not self._view.follows_names(self._field_at, operand):
            side.named = True
            if self._tokens[operand - 1].text[:1].isupper():
                side.doubt = side.doubt or NAMED_NUMBER
        if sign == "/":
            side.divided |= self._tokens[index].text == "÷"
            note_quotient(self._view, index, bool(words), side)
        self.position = operand
        return sign

    def _end(self, index: int, words: list[str], side: Field) -> None:
        """Ends a field before `index`: the units that follow are its own as far as they are known."""
        side.end = self._tokens[self.position - 1].end
        note_units(words if self._view.kinds[index] == "equals" else words[:1], side, self._follows_glued())
        lowered = [word.lower() for word in words]
        if "op" in self._view.kinds[self.position : index]:
            self.position = index
        if self._by_word and any(word in COMPARING_WORDS for word in lowered[:2]):
            side.doubt = side.doubt or "a comparison"

    def _follows_glued(self) -> bool:
        """Whether a word follows the last number without a blank."""
        return self._view.kinds[self.position] == "word" and self._view.glued(self.position)

    def _past_parenthesis(self, side: Field) -> bool:
        """Moves past units and a closing parenthesis, if these come next: `(5 apples + 3 apples)`."""
        index, words = past_units(self._view, self.position, side)
        if self._view.kinds[index] != "close":
            return False
        note_units(words, side, self._follows_glued())
        self.position = index
        side.add(")")
        self._superscript(side)
        self.position += 1
        if self._view.kinds[self.position] == "percent" and not self._view.starts_operand(self.position + 1):
            side.add("/")
            side.add("100")
            self.position += 1
        return True

    def _link(self, side: Field) -> bool:
        """Moves past `=`, or a word that says it, to the next field, if one follows."""
        most = MAX_LONG_LINK_WORDS if side.operators else 1
        index = self.position
        words = 0
        clause = False
        while self._view.kinds[index] in ("word", "currency", "percent", "open", "super") and words <= most:
            if self._view.kinds[index] == "open":
                if not self._view.opens_remark(index):
                    return False
                index = self._view.partner[index] + 1
                continue
            word = self._view.word(index)
            if word in BREAKING_WORDS and word not in ("has", "have", "be", "will"):
                if word in RESTATING_WORDS:
                    return False
                clause = True
            if side.operators and not side.share and word in EQUALITY_WORDS and self._view.after_equality(index):
                self.position = self._view.after_equality(index)
                self._by_word = True
                enclosed = side.pieces[0] == "(" and side.worded and not side.listed
                articled = self._before(side) in _NO_RESULT and not side.listed
                if enclosed or side.letters or side.named or articled:
                    side.doubt = side.doubt or "a name rather than a computation"
                return True
            words += self._view.kinds[index] == "word"
            index += 1
        self._by_word = False
        if self._view.kinds[index] != "equals" or words > most:
            return False
        if clause or words > MAX_LINK_WORDS:
            if not side.operators:
                return False
            side.doubt = side.doubt or "a clause before ="
        index += 1
        words = 0
        while self._view.kinds[index] in ("word", "currency") and words < (MAX_LINK_WORDS if side.operators else 1):
            if self._view.starts_field(index):
                break
            words += self._view.kinds[index] == "word"
            index += 1
        if not self._view.starts_field(index):
            return False
        self.position = index
        return True

    def _before(self, side: Field) -> str:
        return self._view.word(self._field_at - 1)
