"""What makes two correct samples one path: a key for each candidate, of which equal ones are the same path.

In: one problem, its candidates, and a PathJob, whose `distinct_by` says what decides. Out: keys. For `gsm8k` the
default, the equation lists, is in `selector.py`, as the paper has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rft_ray.grading import Mode
from rft_ray.grading.child import Child, Limits, NoAnswer
from rft_ray.grading.equations import equations_of
from rft_ray.grading.verifiers import check_source, problem_data
from rft_ray.paths import NormalForm
from rft_ray.paths.normal_forms import normalise
from rft_ray.paths.text_forms import answer_and_length, normalised_text
from rft_ray.plan.jobs import PathJob
from rft_ray.records import Problem

LIMITS = Limits(10.0, 4.0)
"""What a function of the user's may use for one text."""

Read = Callable[[Problem, str, str], str]
"""(problem, text without reasoning, answer) -> key."""


def equations_or_words(text: str, mode: Mode, normal_form: NormalForm) -> str:
    """The key of a text by its equations, or by its words where it has none or one that does not hold.

    That of `distinct_by: equations` with another verifier than gsm8k.
    """
    equations = equations_of(text, mode)
    if equations.hold and equations.listed:
        return "|".join(normalise(equations.listed, normal_form))
    return normalised_text(text)


class PathKeys:
    """The keys of a job's candidates. Starts a child process for a function of the user's, which `close` ends."""

    def __init__(self, job: PathJob) -> None:
        self._job = job
        self._child: Child | None = None
        if job.distinct_source:
            self._child = Child(job.distinct_by, LIMITS, own_environment=True)

    def of(self, problem: Problem, texts: Sequence[str], answers: Sequence[str]) -> list[str]:
        """One key for each text; equal texts have equal keys."""
        keys: dict[str, str] = {}
        for text, answer in zip(texts, answers, strict=True):
            if text not in keys:
                keys[text] = self._key(problem, text, answer)
        return [keys[text] for text in texts]

    def close(self) -> None:
        if self._child:
            self._child.close()

    def _key(self, problem: Problem, text: str, answer: str) -> str:
        if self._child:
            return self._own_key(self._child, problem, text)
        if self._job.distinct_by == "answer_and_length":
            return answer_and_length(answer, text)
        if self._job.distinct_by == "equations":
            return equations_or_words(text, self._job.mode, self._job.normal_form)
        return normalised_text(text)

    def _own_key(self, child: Child, problem: Problem, text: str) -> str:
        """The key by a function of the user's; where it fails, a text is equal to itself only.

        Raises ChildError where the function's module is not the planned one.
        """
        if not child.runs:
            check_source(self._job.distinct_by, self._job.distinct_source, "corpus.distinct_by")
        try:
            answer = child.ask(operation="key", problem=problem_data(problem), text=text)
        except NoAnswer:
            answer = {}
        return str(answer.get("key", f"\n{normalised_text(text)}"))
