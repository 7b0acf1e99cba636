"""Verifiers: (problem, completion) -> Verdict, by the rules that a config names.

    gsm8k             numbers and equations by `grader.py`, in two modes, in this process
    choice, exact     a letter; words (`final_answers.py`), in this process
    math              LaTeX answers by math-verify
    regex             the first group of a pattern
    python            the code of a completion against unit tests, in a sandbox
    module:function   the user's own

The last four run in a child process (`child.py`) with a deadline and limits. What goes wrong there is `undecided`, with
the reason as detail, and never a wrong answer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from rft_ray.grading import final_answers
from rft_ray.grading.child import Child, ChildError, Limits, NoAnswer
from rft_ray.grading.equations import MAX_TEXT_CHARS, Mode
from rft_ray.grading.grader import COLLECTING, EVALUATING, Unread, grade
from rft_ray.grading.spec import VerifierSpec, source_sha256
from rft_ray.records import Problem, Status, Verdict

FROM_GOLD = 3
"""How many problems of a shard give a canary each."""
KnownRight = tuple[Problem, str]
"""A problem and a completion that is right."""


class Verifier(Protocol):
    """Grades completions. Only `known_right` and `grade` may start a process, which `close` ends."""

    def grade(self, problem: Problem, text: str, *, truncated: bool) -> Verdict:
        """Verdict on one completion; raises nothing for any text. `truncated`: it stopped at the token limit."""
        ...

    def known_right(self, problems: Sequence[Problem]) -> list[KnownRight]:
        """Canaries: completions that it must grade as correct, its own or made from the gold of these problems."""
        ...

    def close(self) -> None:
        """End what it has started."""
        ...


CANARIES = (
    Problem("canary-integers", "", "3*4 = <<3*4=12>>12 pens.\n12+5 = <<12+5=17>>17\n#### 17", "17"),
    Problem("canary-decimals", "", "Half of 5 is 5/2 = <<5/2=2.5>>2.5\n2.5*4 = <<2.5*4=10>>10\n#### 10", "10"),
    Problem("canary-thousands", "", "1200*2 = <<1200*2=2400>>2400 in all.\n#### 2,400", "2400"),
)
"""Correct solutions of gsm8k."""
_CODE_CANARY = Problem(
    "canary-code", "", "def twice(n):\n    return 2 * n\n", "assert twice(2) == 4\nassert twice(0) == 0"
)


def open_verifier(spec: VerifierSpec, mode: Mode = "strict", *, collecting: bool = True) -> Verifier:
    """The verifier of a spec. `mode` and `collecting` (to train on, not to evaluate) matter to gsm8k alone."""
    if spec.is_gsm8k:
        return Gsm8k(mode, collecting, spec.unread)
    if not spec.in_child:
        return WrittenAnswer(ANSWERS[spec.name])
    return InChild(spec)


@dataclass(frozen=True, slots=True)
class Gsm8k:
    """Final numbers and, to collect paths, equations."""

    mode: Mode
    collecting: bool
    unread: Unread = "accept"

    def grade(self, problem: Problem, text: str, *, truncated: bool) -> Verdict:
        return grade(
            text,
            problem.answer,
            self.mode,
            truncated=truncated,
            tolerance=COLLECTING if self.collecting else EVALUATING,
            check_equations=self.collecting,
            unread=self.unread,
        )

    def known_right(self, problems: Sequence[Problem]) -> list[KnownRight]:
        return [(problem, problem.solution) for problem in CANARIES]

    def close(self) -> None:
        pass


# --- answers that are read from the text ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerKind:
    """How one kind of answer is read, compared and written."""

    read: Callable[[str], str | None]
    gold: Callable[[str], str | None]
    canonical: Callable[[str], str]
    canary: str
    """A completion with `{}` in the place of the answer."""


ANSWERS = {
    "choice": AnswerKind(final_answers.choice, final_answers.gold_choice, str, "The answer is ({})."),
    "exact": AnswerKind(
        final_answers.stated, final_answers.gold_words, final_answers.normalised, "<answer>{}</answer>"
    ),
}


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """Compares the answer that a text ends in with the gold's."""

    kind: AnswerKind

    def grade(self, problem: Problem, text: str, *, truncated: bool) -> Verdict:
        if len(text) > MAX_TEXT_CHARS:
            return Verdict(Status.UNDECIDED, None, f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
        answer = self.kind.read(text)
        if answer is None:
            return Verdict(Status.TRUNCATED if truncated else Status.NO_ANSWER, None, "")
        answer = self.kind.canonical(answer)
        if truncated and self.kind.canonical(self.kind.read(f"{text}x") or "") != answer:
            return Verdict(Status.TRUNCATED, answer, "the final answer touches the token limit")
        gold = self.kind.canonical(self.kind.gold(problem.answer) or problem.answer)
        if answer == gold:
            return Verdict(Status.CORRECT, answer, "")
        return Verdict(Status.WRONG_ANSWER, answer, f"answer {answer[:60]}, gold {gold[:60]}")

    def known_right(self, problems: Sequence[Problem]) -> list[KnownRight]:
        return [(problem, self.kind.canary.format(problem.answer)) for problem in problems[:FROM_GOLD]]

    def close(self) -> None:
        pass


# --- in a child process ---------------------------------------------------------------------------


class InChild:
    """Grades in a child process: `math`, `regex`, `python` and functions of the user's."""

    def __init__(self, spec: VerifierSpec) -> None:
        self._spec = spec
        self._child = Child(
            spec.name,
            Limits(spec.timeout_s, spec.memory_gib, 10.0 if spec.name == "python" else 0.0),
            own_environment=spec.is_users,
            **({"pattern": spec.pattern} if spec.pattern else {}),
        )
        self._canaries: list[KnownRight] | None = None

    def grade(self, problem: Problem, text: str, *, truncated: bool) -> Verdict:
        try:
            answer = self._ask(operation="grade", problem=problem_data(problem), text=text, truncated=truncated)
            verdict = _verdict(answer)
        except NoAnswer as failure:
            return Verdict(Status.UNDECIDED, None, f"verifier {failure}")
        if truncated and verdict.status is Status.NO_ANSWER:
            return Verdict(Status.TRUNCATED, verdict.answer, verdict.detail)
        return verdict

    def known_right(self, problems: Sequence[Problem]) -> list[KnownRight]:
        if self._canaries is None:
            self._canaries = self._own_canaries()
        return self._canaries or [*_from_gold(self._spec.name, problems[:FROM_GOLD])]

    def close(self) -> None:
        self._child.close()

    def _own_canaries(self) -> list[KnownRight]:
        if self._spec.name == "python":
            return [(_CODE_CANARY, _CODE_CANARY.solution)]
        if not self._spec.is_users:
            return []
        try:
            given = self._ask(operation="canaries")
        except NoAnswer as failure:
            raise ChildError(f"CANARIES of `{self._spec.name}` cannot be read: {failure}") from None
        if message := given.get("failure"):
            raise ChildError(f"CANARIES of `{self._spec.name}` cannot be read: {message}")
        return [(Problem(**problem), text) for problem, text in given["canaries"] or []]

    def _ask(self, **request: Any) -> dict[str, Any]:
        """The child's answer. Before a child starts, the user's module must be the planned one on this node."""
        if self._spec.is_users and not self._child.runs:
            check_source(self._spec.name, self._spec.source_sha256, "grading.verifier")
        return self._child.ask(**request)


def check_source(function: str, planned: str, key: str) -> None:
    """Raises ChildError where the source file of `module:function` has not the planned SHA-256."""
    if source_sha256(function, key) != planned:
        raise ChildError(
            f"the module of `{function}` is not the planned one on this node, or has changed since the job started: "
            "start it again, with the same module on every node"
        )


def _from_gold(name: str, problems: Sequence[Problem]) -> Iterator[KnownRight]:
    """Gold as completions: the worked solution, or the answer where a solution need not contain it."""
    for problem in problems:
        if name == "math":
            yield problem, f"The answer is $\\boxed{{{final_answers.bare_latex(problem.answer)}}}$."
        elif problem.solution:
            yield problem, problem.solution
        elif name not in ("regex", "python"):
            yield problem, problem.answer


def problem_data(problem: Problem) -> dict[str, str]:
    """A problem as a child's request holds it."""
    return asdict(problem)


def _verdict(answer: dict[str, Any]) -> Verdict:
    """A child's answer as a verdict."""
    if failure := answer.get("failure"):
        return Verdict(Status.UNDECIDED, None, f"verifier {_storable(str(failure))[:300]}")
    try:
        written = answer["answer"]
        return Verdict(
            Status(answer["status"]), None if written is None else _storable(written), _storable(answer["detail"])[:300]
        )
    except (KeyError, ValueError, AttributeError, TypeError):
        return Verdict(Status.UNDECIDED, None, "verifier: its answer is no verdict")


def _storable(text: str) -> str:
    """A text without lone surrogates, which have no UTF-8 form."""
    return text.encode("utf-8", "replace").decode()


# --- gold answers ---------------------------------------------------------------------------------


_PLAIN_NUMBER = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?|-?\\[dt]?frac\{\d{1,20}\}\{[1-9]\d{0,19}\}", re.ASCII)


class GoldReader:
    """Gold answers as one verifier reads them: for rows of problems, before a run starts. Not for gsm8k."""

    def __init__(self, spec: VerifierSpec) -> None:
        self.name = spec.name
        self._child = Child("math", Limits(spec.timeout_s, spec.memory_gib)) if spec.name == "math" else None

    def __enter__(self) -> GoldReader:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._child:
            self._child.close()

    @property
    def expects(self) -> str:
        """What a gold answer must be, for messages."""
        kinds = {
            "choice": "a letter from A to J",
            "exact": "one line of text",
            "math": "an answer in LaTeX",
            "python": "unit tests in Python that run at least one assert (after `def check` comes a call, `check(f)`)",
        }
        return kinds.get(self.name, "text")

    def read(self, written: str) -> str | None:
        """A gold answer as problems hold it; None where the verifier cannot read it. Raises ChildError."""
        gold = written.strip()
        if kind := ANSWERS.get(self.name):
            return kind.gold(gold)
        if self.name == "python":
            return gold if _has_tests(gold) else None
        if self._child and not _PLAIN_NUMBER.fullmatch(gold):
            try:
                return gold if self._child.ask(operation="gold", gold=gold).get("readable") else None
            except NoAnswer:
                return None
        return gold or None

    def stated(self, solution: str) -> str | None:
        """The gold answer that a worked solution ends in; None where it states none."""
        if self.name == "python":
            return None
        read = final_answers.choice if self.name == "choice" else final_answers.stated
        answer = read(solution)
        return None if answer is None else self.read(answer)


def _has_tests(tests: str) -> bool:
    """Whether the tests run an assert: outside of functions, or in a function that they name."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
    waiting: list[ast.AST] = [tree]
    for node in waiting:  # it grows
        if isinstance(node, ast.Assert):
            return True
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if named := functions.pop(name, None):
            waiting += named.body
        waiting += [] if isinstance(node, _FUNCTIONS) else ast.iter_child_nodes(node)
    return False


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
