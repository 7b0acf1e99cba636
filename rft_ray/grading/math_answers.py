"""LaTeX answers compared by the library math-verify: (problem, text, truncated) -> Verdict. For the grading child only.

math-verify ends what takes too long by SIGALRM, which works in the main thread only and scores such an answer as wrong.
Here its timeouts are off: `child.py` ends the whole process at the deadline instead.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from rft_ray.grading.equations import MAX_TEXT_CHARS
from rft_ray.grading.final_answers import bare_latex
from rft_ray.grading.latex_answers import Stated, stated_latex
from rft_ray.records import Problem, Status, Verdict

for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # it warns that its timeouts are off


def is_readable(gold: str) -> bool:
    """Whether the gold answer is read as something that equals itself, and as a whole."""
    if Stated("", bare_latex(gold), closed=True).in_two_units:
        return False
    parsed = _gold(gold)
    return bool(parsed) and _equal(parsed, parsed)


def grade_math(problem: Problem, text: str, truncated: bool) -> Verdict:
    """Verdict on one completion. Raises what the library raises."""
    if len(text) > MAX_TEXT_CHARS:
        return Verdict(Status.UNDECIDED, None, f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
    stated = stated_latex(text)
    answer = stated and parse(stated.latex, parsing_timeout=None, raise_on_error=True)
    if not stated or not answer:
        return Verdict(Status.NO_ANSWER, None, "")
    written = str(answer[-1])
    if truncated and not stated.closed:
        return Verdict(Status.TRUNCATED, written, "the text is cut before it boxes its final answer")
    if stated.in_two_units:
        return Verdict(Status.UNDECIDED, written, f"answer {stated.written[:60]} is in two units")
    if _equal(_gold(problem.answer), answer):
        return Verdict(Status.CORRECT, written, "")
    return Verdict(Status.WRONG_ANSWER, written, f"answer {written[:60]}, gold {problem.answer[:60]}")


@lru_cache(maxsize=1_024)
def _gold(gold: str) -> Any:
    return parse(f"\\boxed{{{bare_latex(gold)}}}", parsing_timeout=None, raise_on_error=True)


def _equal(gold: Any, answer: Any) -> bool:
    return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))
