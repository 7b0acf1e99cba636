"""A completion's Python code against the unit tests of its problem: (problem, text, truncated) -> Verdict.

The code runs in a process of its own, forked for it, behind `sandbox.py`: no network, no new processes, no file
written outside a temporary folder, bounded CPU time, memory and wall time. The tests are the problem's answer: Python
statements, as `assert add(2, 3) == 5`. For the grading child only.

Limits: tests run in the process of the code that they test, as in other harnesses of MBPP. Code that sets out to
deceive them (a value that equals everything, memory changed by ctypes) can. Code that ends its process early, replaces
Python's own functions or walks the stack cannot: tests are compiled before the code runs, and the code has a thread
whose frames hold no result.
"""

from __future__ import annotations

import _thread
import ast
import contextlib
import gc
import os
import re
import select
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import NoReturn

from rft_ray.grading import sandbox
from rft_ray.grading.child import Patience
from rft_ray.grading.equations import MAX_TEXT_CHARS
from rft_ray.records import Problem, Status, Verdict

_FENCED = re.compile(r"^([ \t]*+)```[ \t]*+(\w*+)[^\n]*+\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_DEFINED = re.compile(r"^(?:(?:(?:async[ \t]+)?def|class)[ \t]+(\w++)|(\w++)[ \t]*=(?!=))", re.MULTILINE)
"""A name that code defines at its outer level, as a function, a class or a value."""
_LANGUAGES = ("", "python", "py", "python3")
_MOST_REPORT_BYTES = 4_096
_Outcome = tuple[str, str]
"""(`passed`, `failed` or `undecided`, the reason in words)."""
_STATUSES = {"passed": Status.CORRECT, "failed": Status.WRONG_ANSWER}


def read_code(text: str, tests: str = "") -> str | None:
    """The last block of Python code that defines a name of the tests, and not an example or tests of its own.

    Else the last block with a definition in it, else the last block, else a text that is all code. A block in a list is
    indented with it.
    """
    blocks: list[str] = [
        textwrap.dedent(code) if indent else code
        for indent, language, code in _FENCED.findall(text)
        if language.lower() in _LANGUAGES
    ]
    if blocks:
        wanted = _names_in(tests)
        tested = [code for code in blocks if any(name in wanted for names in _DEFINED.findall(code) for name in names)]
        return (tested or [code for code in blocks if "def " in code] or blocks)[-1]
    if "```" in text or "def " not in text:
        return None
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text


@lru_cache(maxsize=1_024)
def _names_in(tests: str) -> frozenset[str]:
    """The names that tests read and do not define, such as that of the function that they test."""
    try:
        nodes = [*ast.walk(ast.parse(tests))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    names = [node for node in nodes if isinstance(node, ast.Name)]
    defined = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return frozenset(node.id for node in names) - defined


def grade_code(problem: Problem, text: str, truncated: bool, *, seconds: float) -> Verdict:
    """Verdict on one completion: correct when its code passes all tests. Raises OSError without a sandbox."""
    if len(text) > MAX_TEXT_CHARS:
        return Verdict(Status.UNDECIDED, None, f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
    code = read_code(text, problem.answer)
    if code is None:
        return Verdict(Status.TRUNCATED if truncated else Status.NO_ANSWER, None, "")
    with _temporary_folder() as folder:
        outcome, detail = _run_in_sandbox(code, problem.answer, folder, seconds)
    return Verdict(_STATUSES.get(outcome, Status.UNDECIDED), None, detail)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is removed however deep the folders in it are."""
    outer = Path(tempfile.mkdtemp(prefix="rft-code-"))
    folder = outer / "work"
    folder.mkdir()
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            _remove(folder, outer)
            outer.rmdir()


def _remove(folder: Path, outer: Path) -> None:
    """Remove a folder: those in it are moved into `outer` first, so that neither paths nor recursion grow."""
    waiting = [folder]
    for number, inner in enumerate(waiting):  # it grows
        inner.chmod(0o700)
        for place, entry in enumerate([*os.scandir(inner)]):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(outer / f"{number}-{place}")
                os.rename(entry.path, waiting[-1])
            else:
                os.unlink(entry.path)
        inner.rmdir()


def _run_in_sandbox(code: str, tests: str, folder: Path, seconds: float) -> _Outcome:
    """The outcome of code and tests in a limited process of their own; `undecided` where that process gives none."""
    reports, written = os.pipe()
    secret, own = os.urandom(16), os.getpid()
    process = os.fork()
    if process == 0:
        _sandboxed(code, tests, folder, seconds, written, secret, own)
    os.close(written)
    try:
        received, in_time = _received(reports, seconds)
    finally:
        os.close(reports)
        os.kill(process, signal.SIGKILL)  # it is not reaped yet, so the id is its own
        status = os.waitpid(process, 0)[1]
    if received.startswith(secret):
        outcome, _, detail = received[len(secret) :].decode(errors="replace").partition("\n")
        return outcome, detail
    if not in_time:
        return "undecided", f"the code timed out after {seconds:g} s"
    ended = signal.Signals(status & 0x7F).name if status & 0x7F else f"exit code {status >> 8}"
    return "undecided", f"the code ended its process ({ended}) before its tests were done"


def _received(reports: int, seconds: float) -> tuple[bytes, bool]:
    """(what comes until the pipe is closed, whether that is within the time)."""
    received, patience, ready = b"", Patience(seconds), select.poll()
    ready.register(reports, select.POLLIN)
    while len(received) < _MOST_REPORT_BYTES:
        if not patience.wait(ready):
            return received, False
        part = os.read(reports, _MOST_REPORT_BYTES)
        if not part:
            break
        received += part
    return received, True


def _sandboxed(
    code: str, tests: str, folder: Path, seconds: float, written: int, secret: bytes, parent: int
) -> NoReturn:
    """The forked process: limits itself, runs the code and its tests, writes the outcome and ends."""
    write, leave, sleep = os.write, os._exit, time.sleep  # the code may replace these names
    outcomes: list[_Outcome] = []
    try:
        os.setsid()
        sandbox.end_with_parent(parent)
        gc.disable()
        os.closerange(3, written)
        os.closerange(written + 1, 1_024)
        os.chdir(folder)
        os.environ.clear()
        tempfile.tempdir = str(folder)
        sandbox.limit_files()
        sandbox.limit_cpu(seconds)
        sandbox.deny_files_outside(folder)
        sandbox.deny_calls(limits_too=True)
        # `extend` and `map` have no Python frame: on the stack of the code's thread nothing leads to the outcomes
        _thread.start_new_thread(outcomes.extend, (map(_outcome, [code], [tests]),))
        while not outcomes:
            sleep(0.001)
    except BaseException as error:  # of the sandbox: `_outcome` raises nothing
        outcomes = [("undecided", f"no sandbox: {type(error).__name__}: {error}")]
    try:
        name, detail = outcomes[0]
        write(written, secret + f"{name}\n{detail}".encode(errors="replace")[: _MOST_REPORT_BYTES - 64])
    finally:
        leave(0)


def _outcome(code: str, tests: str) -> _Outcome:
    """Run the code and then each test, up to the first failure.

    The code is a module like any other: `dataclasses` and `pickle` look it up by its name. The tests are a program that
    goes on in it, so what they have below `if __name__ == "__main__"` runs. The code may replace the functions of
    Python and of its library, so none of them is looked up once it has run.
    """
    module = sys.modules["completion"] = sys.modules["__main__"] = ModuleType("completion")
    execute, names, running = exec, module.__dict__, "the code"
    try:
        compiled = compile(code, "<completion>", "exec", dont_inherit=True)
        running = "the tests"
        as_program = compile("__name__ = '__main__'", "<tests>", "exec")
        steps = (("the code", compiled), (running, as_program), *_compiled(tests))
        for running, step in steps:  # noqa: B007  # it is read where a step raises
            execute(step, names)  # in the sandbox
    except MemoryError:
        return "undecided", "the code is out of memory"
    except BaseException as error:  # SystemExit too: the tests are not done
        return "failed", f"{running}: {_described(error)}"
    return "passed", ""


def _compiled(tests: str) -> list[tuple[str, CodeType]]:
    """Each statement of the tests, as text and compiled."""
    statements = ast.parse(tests).body
    return [
        (ast.unparse(test)[:120], compile(ast.Module([test], []), "<tests>", "exec", dont_inherit=True))
        for test in statements
    ]


def _described(error: BaseException) -> str:
    """An exception in words, even if its message cannot be made or the code has replaced `str`."""
    try:
        return f"{type(error).__name__}: {str(error)[:120]}".rstrip(": ")
    except BaseException:
        return "an exception without a message"
