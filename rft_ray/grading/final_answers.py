"""Final answers that are no numbers: text -> the letter or the words that it ends in. Pure, and linear in the text.

`choice` reads a letter, `stated` the words of a final answer, in the forms in which models write them: `\\boxed{…}`,
`<answer>…</answer>`, `The answer is …`, `#### …`, and else the last line. Of several forms the first of this list
counts, and of several answers of one form the last.
"""

from __future__ import annotations

import re

from rft_ray.grading.unicode_forms import compatible

OPENING = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|mbox|operatorname)\s?\{([^{}]*)\}")
SAID_WRONG = r"(?:\s{1,3}(?:is|was)\s{1,3}(?:not|wrong|incorrect|false|too)\b|\s{1,3}(?:isn|wasn)['’]t\b)"
"""After an answer that is said to be none."""
_ASSERTED = (
    r"(?![*_$)\"'”’`]{0,4}(?:\s{0,3}\?|\+|#|-\w"  # or the beginning of a word: C++, C#, B-2
    r"|\s{0,3}(?:(?:,|/|&|,?\s?\bor\b|,?\s?\band\b)\s{0,3}(?:(?:option|choice)\s{1,3})?[*_$(]{0,4}[A-J]\)?[*_$]{0,3}"
    r"(?:\s{0,3}[.,;:<]|\s{0,3}\Z|\n|\s{1,3}(?:and|or)\b))"
    rf"|{SAID_WRONG}))"
)
"""After a letter that is neither asked about, nor the first of several, nor said to be wrong."""
_LETTER = (
    r"(?:\(([A-Ja-j])\)|([A-J])(?=\s{0,3}(?:[).:,;*\]}$\"”`\\<]|['’](?!\w)|\Z|\n)"
    rf"|\s{{1,3}}(?:(?:because|since|as|which|due|given)\b|[(–—-]))|([B-HJ])(?![\w'’])){_ASSERTED}"
)
_MARKS = r"[\s*_$\"'“‘`\[]{0,6}"
_LEADS = rf"{_MARKS}(?:(?:option|choice)\s{{1,3}})?{_MARKS}(?:\\[(\[]\s{{0,3}})?"
_GIVES = (
    r"(?:\s{1,3}(?:to|for)\s{1,3}(?:(?:the|this|that|your)\s{1,3})?(?:question|problem)(?:\s{1,3}\d{1,4})?)?[*_]{0,3}"
    r"(?:\s{1,3}(?:is|was|(?:should|must|will)\s{1,3}be)(?:\s{1,3}(?:therefore|thus|hence|then|clearly|definitely))?"
    r"[*_]{0,3}(?:\s{0,3}:)?|\s{0,3}[:=])"
)
_RIGHT = r"(?<!/)(?<!wrong )(?<!incorrect )"
_SAID_LETTERS = tuple(
    re.compile(said + _LEADS + _LETTER, re.IGNORECASE)
    for said in (rf"{_RIGHT}answer(?:{_GIVES}|>)", rf"{_RIGHT}(?:option|choice){_GIVES}", rf"{_RIGHT}answer")
)
"""Words that say which letter is the answer; the first of these that a text has count."""
_LETTER_SAID = re.compile(
    r"(?:(?:^|[.;:!?]\s|(?<![A-J)]),\s|\b(?:so|thus|therefore|hence|then|means|conclude)\s)\s{0,3}"
    r"(?:(?:option|choice)\s{1,3})?)[*_$\"“`]{0,4}"
    r"(?:\(([A-Ja-j])\)|([A-J])())[*_$)\"'”`]{0,4}\s{1,3}(?:is|was|(?:should|must)\s{1,3}be)"
    r"\s{1,3}(?:the|my|our)\s{1,3}(?:(?:best|correct|final|only|right)\s{1,3}){0,2}(?:answer|option|choice)\b(?!\s?\?)",
    re.IGNORECASE | re.MULTILINE,
)
"""A letter of which a clause says that it is the answer, and not whether or that it is one of several."""
_NAMED_LETTER = re.compile(
    rf"(?:option|choice){_LEADS}(?:\(([A-Ja-j])\)|([A-J])()(?![\w'’])){_ASSERTED}", re.IGNORECASE
)
_GOLD_LETTER = re.compile(r"[^\w]{0,4}([A-Ja-j])(?:[^\w]*|(?:\)|[.:](?:\s|\\[ ,;:!])).*)", re.DOTALL)
SAID = re.compile(r"(?:(?<!\bno )answer\s{1,3}is|answer[*_]{0,3}\s{0,3}:|####)[ \t*:]{0,4}", re.IGNORECASE)
SAID_FIRST = re.compile(rf"\A[*_\s]*(?:(?:the|final|correct)\s)*{SAID.pattern}", re.IGNORECASE)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
EDGES = " \t\n.,;:!?*_`\"'“”‘’$"
LEADING = re.compile(rf"\A(?:(?!\.\d)[{re.escape(EDGES)}])+")
"""Marks before an answer; the point of .5 is none."""
_SAYS = re.compile(rf"[^\s#{re.escape(EDGES)}]")
_LATEX_EDGES = re.compile(r"\A(?:\$+|\\[(\[])|(?:\$+|\\[)\]])\Z")
MOST_CHARS = 2_000
"""So much of an answer, and of what may stand before it, is read."""
MOST_MARKS = 100
"""So many of the last marks with nothing after them are looked at."""


