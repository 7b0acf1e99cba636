"""Final answers in LaTeX or plain mathematics: text -> the part that says it, as math-verify reads it best. Pure.

The forms are those of `final_answers.py`, in the same order: `\\boxed{…}` or `\\fbox{…}`, `<answer>…</answer>`,
`The answer is …` and its like; where a text has none of them, its end. Of several answers of one form the last counts.
What the text denies ("The answer is not 3", "3 is wrong"), only asks ("3?") or supposes is no answer. Linear in the
text; math-verify sees at most `MOST_CHARS` characters.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rft_ray.grading.answer_marks import NOT_AN_ANSWER
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

_MOST_BOXES = 20
"""So many of the last boxes are looked at."""
_NEAR = 60
"""So many characters before an answer can deny it."""
_VALUE = r"(?:[\d\\$√π]|[-−+(\[{.]\s?[\d\\$]|[b-zA-HJ-Z](?![\w'’]))"
_NOT = r"(?:\bnot|\bnever|\bneither|n['’]t|\bcannot)"
_DENIED = re.compile(
    rf"\A[^\d\n.,;:$\\]{{0,40}}?{_NOT}(?:\s+(?:be|just|simply|equal\s+to|exactly))?\s{{1,3}}[*_\"“(]{{0,3}}(?={_VALUE})",
    re.I,
)
"""How the rest of a statement begins that says what the answer is not."""
_INSTEAD = re.compile(
    r"[,;.]?\s{1,3}(?:but|rather|instead)\b[\s,:]{0,3}(?:(?:rather|instead)\b[\s,:]{0,3})?"
    r"(?:(?:it\s+is|it['’]s|is)\s)?|[,;.]\s{1,3}(?:it\s+is|it['’]s)\s",
    re.I,
)
_SUPPOSED = re.compile(rf"[\s*_\"“(]{{0,4}}{_VALUE}")
_DENIES_ANSWER = re.compile(rf"\banswer(?=[^\d\n.,;:$\\]{{0,40}}?{_NOT}\b)", re.I)
_DENIES_BOX = re.compile(
    r"(?:\bnot|n['’]t|\bneither|\bnever|\bcannot)(?:\s+(?:be|equal\s+to|the|just))?[\s$(\[*]{0,6}\Z", re.I
)
_DENIED_WITHIN = re.compile(
    r"\s{0,3}(?:(?:\\text\{)?\s{0,3}(?:not|(?:less|more|greater|fewer|other)\s+than|at\s+(?:least|most)|between)\b"
    r"|\\(?:neq?|not)\b|≠)",
    re.I,
)
"""How an answer begins that is no value."""
_NOT_OF_KIND = re.compile(r"\s{0,3}not\s(?:[^\d$\\.,;:\n]){1,60}(?:[.,;]\s|[.,;]?\Z)", re.I)
"""How a statement begins that says of what kind the answer is not: "not an integer, it is …"."""
_OPTION = re.compile(r"\A(?:\([A-J]\)|[A-J][.)])\s{1,3}(?=[-−\d\\])")
_POINT = re.compile(r"(?<![.\s])\.\Z")
_NAMES_VALUE = re.compile(r"[\d\\≠]|\b[b-zB-HJ-Z]\b")
_ENDS = re.compile(r"(?:\s{0,2}[$*_)\]\"'”’`}\\]){0,6}")
_RIGHT = (
    r"(?:\s{1,3}(?:an?|the|our|my|quite))?(?:\s{1,3}(?:correct|right|final))?(?:\s{1,3}(?:correct|right|true|it|so"
    r"|answer|solution|valid|possible|allowed|acceptable|admissible)\b|[\s$*_)\]\"'”’`]{0,6}(?:[.,;!]|\Z))"
)
_SAID_WRONG = (
    rf"\s{{1,3}}(?:(?:is|was)\s{{1,3}}(?:wrong\b|incorrect\b|false\b|not{_RIGHT}"
    rf"|too\s{{1,3}}\w{{1,20}}+(?!\s{{1,3}}to\b))|(?:isn|wasn)['’]t{_RIGHT})"
)
"""After an answer that is said to be none; of one that is said not to be prime, it is not said."""
_WRONG = rf",?(?:\s{{1,3}}(?:which|that))?{_SAID_WRONG}"
_WRONG_NEXT = re.compile(rf"(?:\s{{0,2}}\?(?!\s{{1,3}}yes\b)|{_WRONG})", re.I)
_REJECTED = re.compile(rf"(?:[^\s?]{{1,80}}?|\$[^$\n]{{1,200}}\$[.,]?){_WRONG}", re.I)
_ASIDE = re.compile(r",?\s{1,3}(?:which|because|since|not|so|where|as)\b")
_JOINED = re.compile(
    r"(?:\\q?quad(?![a-z])|[\s$]){0,8}(?:[,;，；、]?\s{0,3}(?:\\text\{\s{0,3})?\b(?:and|or|und|oder|et|ou|y)\b(?:\s{0,3}\})?|[,;，；、]|和|或)?"
    r"(?:\\q?quad(?![a-z])|[\s$]){0,8}(?:[A-Za-z](?:_\w)?\s{0,3}=[\s$]{0,4})?\Z",
    re.I,
)
"""What stands between two boxes that hold one answer."""
_PERCENT = re.compile(r"\s{0,2}\\?%")
_SENTENCE = re.compile(r"(?:[^.!?\n]|\.(?=[\d.])|[!?](?!\s|\Z)){0,2000}[.!?]?")
_CLAUSE = re.compile(r"(?:[^.!?;\n]|[.!?;](?![\s.!?;]|\Z)){1,2000}[.!?;]*\s*|[.!?;\s]+")
_REJECTS = re.compile(rf".*{_SAID_WRONG}|.*?\b(?:wrong|incorrect)\s+(?:final\s+)?answer\b.*", re.I | re.DOTALL)
_SPAN = (
    r"(?:\$\$[^$\n]{1,1000}\$\$|\$(?![\s$])[^$\n]{0,1000}[^\s$\\]\$(?!\d)|\$\w\$"
    r"|\\\((?:[^\\\n]|\\(?!\))){1,1000}\\\)|\\\[(?:[^\\\n]|\\(?!\])){1,1000}\\\])"
)
_SPANS = re.compile(
    rf"[\s*_:]{{0,6}}{_SPAN}(?:\s{{0,3}}(?:,?\s{{0,3}}(?:and|or)\b|,)\s{{0,3}}{_SPAN}){{0,5}}(?:\s?\\?%)?"
)
_CLOSED = re.compile(r"</answer>", re.I)
_MATHS = re.compile(r"(?<!\\)\$|\\[(\[]")
_DISPLAY = re.compile(r"\\\[|\\begin\{")
_DISPLAY_ENDS = re.compile(r"\\\]|\\end\{[^{}\n]{1,30}\}")
_MIXED = re.compile(r"(?<![\w.,/^}])(\d{1,20})\s{1,2}(\d{1,9})\s?/\s?(\d{1,9})(?![\d.,]?\d|/|!)")
_OR = re.compile(r"\s{0,3},?\s{1,3}(?:or|and)\s{1,3}")
_PLAIN = re.compile(
    r"(?:\\text\{[^{}]{0,80}\}|[\d\s+\-−*/^=<>≤≥()\[\]{},.!|%°π√∞∪×÷·:_']|(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])"
    r"|\\[A-Za-z]{1,20}|\\[{},;:!|%$ ]|(?<![A-Za-z\\])(?:sin|cos|tan|log|ln|exp|sqrt|pi)(?![A-Za-z]))++"
)
_SIGNS = (
    (re.compile(r"√\s?(\w+)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])(sin|cos|tan|log|ln|exp|sqrt|pi)(?![A-Za-z])"), r"\\\1 "),
    (re.compile("π"), r"\\pi "),
    (re.compile("∞"), r"\\infty "),
    (re.compile("°"), r"^\\circ "),
    (re.compile("∪"), r"\\cup "),
)
"""Signs and names of plain mathematics, and what LaTeX has for them."""
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
        taken_back = any(_WRONG_NEXT.match(text, closing.end()) for closing in [*_CLOSED.finditer(text)][-1:])
        return _read(inside, closed=True) if len(inside) <= MOST_CHARS and not taken_back else None
    denied = [_last_denial(text)]
    for said in [*SAID.finditer(text)][: -MOST_MARKS - 1 : -1]:
        if NOT_AN_ANSWER.search(text[max(0, said.start() - _NEAR) : said.start()].rpartition("\n")[2]):
            if _SUPPOSED.match(text[said.end() : said.end() + _NEAR]):
                denied.append(said.end())
            continue
        rest = _display(text, said.end()) or said_after(text, said.end())
        if rest and (answer := _read(rest, closed=False)):
            return answer
        of_kind = None if _DENIED.match(rest) else _NOT_OF_KIND.match(rest)
        if _SAYS_VALUE.search(rest, of_kind.end() if of_kind else 0):
            denied.append(said.end())
    if last := max(denied):
        sentence = _SENTENCE.match(text, text.find(rest := said_after(text, last), last))
        last = sentence.end() if rest and sentence else len(text)
    return None if refused else _at_the_end(text[last:])


def _last_denial(text: str) -> int:
    """Where the text last says of a value that it is not the answer; 0 where it nowhere does."""
    denials = [denial.end() for denial in _DENIES_ANSWER.finditer(text)]
    return max((end for end in denials if _DENIED.match(text[end : end + 2 * _NEAR])), default=0)


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
        after = text[closes + 1 : closes + 1 + _NEAR]
        if held and not _JOINED.fullmatch(text[closes + 1 : end]):
            break
        inside = _POINT.sub("", text[opens:closes].strip())
        denied = _DENIES_BOX.search(text[max(0, start - _NEAR) : start]) or (
            _DENIED_WITHIN.match(inside) and _NAMES_VALUE.search(WRAPPED.sub(r" \1 ", inside))
        )
        ended = _ENDS.match(after)
        asked = ended is not None and _WRONG_NEXT.match(after, ended.end())
        end = start
        if denied or asked or not inside:
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
    boxes = [f"\\boxed{{{_MIXED.sub(_latex_mixed, box)}}}" for box in dict.fromkeys(held)]
    latex = " and ".join(f"${box}$" for box in boxes) if len(boxes) > 1 else boxes[0]
    return Stated(latex, ", ".join(held), True), False


def _latex(plain: str) -> str:
    """Plain mathematics as LaTeX."""
    for sign, latex in _SIGNS:
        plain = sign.sub(latex, plain)
    return _MIXED.sub(_latex_mixed, plain)


def _latex_mixed(mixed: re.Match[str]) -> str:
    return f"{mixed[1]}\\frac{{{mixed[2]}}}{{{mixed[3]}}}"


def _display(text: str, start: int) -> str:
    """A display of several lines that begins at `start`, or on the next line; empty where none does."""
    near = text[start : start + MOST_CHARS]
    opened = _DISPLAY.match(near.lstrip(EDGES))
    closed = _DISPLAY_ENDS.search(near) if opened else None
    return near[: closed.end()] if closed else ""


def _read(said: str, *, closed: bool) -> Stated | None:
    """The answer that the words after a mark, or in tags, state; None where they deny it, ask, or say nothing."""
    if denied := _DENIED.match(said):
        instead = _INSTEAD.search(said, denied.end())
        if instead is None:
            return None
        said = said[instead.end() :]
    elif of_kind := _NOT_OF_KIND.match(said):
        said = said[of_kind.end() :]
    if _DENIED_WITHIN.match(said) or not _SAYS_VALUE.search(said):
        return None
    if spans := _SPANS.match(said):
        ended = _ENDS.match(said, spans.end())
        if ended and _WRONG_NEXT.match(said, ended.end()):
            return None
        return Stated(f"The answer is {spans[0].strip()}", spans[0].strip(" *_:"), closed)
    if _MATHS.search(said) or "\n" in said.strip():
        return None if _REJECTED.match(said) else Stated(f"The answer is {said[:MOST_CHARS]}", said.strip(), closed)
    sentence = _SENTENCE.match(said)
    first = (sentence[0] if sentence else said).rstrip(" *_\"'`”’")
    if first.endswith("?") or _REJECTED.match(first):
        return None
    aside = _ASIDE.search(first)
    for shown in (first, first[: aside.start()]) if aside else (first,):
        plain = _OR.sub(", ", _OPTION.sub("", LEADING.sub("", shown)).rstrip(EDGES.replace("!", "").replace("'", "")))
        if _PLAIN.fullmatch(plain):
            return Stated(f"\\boxed{{{_latex(plain)}}}", plain, closed)
    if mixed := _MIXED.match(LEADING.sub("", first)):
        return Stated(f"\\boxed{{{_latex_mixed(mixed)}}}", first.strip(EDGES), closed)
    return Stated(f"The answer is {first}", first.strip(EDGES), closed)


def _at_the_end(text: str) -> Stated | None:
    """The end of a text that marks no answer, without what it asks or rejects there; None where nothing is left."""
    shown = text.rstrip()
    if len(shown) > MOST_CHARS:
        shown = shown[-MOST_CHARS:].partition("\n")[2] or shown[-MOST_CHARS:]
    clauses = [_REJECTS.sub("", clause[0]) for clause in _CLAUSE.finditer(shown)]
    left = "".join(clause for clause in clauses if "?" not in clause.rstrip()[-2:]).strip()
    return Stated(left, left, False) if left else None
