"""The answer that a path votes for, as the run's own verifier reads it: text -> canonical answer, or why there is none.

`gsm8k` reads numbers by the strict rules, whatever mode the run had; `choice`, `exact`, `regex` and `math` read as in
the run, the last two in a child process. `python` and a function of the user's compare a path with a gold answer, which
a question of the service does not have: nothing can be voted for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from rft_ray.grading.reasoning import Reasoning, closes_draft
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.grading.verifiers import open_verifier
from rft_ray.records import Problem, Status

T = TypeVar("T")

_ANY_GOLD = Problem("", "", "", "0")
"""A verifier needs a gold answer. Its value does not influence which answer a path votes for."""


class AnswerReader:
    """Reads the answers of paths by one verifier.

    Example: AnswerReader().read("3+2 = <<3+2=5>>5\\n#### 5", cut=False, opened=False) == "5"
    """

    def __init__(self, spec: VerifierSpec = DEFAULT, prompt: str = "") -> None:
        """`prompt`: the run's, as stored. After a template that ends in an opening tag texts begin in reasoning."""
        self.name = spec.name
        self.has_votes = not (spec.is_users or spec.name == "python")
        """Whether the verifier reads an answer without knowing the right one."""
        self.checks_equations = spec.is_gsm8k
        self._verifier = open_verifier(spec, collecting=False)
        self._reasoning = Reasoning.after(prompt, spec.reasoning_tags)
        self._thread = ThreadPoolExecutor(1, "verifier") if spec.in_child else None
        """A child process is asked from one thread, and ends with that thread."""

    def blanked(self, text: str) -> str:
        """The text without its reasoning, each character at its place: equations are read from it."""
        return self._reasoning.blanked(text)

    def read(self, text: str, *, cut: bool, opened: bool) -> str | Status:
        """The canonical answer, or the status of a path that does not vote.

        `cut`: the text stopped at the token limit. `opened`: the prompt opens reasoning, in which the text begins.
        Raises ChildError where the verifier's child process cannot start.
        """
        if cut and opened and not (closes_draft(text) or any(f"</{tag}>" in text for tag in self._reasoning.tags)):
            return Status.TRUNCATED
        verdict = self._verifier.grade(_ANY_GOLD, self._reasoning.removed(text), truncated=cut)
        read = verdict.status in (Status.CORRECT, Status.WRONG_ANSWER)
        return verdict.answer if read and verdict.answer is not None else verdict.status

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """The result of a function that reads answers. Where a child process reads, other requests go on meanwhile."""
        if self._thread is None:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def start(self) -> None:
        """Start the child process, if the verifier has one: it imports for seconds. Raises ChildError."""
        if self.has_votes:
            await self.call(partial(self.read, "The answer is 2.", cut=False, opened=False))


GSM8K = AnswerReader()
