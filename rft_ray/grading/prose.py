"""Reads the arithmetic in ordinary text: text -> chains `a = b = c` of expressions.

    "He sells 48/2 = 24 clips, so 20% of 50 is = 10"  ->  48/2=24   20%*50=10

Understood: + - * / // ^ **, `x`, `×`, `·`, `÷`, `\\frac{}{}`, `\\times`, parentheses, currency, thousands
separators, percent (`20% of 50`), mixed numbers, units after numbers, `≈`. Text that could only be
guessed (a variable, a dangling operator, a ratio or a time) gives no equation rather than a wrong
one. One pass over the tokens, without recursion: linear in the text.

Source of the forms: completions of chat models on GSM8K-like problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rft_ray.grading.prose_tokens import Token, tokenize

MAX_UNIT_WORDS = 3
"""Words allowed between a number and the operator after it: `5 red apples + 3`."""
MAX_LINK_WORDS = 4
"""Words allowed on either side of `=`: `5 * 3 dollars = a total of 15`."""


@dataclass(slots=True)
class Field:
    """One side of an equation.

    Example: Field(["20%", "*", "50"], ["(20/100)", "*", "50"], operators=True) for `20% of 50`
    """

    pieces: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    decimals: int = 0
    """Digits after the point of the last number (two more for a percentage)."""
    operators: bool = False
    """Whether it holds an operator; without one it is a plain number."""
    clean: bool = True
    """False where the text around it shows that only part of an expression was read."""
    doubtful: bool = False
    """Whether it can be read in two ways: `100 + 20%`, `6s` (seconds, or s times 6)."""
    percents: int = 0
    start: int = 0
    end: int = 0
    """First character of it in the rewritten text, and the one after the last."""
    units: set[str] = field(default_factory=set)
    """Units of measurement in it: feet and inches in one equation make its reading doubtful."""

    @property
    def shown(self) -> str:
        """Canonical spelling: no spaces, units or separators; `x` and `×` as `*`, `^` as `**`."""
        return "".join(self.pieces)

    @property
    def source(self) -> str:
        """The same for `arithmetic.exact_value`."""
        return "".join(self.sources)

    def add(self, piece: str, source: str | None = None) -> None:
        self.pieces.append(piece)
        self.sources.append(piece if source is None else source)


_UNIT_LETTERS = frozenset("aghlLmsk")
_NUMBER_WORDS = frozenset(
    [
        "dozen", "dozens", "hundred", "hundreds", "thousand", "thousands", "million", "millions",
        "billion", "half", "halves", "third", "thirds", "quarter", "quarters", "twice", "double",
        "triple", "pair", "pairs", "squared", "cubed", "score",
    ]
)  # fmt: skip
_MEASURES = frozenset(
    [
        "$", "dollar", "cent", "penny", "pennies", "nickel", "dime", "inch", "inches", "foot",
        "feet", "yard", "mile", "mm", "cm", "meter", "metre", "km", "second", "minute", "hour",
        "day", "week", "month", "year", "gram", "kg", "kilogram", "pound", "lb", "ounce", "oz",
        "ton", "liter", "litre", "ml", "gallon", "quart", "pint", "cup",
    ]
)  # fmt: skip


def read_chains(text: str) -> list[list[Field]]:
    """Every chain of fields linked by `=` that can be read with certainty, in the order of the text.

    A chain has two fields or more and at least one operator; chains that hold an unclean field are
    left out.
    """
    if not any(sign in text for sign in ("=", "≈", "≃", "≅", "＝", "\\approx", "\\simeq")):
        return []
    reader = Reader(tokenize(text))
    return [chain for chain in reader.chains() if len(chain) > 1 and any(f.operators for f in chain)]


def read_annotation(inside: str) -> list[Field] | None:
    """The chain in the inside of `<<...>>`, or None where it is not one equation."""
    reader = Reader(tokenize(inside))
    chains = reader.chains()
    if len(chains) != 1 or len(chains[0]) < 2 or reader.leftover:
        return None
    return chains[0]


class Reader:
    """One pass over the tokens of a text; `position` is the next token."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self._kinds = [token.kind for token in tokens] + ["end"] * 3  # so that indices -1 and -2 are "end" too
        self.leftover = False
        """Whether a token was skipped that is neither part of a field nor a currency sign."""
        self._partner = _matching_parentheses(tokens)
        self._operand_at = self._find_operands()

    def chains(self) -> list[list[Field]]:
        chains: list[list[Field]] = []
        chain: list[Field] = []
        while self.position < len(self.tokens):
            if not self._starts_field(self.position):
                self.leftover |= self.tokens[self.position].kind != "currency"
                self.position += 1
                continue
            chain.append(self._field())
            if not self._link(MAX_LINK_WORDS if chain[-1].operators else 1):
                chains.append(chain)
                chain = []
        if chain:
            chains.append(chain)
        return [chain for chain in chains if all(f.clean for f in chain)]

    def _starts_field(self, index: int) -> bool:
        kind = self._kinds[index]
        if kind in ("number", "mixed"):
            return True
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
                starts[index] = kind in ("number", "mixed")
        return starts

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
        side = Field(clean=self._clean_before(self.position), start=self.tokens[self.position].start)
        depth = 0
        expects_operand = True
        while self.position < len(self.tokens):
            if expects_operand:
                kind = self.tokens[self.position].kind
                if not self._operand_token(side):
                    break
                depth += kind == "open"
                expects_operand = kind not in ("number", "mixed")
            elif depth and self._past_units_in_parentheses(side):
                depth -= 1
                side.add(")")
            else:
                operator = self._operator(side)
                if operator is None:
                    break
                side.add(operator)
                side.operators = expects_operand = True
        side.doubtful |= side.percents > 0 and ("+" in side.pieces or "-" in side.pieces[1:])
        side.clean &= depth == 0 and not expects_operand and self._clean_after()
        side.end = self.tokens[self.position - 1].end
        return side

    def _operand_token(self, side: Field) -> bool:
        """Takes one token of an operand: currency, sign, opening parenthesis or the number itself."""
        token = self.tokens[self.position]
        if token.kind == "currency":
            side.units.add("$")
        elif self._is_sign(self.position):
            side.add(token.text)
        elif token.kind == "open" and self.position in self._partner:
            side.add("(")
        elif token.kind == "mixed":
            whole, fraction = token.text.split(" ")
            side.add(f"({whole}+{fraction})")
            side.operators = True
        elif token.kind == "number":
            self._number(token, side)
        else:
            return False
        self.position += 1
        return True

    def _number(self, token: Token, side: Field) -> None:
        """Adds a number, with the percent sign after it unless that is a modulo."""
        digits = _canonical_digits(token.text)
        side.decimals = len(token.text.partition(".")[2])
        after = self.position + 1
        if self._kinds[after] == "percent" and self._kinds[after + 1] not in ("number", "open"):
            side.decimals += 2
            side.percents += 1
            side.add(digits + "%", f"({digits}/100)")
            self.position = after
        else:
            side.add(digits)

    def _operator(self, side: Field) -> str | None:
        """Takes the operator after an operand, past units; None where the field ends instead."""
        index = self.position
        words: list[str] = []
        while self._kinds[index] == "word" and len(words) < MAX_UNIT_WORDS:
            operator = self._word_operator(index, bool(words))
            if operator:
                return self._take(index, operator, words, side)
            words.append(self.tokens[index].text)
            index += 1
        kind = self._kinds[index]
        if kind in ("op", "power"):
            if words and self._is_sign(index) and not self._glued(index):
                return None
            if self._starts_operand(index + 1):
                return self._take(index, "**" if kind == "power" else self.tokens[index].text, words, side)
            side.clean = False
        elif kind == "percent" and not words and self._starts_operand(index + 1):
            return self._take(index, "%", words, side)
        elif kind == "open" and not words and index in self._partner and self._starts_operand(index + 1):
            if self._glued(index):
                return "*"
            side.clean = False
        elif words:
            self._units(words if kind == "equals" else words[:1], side)
        return None

    def _word_operator(self, index: int, after_unit: bool) -> str | None:
        """`x` between two operands, and `of` after a share, multiply."""
        word = self.tokens[index].text
        if word in ("x", "X") and self._starts_operand(index + 1) and not self._is_sign(index + 1):
            return "*"
        if word.lower() == "of" and not after_unit and self._after_share(index):
            return "*"
        return None

    def _past_units_in_parentheses(self, side: Field) -> bool:
        """Moves past units and a closing parenthesis, if these come next: `(5 apples + 3 apples)`."""
        index = self.position
        while self._kinds[index] == "word" and index - self.position < MAX_UNIT_WORDS:
            index += 1
        if self._kinds[index] != "close":
            return False
        self._units([token.text for token in self.tokens[self.position : index]], side)
        self.position = index + 1
        return True

    def _take(self, index: int, operator: str, words: list[str], side: Field) -> str:
        self._units(words, side)
        self.position = index + 1
        return operator

    def _after_share(self, index: int) -> bool:
        """Whether `of` at index multiplies: `20% of 50`, `1/2 of 10`, `(1/3) of $9`."""
        before, earlier = self._kinds[index - 1], self._kinds[index - 2]
        share = (
            before == "percent"
            or before == "close"
            or (before in ("number", "mixed") and earlier == "op" and self.tokens[index - 2].text == "/")
        )
        return share and self._starts_operand(index + 1)

    def _units(self, words: list[str], side: Field) -> None:
        for word in words:
            if (len(word) == 1 and word not in _UNIT_LETTERS) or word.lower() in _NUMBER_WORDS:
                side.clean = False
            side.doubtful |= len(word) == 1
            unit = word.lower()
            side.units |= {unit, unit.removesuffix("s")} & _MEASURES

    def _clean_before(self, index: int) -> bool:
        """False where an operator or an adjacent character before a field shows that its start is missing."""
        kind = self._kinds[index - 1]
        while kind == "currency":
            index -= 1
            kind = self._kinds[index - 1]
        if kind in ("op", "power"):
            return self._kinds[index - 2] in ("stop", "end", "op")
        return not (kind in ("strange", "other", "percent") or (self._glued(index) and kind in ("word", "number")))

    def _clean_after(self) -> bool:
        """False where the token after a field shows that its end is missing."""
        kind, glued = self._kinds[self.position], self._glued(self.position)
        if kind == "word" and glued and len(self.tokens[self.position].text) == 1:
            return self.tokens[self.position].text in _UNIT_LETTERS
        return not (kind in ("op", "power", "other", "number", "mixed") or (glued and kind == "strange"))

    def _link(self, max_words: int) -> bool:
        """Moves past `=` to the next field, if one follows; up to `max_words` words may come before `=`."""
        index = self.position
        words = 0
        while self._kinds[index] in ("word", "currency", "percent") and words < max_words:
            words, index = words + 1, index + 1
        if self._kinds[index] != "equals":
            return False
        index += 1
        words = 0
        while self._kinds[index] in ("word", "currency") and words < MAX_LINK_WORDS:
            words += self._kinds[index] == "word"
            index += 1
        if not self._starts_field(index):
            return False
        self.position = index
        return True


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


def _canonical_digits(written: str) -> str:
    """`1,800.00` -> `1800`, `.5` -> `0.5`, `007` -> `7`."""
    whole, _, fraction = written.replace(",", "").partition(".")
    whole = whole.lstrip("0") or "0"
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