def boxed(text: str) -> str | None:
    """What the last `\\boxed{…}` that is closed holds; None where there is none."""
    box = last_box(text)
    return None if box is None else text[box[1] : box[2]].strip()


def last_box(text: str) -> tuple[int, int, int] | None:
    """Where the last box begins, and where what it holds begins and ends; None where it is not closed, or none is."""
    last = None
    for opening in OPENING.finditer(text):
        last = opening
    if last is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, last.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return last.start(), last.end(), brace.start()
    return None


def bare_latex(gold: str) -> str:
    """A gold answer in LaTeX without its box or the signs of maths around it: `\\[3\\]` is `3`."""
    return boxed(gold) or _LATEX_EDGES.sub("", gold.strip())


def gold_choice(gold: str) -> str | None:
    """The letter of a gold answer: `C`, `(C)`, `c.`, `\\boxed{C}`, `C) 12 apples`; None for all else."""
    written = WRAPPED.sub(r"\1", boxed(gold) or gold).strip()
    letter = _GOLD_LETTER.fullmatch(written)
    return letter[1].upper() if letter else None


def choice(text: str) -> str | None:
    """The letter from A to J that a completion chooses; None where it chooses none."""
    if (inside := boxed(text)) is not None and (letter := gold_choice(inside)):
        return letter
    text = WRAPPED.sub(r"\1", text)
    for pattern in _SAID_LETTERS:
        if said := _letters(pattern, text):
            return said[-1]
    before, last_line = _last_lines(text)
    letter = gold_choice(last_line.removeprefix("####"))
    if letter and gold_choice(before) != chr(ord(letter) - 1):  # else it is the last of listed options
        return letter
    if said := _letters(_LETTER_SAID, text):
        return said[-1]
    named = set(_letters(_NAMED_LETTER, last_line) or _letters(_NAMED_LETTER, text))
    return named.pop() if len(named) == 1 else None


def _letters(pattern: re.Pattern[str], text: str) -> list[str]:
    """The letters that a pattern finds; a small one counts in parentheses only."""
    return [
        letter.upper()
        for match in pattern.finditer(text)
        if (letter := match[1] or match[2] or match[3]) and (match[1] or letter.isupper())
    ]


def gold_words(gold: str) -> str | None:
    """A gold answer of one line as a completion states it: without a box, tags, or `The answer is` before it.

    None for several lines, and where nothing is left without marks.
    """
    written = gold.strip()
    if (words := boxed(written)) is None and (words := tagged(written)) is None:
        words = SAID_FIRST.sub("", written)
    return words.strip() if "\n" not in written and normalised(words) else None


def stated(text: str) -> str | None:
    """The words of the final answer as written; None for a text without words.

    After a mark with nothing behind it, as in the heading `**Answer:**`, they are the next line that says something.
    """
    if (answer := boxed(text)) is not None or (answer := tagged(text)) is not None:
        return answer.strip() or None
    for said in [*SAID.finditer(text)][: -MOST_MARKS - 1 : -1]:
        if answer := said_after(text, said.end()):
            return answer
    return _last_lines(text)[1] or None


def tagged(text: str) -> str | None:
    """What the last `<answer>` that is closed holds; None where there is none."""
    opened, held = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            held, opened = text[opened : tag.start()], None
    return held


def said_after(text: str, start: int) -> str:
    """The rest of the line from `start`, or the first line after it that says something; empty where none does."""
    says = _SAYS.search(text, start, start + MOST_CHARS)
    if says is None:
        return ""
    start = max(start, text.rfind("\n", start, says.start()) + 1)
    return text[start : start + MOST_CHARS].partition("\n")[0].strip()


def normalised(answer: str) -> str:
    """An answer without what does not matter: case, width, white space, and marks around it."""
    plain = compatible(WRAPPED.sub(r"\1", answer)).casefold()
    return LEADING.sub("", " ".join(plain.split()).rstrip(EDGES))


def _last_lines(text: str) -> tuple[str, str]:
    """The last two lines that are not empty."""
    before, _, last_line = text.rstrip().rpartition("\n")
    return before.rstrip().rpartition("\n")[2].strip(), last_line.strip()
