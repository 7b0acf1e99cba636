"""Final answers in LaTeX or plain mathematics: text -> the part that says it, as math-verify reads it best. Pure.

The forms are those of `final_answers.py`, in the same order: `\\boxed{…}` or `\\fbox{…}`, `<answer>…</answer>`,
`The answer is …` and its like; where a text has none of them, its end. Of several answers of one form the last counts.
What the text denies ("The answer is not 3", "3 is wrong"), only asks ("3?") or supposes is no answer
(`latex_denials.py`). Linear in the text; math-verify sees at most `MOST_CHARS` characters.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rft_ray.grading import latex_denials as denials
from rft_ray.grading.answer_units import in_two_units
from rft_ray.grading.final_answers import (
    EDGES,
    LEADING,
    MOST_CHARS,
    MOST_MARKS,
    SAID,
    SAID_FIRST,
    WRAPPED,
    last_box,
    said_after,
    tagged,
)
from rft_ray.grading.plain_maths import as_latex, first_mixed, is_plain, with_fractions

_MOST_BOXES = 20
"""So many of the last boxes are looked at."""
_JOINED = re.compile(
    r"(?:\\q?quad(?![a-z])|[\s$]){0,8}(?:[,;，；、]?\s{0,3}(?:\\text\{\s{0,3})?\b(?:and|or|und|oder|et|ou|y)\b(?:\s{0,3}\})?|[,;，；、]|和|或)?"
    r"(?:\\q?quad(?![a-z])|[\s$]){0,8}(?:[A-Za-z](?:_\w)?\s{0,3}=[\s$]{0,4})?\Z",
    re.I,
)
"""What stands between two boxes that hold one answer."""
_PERCENT = re.compile(r"\s{0,2}\\?%")
_POINT = re.compile(r"(?<![.\s])\.\Z")
_CLOSED = re.compile(r"</answer>", re.I)
_SENTENCE = re.compile(r"(?:[^.!?\n]|\.(?=[\d.])|[!?](?!\s|\Z)){0,2000}[.!?]?")
_SPAN = (
    r"(?:\$\$[^$\n]{1,1000}\$\$|\$(?![\s$])[^$\n]{0,1000}[^\s$\\]\$(?!\d)|\$\w\$"
    r"|\\\((?:[^\\\n]|\\(?!\))){1,1000}\\\)|\\\[(?:[^\\\n]|\\(?!\])){1,1000}\\\])"
)
_SPANS = re.compile(
    rf"[\s*_:]{{0,6}}{_SPAN}(?:\s{{0,3}}(?:,?\s{{0,3}}(?:and|or)\b|,)\s{{0,3}}{_SPAN}){{0,5}}(?:\s?\\?%)?"
)
"""Maths between its signs, and what `and`, `or` or a comma joins to it: `$3$ and $4$`."""
_MATHS = re.compile(r"(?<!\\)\$|\\[(\[]")
_DISPLAY = re.compile(r"\\\[|\\begin\{")
_DISPLAY_ENDS = re.compile(r"\\\]|\\end\{[^{}\n]{1,30}\}")
_OPTION = re.compile(r"\A(?:\([A-J]\)|[A-J][.)])\s{1,3}(?=[-−\d\\])")
_OR = re.compile(r"\s{0,3},?\s{1,3}(?:or|and)\s{1,3}")
_ASIDE = re.compile(r",?\s{1,3}(?:which|because|since|not|so|where|as)\b")
_SAYS_VALUE = re.compile(r"[\dA-Za-z\\π∞]")


class Stated(NamedTuple):
    """The final answer of a text. Example: Stated("\\\\boxed{3}", "3", True)"""

    latex: str
    """What math-verify is to read."""
    written: str
    """The answer as the text writes it."""
    closed: bool
    """Whether it stands in a box or in tags that are closed, so that a text that is cut has all of it."""

    @property
    def in_two_units(self) -> bool:
        """Whether it is one quantity in two units, of which math-verify reads the first number only."""
        plain = " ".join(WRAPPED.sub(r" \1 ", self.written).replace("\\", " ").split())
        return in_two_units(plain.strip("$ ")) is not None


def stated_latex(text: str) -> Stated | None:
    """The final answer of a completion; None where it states none."""
    boxes, refused = _boxes(text)
    if boxes is not None:
        return boxes
    if (inside := tagged(text)) is not None:
        inside = SAID_FIRST.sub("", inside.strip())
        taken_back = any(denials.is_wrong_next(text, closing.end()) for closing in [*_CLOSED.finditer(text)][-1:])
        return _read(inside, closed=True) if len(inside) <= MOST_CHARS and not taken_back else None
    denied = [denials.last_denial(text)]
    for said in [*SAID.finditer(text)][: -MOST_MARKS - 1 : -1]:
        if denials.is_supposed(text, said.start()):
            if denials.value_next(text, said.end()):
                denied.append(said.end())
            continue
        rest = _display(text, said.end()) or said_after(text, said.end())
        if rest and (answer := _read(rest, closed=False)):
            return answer
        if _SAYS_VALUE.search(rest, denials.past_kind(rest)):
            denied.append(said.end())
    if last := max(denied):
        sentence = _SENTENCE.match(text, text.find(rest := said_after(text, last), last))
        last = sentence.end() if rest and sentence else len(text)
    return None if refused else _at_the_end(text[last:])


def _boxes(text: str) -> tuple[Stated | None, bool]:
    """The last box that the text stands by, with those that `and`, `or` or a comma joins to it; else whether it denies
    one.
    """
    end, refused = len(text), False
    held: list[str] = []
    for _ in range(_MOST_BOXES):
        box = last_box(text[:end])
        if box is None:
            break
        start, opens, closes = box
        after = text[closes + 1 : closes + 1 + denials.NEAR]
        if held and not _JOINED.fullmatch(text[closes + 1 : end]):
            break
        inside = _POINT.sub("", text[opens:closes].strip())
        end = start
        if not inside or denials.is_denied_box(text, start, inside) or denials.is_taken_back(after, 0):
            refused = True
            if held:
                break
            continue
        percent = _PERCENT.match(after)
        held.insert(0, inside + (percent[0].strip() if percent else ""))
    if not held:
        return None, refused
    if any(len(box) > MOST_CHARS for box in held):
        return Stated("", "", True), False
    boxes = [f"\\boxed{{{with_fractions(box)}}}" for box in dict.fromkeys(held)]
    latex = " and ".join(f"${box}$" for box in boxes) if len(boxes) > 1 else boxes[0]
    return Stated(latex, ", ".join(held), True), False


def _display(text: str, start: int) -> str:
    """A display of several lines that begins at `start`, or on the next line; empty where none does."""
    near = text[start : start + MOST_CHARS]
    opened = _DISPLAY.match(near.lstrip(EDGES))
    closed = _DISPLAY_ENDS.search(near) if opened else None
    return near[: closed.end()] if closed else ""


def _read(said: str, *, closed: bool) -> Stated | None:
    """The answer that the words after a mark, or in tags, state; None where they deny it, ask, or say nothing."""
    said = denials.asserted(said) or ""
    if not _SAYS_VALUE.search(said):
        return None
    if spans := _SPANS.match(said):
        if denials.is_taken_back(said, spans.end()):
            return None
        return Stated(f"The answer is {spans[0].strip()}", spans[0].strip(" *_:"), closed)
    if _MATHS.search(said) or "\n" in said.strip():
        return None if denials.is_rejected(said) else Stated(f"The answer is {said[:MOST_CHARS]}", said.strip(), closed)
    sentence = _SENTENCE.match(said)
    first = (sentence[0] if sentence else said).rstrip(" *_\"'`”’")
    if first.endswith("?") or denials.is_rejected(first):
        return None
    return _in_words(first, closed=closed)


def _in_words(statement: str, *, closed: bool) -> Stated:
    """The answer of a sentence without signs of maths around it: as LaTeX, where all of it is plain mathematics."""
    aside = _ASIDE.search(statement)
    for shown in (statement, statement[: aside.start()]) if aside else (statement,):
        plain = _OR.sub(", ", _OPTION.sub("", LEADING.sub("", shown)).rstrip(EDGES.replace("!", "").replace("'", "")))
        if is_plain(plain):
            return Stated(f"\\boxed{{{as_latex(plain)}}}", plain, closed)
    if mixed := first_mixed(LEADING.sub("", statement)):
        return Stated(f"\\boxed{{{mixed}}}", statement.strip(EDGES), closed)
    return Stated(f"The answer is {statement}", statement.strip(EDGES), closed)


def _at_the_end(text: str) -> Stated | None:
    """The end of a text that marks no answer, without what it asks or rejects there; None where nothing is left."""
    shown = text.rstrip()
    if len(shown) > MOST_CHARS:
        shown = shown[-MOST_CHARS:].partition("\n")[2] or shown[-MOST_CHARS:]
    left = denials.without_rejects(shown)
    return Stated(left, left, False) if left else None
