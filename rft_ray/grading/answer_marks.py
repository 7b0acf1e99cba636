"""The places of a completion that are marked as its final answer: text -> marks, in order. Pure.

Marks are `####`, `\\boxed{…}`, `<answer>…</answer>`, the key "answer" of JSON, `A:` at the beginning of a line, and the
word "answer" (or that of another language) with a verb or sign that gives it: "the answer is", "Answer:", "答案是".
A mark with nothing after it on its line is a heading: then the answer is the next line that says something.

Limits: all scanning is linear in the text; of one answer `MAX_ANSWER_CHARS` characters are read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from rft_ray.grading.answer_numerals import has_numeral
from rft_ray.grading.answer_values import MAX_ANSWER_CHARS, MAX_ANSWERS, ConflictError
from rft_ray.grading.answer_words import states_in_words

MAX_NOUNS = 1_000
"""Largest number of times that the word for an answer may stand in a text."""


class Mark(NamedTuple):
    """A place in the text that is marked as the final answer.

    Example: Mark(4, 14, 24, "is") for "The answer is 18 apples."
    """

    start: int
    opens: int
    """Where the text of the answer starts."""
    end: int
    """Where it ends."""
    opener: str
    """`#`, `box`, `tag`, `json`, `is`, `:` (or `=`), `A`, `.`, `**` or `last`: what precedes the answer."""
    foreign: bool = False
    """Whether the mark is of a language in which a comma may be the decimal sign."""


_HASHES = re.compile(r"#{4,}")
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{")
_A_LINE = re.compile(
    r"^[ \t*_#>]{0,8}"
    r"(?:(?:A|答|답)[*_]{0,2}[:：]|A(?:ns|NS)(?:[*_.]{0,3}[ \t]{0,2}[:：=]|\.)|Final[ ][Rr]esult[*_]{0,2}[:：])"
    r"[*_]{0,2}",
    re.M,
)
_A_SIGNS = ("A:", "A*", "A_", "A：", "Ans", "ANS", "Final r", "Final R", "答：", "答:", "답:")
_B_LINE = re.compile(r"(?:^[ \t*_]{0,8}|[,;][ \t]{0,3})B[*_]{0,2}[:：]", re.M)
_BOLD = re.compile(r"\*\*((?:[^*\n]|\*(?!\*)){1,400})\*\*")
_NOUNS = {
    "answer": False, "antwoord": True, "jawaban": True, "cevap": True, "svaret": True, "vastaus": True, "sagot": False,
    "jibu": False, "respuesta": True, "antwort": True, "réponse": True, "reponse": True, "resposta": True,
    "risposta": True, "ответ": True, "відповідь": True, "odpowiedź": True, "odpověď": True, "răspunsul": True,
    "válasz": True, "απάντηση": True, "đáp án": True, "đáp số": True, "câu trả lời": True,
    "答案": False, "答え": False, "정답": False,
    "답": False, "الإجابة": False, "الجواب": False, "جواب": False, "תשובה": False, "उत्तर": False, "উত্তর": False,
    "คำตอบ": False, "సమాధానం": False, "பதில்": False,
}  # fmt: skip
"""The word for an answer, and whether its language writes a decimal comma."""
_PARTS_OF_WORDS = {"답": re.compile("(?!해)[가-힣]\\Z"), "جواب": re.compile("ال\\Z")}
"""What makes such a word the end of another one."""
_VERBLESS = {
    "ответ", "відповідь", "cevap", "válasz", "jawaban", "תשובה", "الجواب", "الإجابة", "جواب", "उत्तर", "উত্তর",
    "సమాధానం", "பதில்",
}  # fmt: skip
"""Those after which a number may follow without a verb."""
_GIVES_ABROAD = re.compile(
    r"(?:nya)?[ \t*_]{1,4}(?:är|er|on|to|là|adalah|este|je|είναι|היא|הוא|ay|є)[ \t:*_]{1,5}(?=[-$€£₫\\(]{0,4}\d)"
)
"""Verbs after the word for an answer that are other words in English, before a number."""
_ASCII_NOUNS = [(noun, foreign) for noun, foreign in _NOUNS.items() if noun.isascii()]
_ADJECTIVES = (
    r"(?:(?:final|correct|right|numeric|numerical|exact|simplified|rounded|required|actual|complete|new|corrected|revised"
    r"|real|true|overall|desired|resulting|short)[\s_]+){0,3}"
)
_BEFORE = re.compile(
    r"(?:^[^\w\n]*|[^\w\s-]|\b(?:the|my|our|your|this|his|her|their|its|an|is|so|and|thus|hence|therefore|then|now|final|step|is)\s|_)"
    rf"\s{{0,4}}{_ADJECTIVES}\Z",
    re.I | re.M,
)
NOT_AN_ANSWER = re.compile(
    r"\b(?:if|suppose|whether|each|per|every|any|wrong|incorrect|thought|guessed|assumed)\s[^.\n]{0,20}\Z", re.I
)
_CLAUSE = (
    r"(?:[ \t]{0,3}\([^()\n]{0,40}\))?"
    r"(?:[ \t,]{1,3}(?:to|for|of|in|as|after|here|that|we|you|I|then|therefore|rounded|finale?|correcta?|à|de|du|auf|zu"
    r"|für)\b[^\n.:=]{0,80}?)?"
)
_GIVES = (
    r"(?:(?P<sign>[-=]>|[:：=→]|≈|[-–—](?=[ \t]+[\W_]{0,4}\d))"
    r"|(?:is|was|(?:would|should|must|will|has[ \t]to|ought[ \t]to|may|might|can|could)(?:[ \t]only)?[ \t]be"
    r"|(?:comes?|came)[ \t](?:out[ \t])?(?:to(?:[ \t]be)?|as)"
    r"|becomes|equals|turn(?:s|ed)[ \t]out[ \t]to[ \t]be|works[ \t]out[ \t](?:to|as)|es|est|ist|lautet|beträgt|sería"
    r"|serait|è|é|ni|—)(?![\w'’])"
    r"|of(?=[ \t]+[^\w\n]{0,4}\d)|(?:就|应该|應該)?(?:是|为|為|等于)|は|는|은|هي|هو|है|হল|হলো|คือ)"
)
_AFTER = re.compile(
    rf"(?:s(?=[ \t]{{0,2}}:))?{_CLAUSE}[*_ \t\"'`$\\)]{{0,6}}{_GIVES}"
    r"(?:[ \t]{1,2}(?:therefore|thus|hence|then|simply|as[ ]follows)(?=[ \t]{0,2}:))?[ \t*_]{0,4}(?:[:：=](?!=))?"
    r"(?![ \t*_]{0,4}(?:(?:not|never|nicht|pas|kein|worth)\b|no\b(?!,)))",
    re.I,
)
_VERB_BEFORE = re.compile(
    r"\b(?:lautet|ist|beträgt|wäre|is|luidt)\s+(?:(?:also|somit|daher|dann|dus)\s+)?(?:die|unsere|deine|het)\s+(?:[a-z]{3,12}\s+)?\Z",
    re.I,
)
_NUMBER_NEXT = re.compile(r"(?:[ \t]+(?:also|somit|daher|dus))?[ \t]+[*_$€£(\\-]{0,4}(?=\d)", re.ASCII)
_NUMBER_BEFORE = re.compile(
    rf"(?:(?<=[\s*$(])|\A)(?P<number>[-−]?[$€£]?\d[\d,.]*%?(?:[*$)]{{1,3}})?(?:\s[a-z]{{2,12}}){{0,2}})\s(?:is|are)\s"
    rf"(?:the|our|my|your)\s{_ADJECTIVES}\Z"
)
_AFTER_OPERATOR = re.compile(r"(?:[-+*/×÷^]|\b(?:and|or|than|not|of|times|plus|minus|whether|if))\s{0,2}[$*(]{0,3}\Z")
_CONCLUDES_ABROAD = (
    r"por\s(?:lo\s)?tanto|as[ií]\sque|en\stotal|donc|par\sconséquent|au\stotal|daher|somit|insgesamt|portanto|no\stotal"
    r"|quindi|dunque|in\stotale|итого|таким\sобразом|следовательно|значит"
)
_CONCLUDES = re.compile(
    r"[\s*_>#-]{0,8}(?:(?:and\s+)?(?:therefore|thus|hence|consequently|as\s+a\s+result|in\s+(?:conclusion|total|all|summary)"
    rf"|altogether|overall|{_CONCLUDES_ABROAD})\b|因此|所以|따라서|그러므로|したがって|よって|(?P<so>so)\b"
    r"|(?P<label>(?:(?:final|overall|grand|the|das|die|el|le|la|il|o)\s+){0,2}(?:total|result|solution|conclusion|ergebnis|lösung"
    r"|resultado|résultat|risultato|solución|solução|результат|итого|结果)(?:\s[a-z]{2,12}){0,4}[*_]{0,2}"
    r"(?:[:=：]|\s=|\s(?:ist|es|est|é|è)(?=\s))))[*_,:： ，、]{0,6}",
    re.I,
)
_LAST_SENTENCE = re.compile(r"[.!?][*_\"')]{0,3}\s+(?=\S)|。\s{0,3}(?=\S)")
_LABEL_OF_MANY = re.compile(r"\b(?:correct|right|true|short|complete|new)\s+\Z", re.I)
_GOES_ON = re.compile(r"\n[ \t]{0,20}&?[ \t]{0,3}=(?!=)[^\n]{0,200}")
_LABELS = re.compile(r"\d{1,3}\s?[:)]")
_HEADING_LINE = re.compile(r"(?:[*_#:：.\s]|\\[\[(]|\$\$)*(?=\n)")
_OPENS_HEADING = re.compile(rf"^[^\w\n]*(?:the[ ])?{_ADJECTIVES}\Z", re.I | re.M)
_SAYS = re.compile(r"\w")
_OPENS_TAG = re.compile(r"<(?:final[_ ]?)?\Z", re.I)
_KEY = re.compile(r"[\"'](?:final[_ ])?\Z", re.I)


def marks_of(text: str) -> list[Mark]:
    """The marks of a text in order, at most `MAX_ANSWERS` + 1 of a kind; those without a digit are left out."""
    return sorted(
        mark for mark in _all_marks(text) if _has_number(text[mark.opens : mark.end][:MAX_ANSWER_CHARS], mark)
    )


def _has_number(said: str, mark: Mark) -> bool:
    return has_numeral(said) or states_in_words(said, mark.opener)


def written(text: str, mark: Mark) -> str:
    """The text of the answer, up to one character more than is read."""
    return text[mark.opens : min(mark.end, mark.opens + MAX_ANSWER_CHARS + 1)]


def _all_marks(text: str) -> Iterator[Mark]:
    if "####" in text:
        for hashes in itertools.islice(_HASHES.finditer(text), MAX_ANSWERS + 1):
            yield _on_line_or_next(text, hashes.start(), hashes.end(), "#")
    if "\\boxed" in text or "\\fbox" in text:
        for box in itertools.islice(_BOXED.finditer(text), MAX_ANSWERS + 1):
            yield Mark(box.start(), box.end(), _closing_brace(text, box.end()), "box")
    if any(map(text.__contains__, _A_SIGNS)):
        lines = [] if _B_LINE.search(text) else _A_LINE.finditer(text)
        for line in itertools.islice(lines, MAX_ANSWERS + 1):
            yield _on_line_or_next(text, line.start(), line.end(), "A")
    lower = text.lower() if "İ" not in text else text.replace("İ", "I").lower()
    for noun, foreign in _ASCII_NOUNS if text.isascii() else _NOUNS.items():
        if noun in lower:
            if lower.count(noun) > MAX_NOUNS:
                raise ConflictError(f"the word {noun!r} more than {MAX_NOUNS} times (bound)")
            yield from itertools.islice(_by_noun(text, lower, noun, foreign), MAX_ANSWERS + 1)


def _by_noun(text: str, lower: str, noun: str, foreign: bool) -> Iterator[Mark]:
    """The marks that the word for an answer makes, where it is no part of a label ("long-answer", "each answer")."""
    start = lower.find(noun)
    while start >= 0:
        end = start + len(noun)
        before = text[max(0, start - 60) : start]
        if text.startswith(">", end) and _OPENS_TAG.search(before):
            yield _tagged(text, start - 1, end + 1, text.find("</", end))
        elif noun in _PARTS_OF_WORDS and _PARTS_OF_WORDS[noun].search(before):
            pass
        elif (mark := _said(text, before, start, end)) is not None:
            yield mark._replace(foreign=foreign)
        start = lower.find(noun, end)


def _said(text: str, before: str, start: int, end: int) -> Mark | None:
    """The mark of the word at `start`, with the verb or sign after it or as a heading; None where it is no mark."""
    line = before.rpartition("\n")[2]
    if before.endswith(("[", "【")) and text[end : end + 1] in ("]", "】"):
        return _on_line_or_next(text, start, end + 1, ":")
    if (before[-6:].lower() in ('"final', "'final")) and text[end : end + 1] == before[-6]:
        before = before[:-5]
    if before.endswith(("-", "</")) or (before[-1:].isalpha() and before[-1:].isascii()):
        return None
    if text[end : end + 1] in ("s", "S") and _LABEL_OF_MANY.search(before):
        return None
    after = _AFTER.match(text, end, min(len(text), end + 160))
    if after is None:
        if opens := _number_abroad(text, start, end):
            return _on_line_or_next(text, start, opens, "is")
        if _VERB_BEFORE.search(before) and (number := _NUMBER_NEXT.match(text, end)):
            return _on_line_or_next(text, start, number.end(), "is")
        if (number := _NUMBER_BEFORE.search(before)) and not _AFTER_OPERATOR.search(before, 0, number.start()):
            return Mark(start, start - len(before) + number.start("number"), start, "is")
        heading = _HEADING_LINE.match(text, end)
        if heading is None or not _OPENS_HEADING.search(line):
            return None
        return _on_line_or_next(text, start, heading.end(), ":")
    quote = text[end : end + 1]
    if quote in ('"', "'") and _KEY.search(before) and after["sign"] == ":":
        return _json_value(text, start, after.end())
    if (
        end - start == len("answer")
        and text[start:end].isascii()
        and (not _BEFORE.search(before) or NOT_AN_ANSWER.search(line))
    ):
        return None
    return _on_line_or_next(text, start, after.end(), ":" if after["sign"] else "is")


def _number_abroad(text: str, start: int, end: int) -> int:
    """Where the number stands that the word for an answer gives in a language other than English; 0 for none."""
    noun = text[start:end].lower()
    if noun == "answer":
        return 0
    given = _GIVES_ABROAD.match(text, end) or (_NUMBER_NEXT.match(text, end) if noun in _VERBLESS else None)
    return given.end() if given and not _LABELS.match(text, given.end()) else 0


def _json_value(text: str, start: int, opens: int) -> Mark:
    """The value of a key of JSON: up to its closing quote, or to the end of a bare number."""
    blank = len(text[opens : opens + 20]) - len(text[opens : opens + 20].lstrip())
    opens += blank
    quote = text[opens : opens + 1]
    if quote not in ('"', "'"):
        return Mark(start, opens, _end_of(text, opens, ("\n", "}")), "json")
    opens += 3 if text.startswith('\\"', opens + 1) else 1  # a string within the string
    return Mark(start, opens, _end_of(text, opens, (quote, "\n")), "json")


def _tagged(text: str, start: int, opens: int, closes: int) -> Mark:
    """What `<answer>` holds: its last line that says something. `closes` is below 0 where the tag is not closed."""
    content = text[opens : closes if closes >= 0 else len(text)].rstrip()
    opens += content.rfind("\n") + 1
    return Mark(start, opens, _end_of(text, opens, ("\n", "<")), "tag")


def _on_line_or_next(text: str, start: int, opens: int, opener: str) -> Mark:
    """A mark whose answer is the rest of its line, or the next line that says something."""
    end = _end_of(text, opens, ("\n", "####"))
    if not _SAYS.search(text, opens, end):
        end = _end_of(text, opens, ("\n",))
    if not _SAYS.search(text, opens, end):
        said = _SAYS.search(text, opens, opens + MAX_ANSWER_CHARS)
        if said is not None:
            opens = text.rfind("\n", opens, said.start()) + 1
            end = _end_of(text, opens, ("\n",))
            opener = "." if opener in (":", "is", "A") else opener
            if text.startswith("\\begin{", opens):
                opens, end = _last_line_of_display(text, opens)
    while (more := _GOES_ON.match(text, end)) and more.end() <= opens + MAX_ANSWER_CHARS:
        end = more.end()
    return Mark(start, opens, end, opener)


def _last_line_of_display(text: str, opens: int) -> tuple[int, int]:
    """Start and end of the last line of a LaTeX environment; empty where it is longer than what is read."""
    closes = text.find("\\end{", opens, opens + MAX_ANSWER_CHARS)
    if closes < 0:
        return opens, opens
    end = opens + len(text[opens:closes].rstrip())
    return text.rfind("\n", opens, end) + 1, end


def _end_of(text: str, opens: int, stops: tuple[str, ...]) -> int:
    """Where the first of the stops is, at most one character more than is read."""
    limit = min(len(text), opens + MAX_ANSWER_CHARS + 1)
    ends = [end for stop in (*stops, "<|", "</", "[/") if (end := text.find(stop, opens, limit)) >= 0]
    return min(ends, default=limit)


def _closing_brace(text: str, start: int) -> int:
    """Where the brace closes that is open at `start`; `start` where none does within what is read."""
    depth = 1
    for end in range(start, min(len(text), start + MAX_ANSWER_CHARS + 1)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end
    return start


_BOX_BEFORE = re.compile(
    r"(?:(?:[\d)}][ ]?(?:[+*/×÷]|\\(?:times|cdot|div))[ ]?|(?:(?<![\s\w])|(?<=[=(])[ ])[-−]|\d[ ][-−][ ])[${(\\]{0,3}"
    r"|\d|\^\{?)\Z"
)
_BOX_AFTER = re.compile(
    r"[ ]?(?:\^(?![ ]?\{?[ ]?\\circ)|\\(?:sqrt|[dt]?frac|pi|times|cdot|div)(?![a-z])|[²³√π×÷]|[-−+*/][ ]?[\d\\])|\d"
)
_BOX_SCALE = re.compile(
    r"[\s$*]{0,4}(?:\\text\{\s?)?(?:\\?%|(?:percent|hundred|thousand|million|billion|trillion)\b|万|亿)", re.I
)


def box_with_neighbours(text: str, mark: Mark, said: str) -> str | None:
    """What a box states with a scale or percent sign after it; None where it is a part of an expression."""
    after = mark.end + 1
    if _BOX_AFTER.match(text, after) or _BOX_BEFORE.search(text[max(0, mark.start - 12) : mark.start]):
        return None
    scale = _BOX_SCALE.match(text, after)
    return f"{said}{scale[0].strip('$*')}" if scale else said


def bold_on_last_line(text: str) -> Iterator[Mark]:
    """What is set in bold on the last line, as marks; it counts where a text has no other."""
    shown = text.rstrip()
    for bold in itertools.islice(_BOLD.finditer(shown, shown.rfind("\n") + 1), MAX_ANSWERS + 1):
        rest = shown[bold.end() : bold.end() + MAX_ANSWER_CHARS]
        label = bold[1].rstrip().endswith((":", "：")) or rest.lstrip().startswith((":", "："))
        sentence = bold[1].rstrip().endswith((".", "!", "?")) and has_numeral(rest)
        if has_numeral(bold[1][:MAX_ANSWER_CHARS]) and not label and not sentence:
            yield Mark(bold.start(), bold.start(1), bold.end(1), "**")


def conclusion_on_last_line(text: str) -> Iterator[Mark]:
    """The last sentence where it concludes ("Therefore, …", "Total: …") as a mark, where there is no other."""
    shown = text.rstrip()
    line = shown.rfind("\n") + 1
    if len(shown) - line > 5 * MAX_ANSWER_CHARS:
        return
    start = line
    for end in _LAST_SENTENCE.finditer(shown, line):
        start = end.end()
    said = _CONCLUDES.match(shown, start)
    if said is None or (said["so"] and start > line) or not has_numeral(shown[said.end() :][:MAX_ANSWER_CHARS]):
        return
    if said["label"] or shown.rstrip("*_$)]}\"' \\").endswith((".", "!", "。")):
        yield Mark(start, said.end(), len(shown), "last")
