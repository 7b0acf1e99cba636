"""A completion's Python code against the unit tests of its problem: (problem, text, truncated) -> Verdict.

The code runs in a process of its own, forked for it, behind `sandbox.py`: no network, no new processes, no file
written outside a temporary folder, bounded CPU time, memory and wall time. The tests are the problem's answer: Python
statements, as `assert add(2, 3) == 5`. For the grading child only.

Limits: tests run in the process of the code that they test, as in other harnesses of MBPP. Code that sets out to
deceive them (a value that equals everything) can; code that ends its process early cannot.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import select
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rft_ray.grading import sandbox
from rft_ray.grading.equations import MAX_TEXT_CHARS
from rft_ray.records import Problem, Status, Verdict

_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_LANGUAGES = ("", "python", "py", "python3")
_MOST_REPORT_BYTES = 4_096


def read_code(text: str) -> str | None:
    """The last block of Python code with a definition in it, else the last block, else a text that is all code."""
    blocks: list[str] = [code for language, code in _FENCED.findall(text) if language.lower() in _LANGUAGES]
    if blocks:
        return next((code for code in reversed(blocks) if "def " in code), blocks[-1])
    if "```" in text or "def " not in text:
        return None
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text


def grade_code(problem: Problem, text: str, truncated: bool, *, seconds: float) -> Verdict:
    """Verdict on one completion: correct when its code passes all tests. Raises OSError without a sandbox."""
    if len(text) > MAX_TEXT_CHARS:
        return Verdict(Status.UNDECIDED, None, f"text of {len(text)} characters, bound {MAX_TEXT_CHARS}")
    code = read_code(text)
    if code is None:
        return Verdict(Status.TRUNCATED if truncated else Status.NO_ANSWER, None, "")
    with tempfile.TemporaryDirectory(prefix="rft-code-") as folder:
        report = _run_in_sandbox(lambda: _failure(code, problem.answer), Path(folder), seconds)
    if "undecided" in report:
        return Verdict(Status.UNDECIDED, None, str(report["undecided"]))
    failure = report.get("failure")
    return Verdict(Status.WRONG_ANSWER if failure else Status.CORRECT, None, str(failure or ""))


def _run_in_sandbox(work: Callable[[], dict[str, str]], folder: Path, seconds: float) -> dict[str, Any]:
    """What the work returns in a limited process of its own, or `undecided` with the reason why it returns nothing."""
    reports, written = os.pipe()
    secret, own = os.urandom(16), os.getpid()
    process = os.fork()
    if process == 0:
        _sandboxed(work, folder, seconds, written, secret, own)
    os.close(written)
    try:
        received, in_time = _received(reports, time.monotonic() + seconds)
    finally:
        os.close(reports)
        os.kill(process, signal.SIGKILL)  # it is not reaped yet, so the id is its own
        status = os.waitpid(process, 0)[1]
    if received.startswith(secret):
        try:
            report = json.loads(received[len(secret) :])
        except ValueError:
            report = None
        if isinstance(report, dict):
            return report
    if not in_time:
        return {"undecided": f"the code timed out after {seconds:g} s"}
    ended = signal.Signals(status & 0x7F).name if status & 0x7F else f"exit code {status >> 8}"
    return {"undecided": f"the code ended its process ({ended}) before its tests were done"}


def _received(reports: int, deadline: float) -> tuple[bytes, bool]:
    """(what comes until the pipe is closed, whether that is before the deadline)."""
    received = b""
    while len(received) < _MOST_REPORT_BYTES:
        if not select.select([reports], [], [], max(deadline - time.monotonic(), 0))[0]:
            return received, False
        part = os.read(reports, _MOST_REPORT_BYTES)
        if not part:
            break
        received += part
    return received, True


def _sandboxed(
    work: Callable[[], dict[str, str]], folder: Path, seconds: float, written: int, secret: bytes, parent: int
) -> None:
    """The forked process: limits itself, works, writes its report and ends. Never returns."""
    dumps, write, leave = json.dumps, os.write, os._exit  # the code may replace these names
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
        sandbox.deny_writes_outside(folder)
        sandbox.deny_calls(limits_too=True)
        report: dict[str, str] = work()
    except MemoryError:
        report = {"undecided": "the code is out of memory"}
    except BaseException as error:  # of the sandbox: the work catches its own
        report = {"undecided": f"no sandbox: {type(error).__name__}: {error}"}
    try:
        write(written, secret + dumps(report)[: _MOST_REPORT_BYTES - 64].encode())
    finally:
        leave(0)


def _failure(code: str, tests: str) -> dict[str, str]:
    """Run the code and then each test. Returns the first failure in words; empty where all pass."""
    names: dict[str, Any] = {"__name__": "completion"}
    running = "the code"
    try:
        exec(compile(code, "<completion>", "exec"), names)  # in the sandbox
        for test in ast.parse(tests).body:
            running = ast.unparse(test)[:120]
            exec(compile(ast.Module([test], []), "<tests>", "exec"), names)
    except MemoryError:
        raise
    except BaseException as error:  # SystemExit too: the tests are not done
        try:
            what = f"{type(error).__name__}: {str(error)[:120]}".rstrip(": ")
        except BaseException:
            what = type(error).__name__
        return {"failure": f"{running}: {what}"}
    return {}
