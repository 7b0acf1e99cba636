"""What other graders say of a completion of a GSM8K problem: (text, gold) -> whether the answer is accepted.

Each rule is written here from its published definition:

    lm-evaluation-harness 4e7e0d4, tasks/gsm8k/gsm8k.yaml (version 3.0): the filters `strict-match` and
        `flexible-extract`, compared by its `exact_match` with the task's `regexes_to_ignore`
    verl b178a3c, utils/reward_score/gsm8k.py: its methods `strict` and `flexible`, both on the last 300 characters
    Math-Verify, the installed library with its default settings, in a child process that ends at a deadline
    paper: the evaluation of arXiv 2308.01825, which is this project's paper mode

`gold` is the bare final answer. All are linear in the text but for Math-Verify, which has the deadline.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rft_ray.grading import EVALUATING, grade
from rft_ray.grading.spec import VerifierSpec
from rft_ray.grading.verifiers import InChild
from rft_ray.records import Problem, Status, Verdict

MATH_VERIFY_S = 5.0
"""Seconds that Math-Verify has for one text; its own limit."""
MATH_VERIFY_GIB = 4.0
VERL_CHARS = 300
_NO_MATCH = "[invalid]"
_AFTER_HASHES = re.compile(r"#### (\-?[0-9\.\,]+)")
_LAST_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_VERL_NUMBER = re.compile(r"(\-?[0-9\.\,]+)")


def lm_eval_strict(text: str, gold: str) -> bool:
    """lm-eval's `strict-match`: the first number after `#### `."""
    match = _AFTER_HASHES.search(text)
    return _exact_match(match[1].strip() if match else _NO_MATCH, gold)


def lm_eval_flexible(text: str, gold: str) -> bool:
    """lm-eval's `flexible-extract`: the last number of the text."""
    last = None
    for match in _LAST_NUMBER.finditer(text):
        last = match
    return _exact_match((last[1] or last[2]).strip() if last else _NO_MATCH, gold)


def _exact_match(prediction: str, gold: str) -> bool:
    return _compared(prediction) == _compared(f"#### {gold}")


def _compared(text: str) -> str:
    """A text as `exact_match` compares it: no `,`, no `$`, nothing up to `#### `, no period at the end, lower case."""
    plain = text.replace(",", "").replace("$", "")
    return plain.rpartition("#### ")[2].removesuffix(".").lower()


def verl_strict(text: str, gold: str) -> bool:
    """verl's `strict`: the last number after `#### `."""
    answers = _AFTER_HASHES.findall(text[-VERL_CHARS:])
    return bool(answers) and answers[-1].replace(",", "") == gold.replace(",", "")


def verl_flexible(text: str, gold: str) -> bool:
    """verl's `flexible`: the last run of digits, periods and commas that is not a lone period; commas stay."""
    runs = _VERL_NUMBER.findall(text[-VERL_CHARS:])
    if not runs:
        return False
    last: str = next((run for run in reversed(runs) if run not in ("", ".")), runs[0])
    return last == gold.replace(",", "")


def paper(text: str, gold: str) -> bool:
    """The reference's evaluation: the number after the first `#### `, within 1e-4."""
    verdict = grade(text, gold, "paper", tolerance=EVALUATING, check_equations=False)
    return verdict.status is Status.CORRECT


class MathVerify:
    """Math-Verify in a child process. `close` ends it."""

    def __init__(self) -> None:
        self._verifier = InChild(VerifierSpec("math", timeout_s=MATH_VERIFY_S, memory_gib=MATH_VERIFY_GIB))

    def __call__(self, text: str, gold: str) -> bool:
        """Whether the library accepts the text; not where it fails or exceeds the deadline. Raises ChildError."""
        verdict: Verdict = self._verifier.grade(Problem("", "", "", gold), text, truncated=False)
        return verdict.status is Status.CORRECT

    def close(self) -> None:
        self._verifier.close()


RULES: dict[str, Callable[[str, str], bool]] = {
    "paper": paper,
    "lm-eval strict-match": lm_eval_strict,
    "lm-eval flexible-extract": lm_eval_flexible,
    "verl strict": verl_strict,
    "verl flexible": verl_flexible,
}
"""The rules that need no process of their own, by the name that tables show."""
