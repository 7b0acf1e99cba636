"""What a text says of its own answers: taken back, doubted after the last one, or followed by another question. Pure.

All scanning is linear in the text; at most `MAX_HESITATIONS` hesitations after an answer are looked at.
"""

from __future__ import annotations

import itertools
import re

from rft_ray.grading.answer_numbers import numbers_in
from rft_ray.grading.answer_values import Answer

MAX_HESITATIONS = 20

_OTHER_QUESTION = re.compile(
    r"<\|(?:im_start|start_header_id|user|eot_id|im_end|endoftext|end)|</s>|<(?:start|end)_of_turn>|<eos>|\[INST\]"
    r"|(?:^|\n)[ \t#*_>\[(]{0,8}(?:next[ ]|new[ ]|another[ ])?"
    r"(?:(?:question|problem|instruction|example|exercise|human|user|q|问题|题目|題目|pregunta|frage)\b"
    r"[ \t]{0,2}#?\d{0,4}[*_\])]{0,2}[ \t]{0,2}[:：])"
    r"|(?:^|\n)[ \t]{0,3}#{1,6}[ \t]{1,3}(?:next[ ]|new[ ]|another[ ])?(?:question|problem|exercise|example)"
    r"[ \t]{0,2}#?\d{0,4}[*_]{0,2}[ \t]{0,4}(?=\n)",
    re.I,
)
_QUESTION_WORDS = (
    "<|", "</s>", "_of_turn", "<eos>", "[inst]", "question", "problem", "instruction", "example", "exercise", "human",
    "user", "问", "题", "題", "pregunta", "frage",
)  # fmt: skip
"""One of these stands in every text that `_OTHER_QUESTION` finds something in."""
_TAKEN_BACK = re.compile(
    r"\b(?:(?:wait|actually|correction|mistaken?|error|sorry|oops|on\s+second\s+thought|scratch\s+that|hmm+"
    r"|let\s+me\s+(?:double|correct|fix)|i\s+must\s+correct|(?:to\s+)?correct\s+(?:this|that|myself|it|my)"
    r"|not\s+(?:right|correct)|(?:is|was)\s+wrong|incorrect)\b"
    r"|apolog|let\s+me\s+re|re-?(?:check|consider|calculat|evaluat|examin)|no,)",
    re.I,
)
_HESITATES = re.compile(
    r"(?:[.!?…,;:(—–*\n]|\s[-–—])\s{0,3}(?:wait|no|oops|sorry|actually|correction|i\s+mean|hmm|rather|on\s+second\s+thought"
    r"|scratch\s+that|i\s+(?:made|see)\b)\b[ \t,.:;…!—–-]{0,6}",
    re.I,
)
_SAYS_WRONG = re.compile(
    r"(?:that|this|it|which|answer)(?:['’]s|\s+(?:is|was|seems|looks)|\s+(?:isn|wasn|doesn)['’]t)(?:\s+\w+){0,2}?\s+(?:wrong"
    r"|incorrect|right|correct|mistaken|an?\s+(?:mistake|error))|\bmade\s+an?\s+(?:\w+\s+)?(?:mistake|error)|scratch\s+that",
    re.I,
)
_DENIES = re.compile(r"\bnot\b|n['’]t\b|wrong|incorrect|mistake|error|scratch", re.I)
_NAMES_ANOTHER = re.compile(
    r"(?:(?:no|wait|sorry|i\s+mean|it(?:['’]s|\s+(?:is|was|must\s+be|should\s+be|would\s+be))|that(?:['’]s|\s+(?:is|should\s+be))"
    r"|(?:the\s+)?answer\s+(?:is|should\s+be)|make\s+(?:it|that)|should\s+be|about|actually|only|just)[\s,.:…—–-]{1,4}){0,4}"
    r"[-*$€£\\(]{0,5}\d[\d,.]*(?!\s?[-+*/×÷x=]\s?[$\d])",
    re.I,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|\n|。")


def end_of_own_part(text: str, start: int) -> int:
    """Where another question begins after a position; the end of the text where none does."""
    other = _OTHER_QUESTION.search(text, start)
    return other.start() if other else len(text)


def may_run_on(text: str) -> bool:
    """Whether a text holds a word that begins another question; a quick look before the exact one."""
    lower = text.lower()
    may = any(map(lower.__contains__, _QUESTION_WORDS)) or "q" in lower.replace("qu", "")
    return may and _OTHER_QUESTION.search(text) is not None


def takes_back(between: str) -> bool:
    """Whether the text from one answer to the next one takes the first back."""
    return _TAKEN_BACK.search(between) is not None


def doubt_after(text: str, start: int, answer: Answer) -> str:
    """The words after the last answer that take it back or name another number; empty where there are none.

    A hesitation counts where its sentence calls the answer wrong, names another number ("wait, 19"), or holds an
    equation without the answer's number. A check that names the answer's number doesn't.
    """
    end = end_of_own_part(text, start) if _HESITATES.search(text, start) else start
    for hesitation in itertools.islice(_HESITATES.finditer(text, start, end), MAX_HESITATIONS):
        said = text[hesitation.start() : _end_of_sentence(text, hesitation.end(), end)].lstrip(" .!?…,;:(*\n")
        tail = text[hesitation.end() : _end_of_sentence(text, hesitation.end(), end)]
        wrong = _SAYS_WRONG.search(said)
        if wrong and _DENIES.search(said):
            return said
        names = _NAMES_ANOTHER.match(tail) is not None or "=" in tail
        values = numbers_in(tail) if names else []
        said_again = (int(answer.value),) if answer.timed else (answer.value, answer.also)
        if values and not any(value in values for value in said_again):
            return said
    return ""


def _end_of_sentence(text: str, start: int, limit: int) -> int:
    """The end of the sentence that goes on at a position, within 200 characters."""
    limit = min(limit, start + 200)
    end = _SENTENCE_END.search(text, start, limit)
    return end.end() if end else limit
