"""What a text says its final answer is not: an answer that it denies, takes back, supposes or only asks about. Pure.

In: the words before, in and after an answer in LaTeX or plain mathematics. Out: whether the text stands by it. All
patterns are linear in the text.
"""

from __future__ import annotations

import re

from rft_ray.grading.answer_marks import NOT_AN_ANSWER
from rft_ray.grading.final_answers import WRAPPED

NEAR = 60
"""So many characters before and after an answer can deny it."""
_VALUE = r"(?:[\d\\$√π]|[-−+(\[{.]\s?[\d\\$]|[b-zA-HJ-Z](?![\w'’]))"
_NOT = r"(?:\bnot|\bnever|\bneither|n['’]t|\bcannot)"

# --- Before an answer -----------------------------------------------------------------------------

_SUPPOSED = re.compile(rf"[\s*_\"“(]{{0,4}}{_VALUE}")
_DENIES_ANSWER = re.compile(rf"\banswer(?=[^\d\n.,;:$\\]{{0,40}}?{_NOT}\b)", re.I)
_DENIED = re.compile(
    rf"\A[^\d\n.,;:$\\]{{0,40}}?{_NOT}(?:\s+(?:be|just|simply|equal\s+to|exactly))?\s{{1,3}}[*_\"“(]{{0,3}}(?={_VALUE})",
    re.I,
)
"""How the rest of a statement begins that says what the answer is not: "certainly not 3"."""
_INSTEAD = re.compile(
    r"[,;.]?\s{1,3}(?:but|rather|instead)\b[\s,:]{0,3}(?:(?:rather|instead)\b[\s,:]{0,3})?"
    r"(?:(?:it\s+is|it['’]s|is)\s)?|[,;.]\s{1,3}(?:it\s+is|it['’]s)\s",
    re.I,
)
"""What leads from that to what the answer is: "not 3, but 4"."""
_NOT_OF_KIND = re.compile(r"\s{0,3}not\s(?:[^\d$\\.,;:\n]){1,60}(?:[.,;]\s|[.,;]?\Z)", re.I)
"""How a statement begins that says of what kind the answer is not: "not an integer, it is …"."""
_DENIES_BOX = re.compile(rf"{_NOT}(?:\s+(?:be|equal\s+to|the|just))?[\s$(\[*]{{0,6}}\Z", re.I)

# --- In an answer ---------------------------------------------------------------------------------

_DENIED_WITHIN = re.compile(
    r"\s{0,3}(?:(?:\\text\{)?\s{0,3}(?:not|(?:less|more|greater|fewer|other)\s+than|at\s+(?:least|most)|between)\b"
    r"|\\(?:neq?|not)\b|≠)",
    re.I,
)
"""How an answer begins that is no value: "less than 3"."""
_NAMES_VALUE = re.compile(r"[\d\\≠]|\b[b-zB-HJ-Z]\b")

# --- After an answer ------------------------------------------------------------------------------

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
_REJECTS = re.compile(rf".*{_SAID_WRONG}|.*?\b(?:wrong|incorrect)\s+(?:final\s+)?answer\b.*", re.I | re.DOTALL)
_CLAUSE = re.compile(r"(?:[^.!?;\n]|[.!?;](?![\s.!?;]|\Z)){1,2000}[.!?;]*\s*|[.!?;\s]+")


def is_supposed(text: str, start: int) -> bool:
    """Whether the words before a mark of an answer suppose it: `if the answer is`."""
    return bool(NOT_AN_ANSWER.search(text[max(0, start - NEAR) : start].rpartition("\n")[2]))


def value_next(text: str, end: int) -> bool:
    """Whether a value stands right after a mark of an answer."""
    return bool(_SUPPOSED.match(text[end : end + NEAR]))


def last_denial(text: str) -> int:
    """Where the text last says of a value that it is not the answer; 0 where it nowhere does."""
    denials = [denial.end() for denial in _DENIES_ANSWER.finditer(text)]
    return max((end for end in denials if _DENIED.match(text[end : end + 2 * NEAR])), default=0)


def past_kind(said: str) -> int:
    """Where a statement goes on after it has said of what kind the answer is not; 0 where it does not say that."""
    of_kind = None if _DENIED.match(said) else _NOT_OF_KIND.match(said)
    return of_kind.end() if of_kind else 0


def asserted(said: str) -> str | None:
    """The part of a statement that says what the answer is: "4" of "not 3, but 4". None where it only denies."""
    if denied := _DENIED.match(said):
        instead = _INSTEAD.search(said, denied.end())
        if instead is None:
            return None
        said = said[instead.end() :]
    else:
        said = said[past_kind(said) :]
    return None if _DENIED_WITHIN.match(said) else said


def is_denied_box(text: str, start: int, inside: str) -> bool:
    """Whether the words before a box deny it, or it holds what the answer is not."""
    if _DENIES_BOX.search(text[max(0, start - NEAR) : start]):
        return True
    return bool(_DENIED_WITHIN.match(inside) and _NAMES_VALUE.search(WRAPPED.sub(r" \1 ", inside)))


def is_wrong_next(text: str, at: int) -> bool:
    """Whether the text goes on with a question mark, or calls wrong what stands before: `is wrong`."""
    return bool(_WRONG_NEXT.match(text, at))


def is_taken_back(text: str, end: int) -> bool:
    """`is_wrong_next`, past the signs that close an answer which ends at `end`: `$3$?`."""
    ended = _ENDS.match(text, end)
    return ended is not None and is_wrong_next(text, ended.end())


def is_rejected(statement: str) -> bool:
    """Whether a statement calls the answer wrong that it begins with: `3, which is wrong`."""
    return bool(_REJECTED.match(statement))


def without_rejects(text: str) -> str:
    """The text without its questions, and without what it calls wrong."""
    clauses = [_REJECTS.sub("", clause[0]) for clause in _CLAUSE.finditer(text)]
    return "".join(clause for clause in clauses if "?" not in clause.rstrip()[-2:]).strip()
