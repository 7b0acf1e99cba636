"""What a grading child can do, by name: `math`, `python`, `regex`, or a function of the user's (`module:function`).

A task is a function from a request to an answer, both JSON. A request holds its operation: `grade` gives a verdict,
`gold` whether a gold answer can be read, `canaries` the solutions that the user's module says are right, `key` what
paths are equal by. Imported in the child only.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from rft_ray.grading import sandbox
from rft_ray.grading.final_answers import normalised
from rft_ray.records import Problem, Status, Verdict

Task = Callable[[dict[str, Any]], dict[str, Any]]
Grade = Callable[[Problem, str, bool], Verdict]


def open_task(setting: dict[str, Any]) -> Task:
    """The task of a setting. Raises what its imports raise, and ValueError where the user's function is missing."""
    name = setting["task"]
    if ":" in name:
        return _users_task(name)
    if name == "math":
        return _math_task()
    if name == "python":
        from rft_ray.grading.code_tests import grade_code

        return partial(_graded, partial(grade_code, seconds=setting["seconds"]))
    if name == "regex":
        return partial(_graded, partial(_matching, re.compile(setting["pattern"])))
    raise ValueError(f"no task {name!r}")


def _graded(grade: Grade, request: dict[str, Any]) -> dict[str, Any]:
    return _as_data(grade(Problem(**request["problem"]), request["text"], request["truncated"]))


def _as_data(verdict: Verdict) -> dict[str, Any]:
    return {"status": str(verdict.status), "answer": verdict.answer, "detail": verdict.detail}


def _math_task() -> Task:
    try:
        from rft_ray.grading import math_answers
    except ImportError as error:
        raise ValueError(f"it needs the package math-verify ({error}): pip install math-verify") from None
    with contextlib.suppress(OSError):  # no sandbox for this machine: the library runs no code of a text
        sandbox.deny_calls(limits_too=False)

    def task(request: dict[str, Any]) -> dict[str, Any]:
        if request["operation"] == "gold":
            return {"readable": math_answers.is_readable(request["gold"])}
        return _graded(math_answers.grade_math, request)

    return task


def _matching(pattern: re.Pattern[str], problem: Problem, text: str, truncated: bool) -> Verdict:
    """The last match's first group must be the gold answer."""
    answer = _last_group(pattern, text)
    if answer is None:
        return Verdict(Status.NO_ANSWER, None, "")
    if truncated and _last_group(pattern, f"{text}0") != answer:
        return Verdict(Status.TRUNCATED, answer, "the final answer touches the token limit")
    if normalised(answer) == normalised(problem.answer):
        return Verdict(Status.CORRECT, answer, "")
    return Verdict(Status.WRONG_ANSWER, answer, f"answer {answer[:60]}, gold {problem.answer[:60]}")


def _last_group(pattern: re.Pattern[str], text: str) -> str | None:
    group = None
    for match in pattern.finditer(text):
        group = match[1] if match[1] is not None else group
    return group


# --- the user's own -------------------------------------------------------------------------------


def _users_task(name: str) -> Task:
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{module.__file__} has no function {function_name!r}")

    def task(request: dict[str, Any]) -> dict[str, Any]:
        if request["operation"] == "canaries":
            return {"canaries": _canaries(module)}
        problem = Problem(**request["problem"])
        if request["operation"] == "key":
            return {"key": repr(function(problem, request["text"]))}
        return _as_data(_as_verdict(function(problem, request["text"])))

    return task


def _canaries(module: Any) -> list[list[Any]] | None:
    """The module's CANARIES: (problem, text) pairs, or problems whose solution is right. None without CANARIES."""
    given = getattr(module, "CANARIES", None)
    if given is None:
        return None
    pairs = [(entry, entry.solution) if isinstance(entry, Problem) else entry for entry in given]
    return [[asdict(problem), str(text)] for problem, text in pairs]


def _as_verdict(result: object) -> Verdict:
    """What a user's function returns, as a verdict. Raises TypeError for all else than Verdict, Status and bool."""
    if isinstance(result, bool):
        return Verdict(Status.CORRECT if result else Status.WRONG_ANSWER, None, "")
    if isinstance(result, Status):
        return Verdict(result, None, "")
    if isinstance(result, Verdict):
        fields_are_right = isinstance(result.status, Status) and isinstance(result.detail, str)
        if fields_are_right and isinstance(result.answer, str | None):
            return result
    raise TypeError(f"the verifier returned {repr(result)[:60]}: it must return a Verdict, a Status or a bool")
