"""The equations of a completion, and whether they hold: text -> `Equations`.

Paper mode: in every `<<...>>`, the value that Python gives the text before the first `=` is within 1e-3 of the
float between the first and the second `=`. Strict mode: every field of every `<<...>>`, and the arithmetic of the
rest of the text (`prose.py`), in exact rationals by the rules of `equation_checks.py`. The list of a text with
`<<...>>` holds these only.

Limits: texts up to MAX_TEXT_CHARS; those of `arithmetic.py` per expression; scanning is linear in the text. Results
are cached by equation and, for texts up to `CACHED_TEXT_CHARS`, by text, in caches of fixed size.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Literal

from rft_ray.grading.answers import own_part
from rft_ray.grading.arithmetic import NotArithmeticError, OverBoundError, python_value
from rft_ray.grading.clock_times import clock_equations, may_hold_times
from rft_ray.grading.equation_checks import A_QUESTION, Checked, Checker, Outcome, is_conversion
from rft_ray.grading.equation_context import says_wrong, second_thought
from rft_ray.grading.fields import Field
from rft_ray.grading.prose import read_annotation, read_chains
from rft_ray.grading.prose_tokens import ANNOTATION, FEW_ANNOTATIONS, annotation_spans, plain, without_annotations

Mode = Literal["strict", "paper"]
MODES: tuple[Mode, ...] = ("strict", "paper")

MAX_TEXT_CHARS = 131_072
"""Longest text that is read; 32 K tokens of English are about as long."""
CACHED_TEXT_CHARS = 4_096
CACHED_EQUATION_CHARS = 200
MAX_ANNOTATION_CHARS = 800
MAX_PROSE_EQUATIONS = 2_000
"""Most equations outside `<<...>>` of one text: one in 65 characters of the longest text."""
_SIMPLE = re.compile(r"([1-9][0-9]{0,14})([-+*])([1-9][0-9]{0,14})=([1-9][0-9]{0,14})")
"""The commonest annotation, which is read without its tokens where it holds."""
_COMBINE: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_DOTTED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3})+(?![\d.])")
UNREAD_CHARS = 80
"""Longest piece of an equation that is shown as unread."""


@dataclass(frozen=True, slots=True)
class Equations:
    """The equation list of one text, and why it does not hold.

    Example: Equations(("48/2=24", "48+24=71"), "48+24=71: does not hold", "")
    """

    listed: tuple[str, ...]
    """In the order of the text. Paper: as written, blanks removed. Strict: in canonical notation."""
    fault: str = ""
    """The first equation that does not hold or cannot be read, and why; empty if all hold."""
    over: str = ""
    """The first bound that kept an equation from being decided; empty if none did."""
    unread: str = ""
    """The first piece of arithmetic with a sign of equality that could not be read with confidence. Strict only."""

    @property
    def hold(self) -> bool:
        return not self.fault and not self.over


@dataclass(frozen=True, slots=True)
class Reading:
    """How one equation of a text is read in strict mode.

    Example: Reading(9, 18, "48/2=24", "holds", "equal")
    """

    start: int
    end: int
    """Characters of the text."""
    shown: str
    """Canonical spelling; empty where it is unread."""
    outcome: Outcome
    rule: str
    """The rule that decided, as one short sentence."""


def equations_of(text: str, mode: str = "strict") -> Equations:
    """Equations of a completion; none, and `over`, past MAX_TEXT_CHARS. Raises ValueError for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: must be one of {', '.join(MODES)}")
    if len(text) > MAX_TEXT_CHARS:
        return Equations((), "", f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
    return _cached_equations(text, mode) if len(text) <= CACHED_TEXT_CHARS else _read(text, mode)


def readings(text: str) -> list[Reading]:
    """Each equation of a text with the rule that decided it; none past a bound. Agrees with `equations_of`."""
    if len(text) > MAX_TEXT_CHARS:
        return []
    try:
        annotations, prose = _examined(text)
    except OverBoundError:
        return []
    return [
        Reading(read.start, read.end, "" if read.outcome == "unread" else read.shown, read.outcome, read.rule)
        for read in sorted([*annotations, *prose], key=lambda read: read.start)
    ]


def annotated(text: str) -> list[str]:
    """Insides of all `<<...>>`, as the regular expression `<<([^>]*)>>` finds them, in linear time."""
    if text.count("<<") <= FEW_ANNOTATIONS:
        return ANNOTATION.findall(text)
    return [text[start:end] for start, end in annotation_spans(text)]


def _read(text: str, mode: str) -> Equations:
    if mode == "paper":
        written = tuple(annotated(text))
        return (_cached_paper if len(text) <= CACHED_TEXT_CHARS else _paper)(written)
    try:
        annotations, prose = _examined(text)
    except OverBoundError as error:
        return Equations((), "", str(error))
    checked = _together([*annotations, *prose])
    unread = next((read for read in prose if read.outcome == "unread"), None)
    listed = annotations or prose
    return replace(
        checked,
        listed=tuple(read.shown for read in listed if read.outcome != "unread"),
        unread=text[unread.start : min(unread.end, unread.start + UNREAD_CHARS)] if unread else "",
    )


def _paper(written: tuple[str, ...]) -> Equations:
    """The equations in `<<...>>`. Many samples of one problem have the same ones, hence the cache."""
    return _together(
        [_paper_cached(text) if len(text) <= CACHED_EQUATION_CHARS else _paper_check(text) for text in written]
    )


_cached_paper = lru_cache(maxsize=4_096)(_paper)


def _together(checked: list[Checked]) -> Equations:
    listed = tuple([equation.shown for equation in checked])
    bad = [equation for equation in checked if equation.outcome in ("fails", "over")]
    if not bad:
        return Equations(listed)
    fault = next((equation.fault for equation in bad if equation.fault), "")
    over = next((equation.over for equation in bad if equation.over), "")
    return Equations(listed, fault, over)


_cached_equations = lru_cache(maxsize=4_096)(_read)


def _examined(text: str) -> tuple[list[Checked], list[Checked]]:
    """Strict mode: the equations in `<<...>>` and those of the rest of the text, each in order.

    Raises OverBoundError for more than MAX_PROSE_EQUATIONS in the rest, or for more fields than `prose.MAX_FIELDS`.
    """
    text = own_part(text)
    checker = Checker(text)
    annotations = [_annotation(checker, text, start, end) for start, end in annotation_spans(text)]
    rest = without_annotations(text)
    timed = clock_equations(plain(rest)) if may_hold_times(rest) else []
    found = (read for chain in read_chains(_without(rest, timed)) for read in _prose(checker, chain))
    prose = list(islice(found, MAX_PROSE_EQUATIONS + 1))
    if len(prose) > MAX_PROSE_EQUATIONS:
        raise OverBoundError(f"more than {MAX_PROSE_EQUATIONS} equations in one text")
    if timed:
        prose = sorted([*timed, *prose], key=lambda read: read.start)
    if any(read.outcome == "fails" or read.rule == A_QUESTION for read in prose):
        prose = _taken_back(text, [_dotted(text, read) for read in prose])
    return annotations, prose


def _without(text: str, read: list[Checked]) -> str:
    """The text with each equation that is read already overwritten by blanks."""
    if not read:
        return text
    kept: list[str] = []
    position = 0
    for equation in read:
        kept += [text[position : equation.start], " " * (equation.end - equation.start)]
        position = equation.end
    return "".join([*kept, text[position:]])


def _dotted(text: str, read: Checked) -> Checked:
    """An equation that fails, read with the dots of `1.430` as marks of thousands: it may hold then."""
    written = text[read.start : read.end]
    undotted = _DOTTED.sub(lambda match: match[0].replace(".", ""), written)
    if read.outcome != "fails" or undotted == written:
        return read
    checker = Checker(undotted)
    again = [other for chain in read_chains(undotted) for other in _prose(checker, chain)]
    if len(again) != 1 or again[0].outcome != "holds":
        return read
    return replace(again[0], start=read.start, end=read.end, rule="dots set off thousands")


def _annotation(checker: Checker, text: str, start: int, end: int) -> Checked:
    """Check of one `<<...>>`: a chain of fields, each pair of neighbours equal. What cannot be read is a fault."""
    inside = text[start:end]
    shown = inside.replace(" ", "")
    if len(inside) > MAX_ANNOTATION_CHARS:
        over = f"an equation of {len(inside)} characters, bound {MAX_ANNOTATION_CHARS}"
        return Checked(shown, "over", over, start, end)
    simple = _SIMPLE.fullmatch(inside)
    if simple and _COMBINE[simple[2]](int(simple[1]), int(simple[3])) == int(simple[4]):
        return Checked(inside, start=start, end=end)
    chain = read_annotation(inside)
    if chain is None:
        return Checked(shown, "fails", f"{_quoted(inside)}: cannot be read", start, end)
    checked = checker.chain(chain, start) or Checked(shown, "fails", f"{_quoted(shown)}: does not hold")
    if checked.outcome == "unread":
        checked = replace(checked, outcome="fails", rule=f"{_quoted(checked.shown)}: does not hold")
    return replace(checked, shown="=".join(side.shown for side in chain), start=start, end=end)


def _prose(checker: Checker, chain: list[Field]) -> Iterator[Checked]:
    """The equations of one chain of the text: its longest runs of fields that are read completely."""
    run: list[Field] = []
    read = False
    for side in [*chain, None]:
        if side is not None and side.clean:
            run.append(side)
            continue
        if len(run) > 1 and (any(one.operators for one in run) or is_conversion(run[0], run[1])):
            read = True
            checked = checker.chain(run)
            if checked:
                yield checked
        run = []
    half_read = any(side.operators and not side.clean and not side.silent for side in chain)
    if half_read and not read:
        yield Checked("", "unread", "only a part of it can be read", chain[0].start, chain[-1].end)


def _taken_back(text: str, prose: list[Checked]) -> list[Checked]:
    """The equations of a text, of which those that it takes back itself no longer fail.

    That is so where the sentence after an equation calls it wrong, or where it is written again with the same left side
    and holds, and the text between the two hesitates.
    """
    repaired: dict[str, list[int]] = {}
    for read in prose:
        if read.outcome == "holds":
            repaired.setdefault(read.shown.partition("=")[0], []).append(read.start)
    result: list[Checked] = []
    for read in prose:
        if read.outcome == "fails" or read.rule == A_QUESTION:
            again = next((start for start in repaired.get(read.left, ()) if start > read.end), None)
            if again is not None and second_thought(text, read.end, again):
                read = replace(read, outcome="taken_back", rule="the text writes it again, and then it holds")
            elif says_wrong(text, read.end):
                read = replace(read, outcome="taken_back", rule="the text calls it wrong")
        result.append(read)
    return result


def _paper_check(inside: str) -> Checked:
    """The reference's check of one equation.

    An equation is wrong if Python's evaluation of it fails. The right side is read first: if it is not a
    number, the equation is wrong without evaluating the left side.
    """
    shown = inside.replace(" ", "")
    fields = inside.split("=", 2)
    if len(fields) < 2:
        return Checked(shown, "fails", f"{_quoted(inside)}: no =")
    try:
        right = float(fields[1])
        holds = abs(float(python_value(fields[0])) - right) < 1e-3
    except OverBoundError as error:
        return Checked(shown, "over", f"{_quoted(inside)}: {error}")
    except (NotArithmeticError, ArithmeticError, TypeError, ValueError) as error:
        return Checked(shown, "fails", f"{_quoted(inside)}: {type(error).__name__}")
    return Checked(shown) if holds else Checked(shown, "fails", f"{_quoted(inside)}: does not hold")


_paper_cached = lru_cache(maxsize=16_384)(_paper_check)


def _quoted(equation: str) -> str:
    return equation if len(equation) <= 80 else f"{equation[:77]}..."
