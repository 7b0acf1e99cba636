"""Adds to an error what child processes wrote on standard error before it.

vLLM runs its engine in a process of its own (on GPUs always), and reports whatever goes wrong in there as "Engine core
initialization failed. See root cause above". The root cause is a few lines on standard error, in the log of a worker
somewhere in the cluster. Here the error that the driver shows has it.

In: what is written to file descriptor 2 inside a block, and what children that were started there write later. Out: the
same on the standard error of before, and the last lines of it. Limits: the children inherit the pipe, so a thread
copies what they write for as long as they live; an engine in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0) raises the
root cause itself, and nothing is captured.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

KEPT_LINES, LINE_CHARS = 200, 300
"""Lines that are kept, and characters of each."""
SHOWN = 2
"""Error lines that are added to a message."""
QUIET_S = 2.0
"""How long to wait for the last lines of a child that has ended."""
POLL_S = 0.05
"""Time between two looks at them."""
_ERROR = re.compile(r"(?:^|[\s:\]])((?:[A-Za-z_][\w.]{0,80}\.)?[A-Z]\w{0,60}(?:Error|Exception|Interrupt|Exit): .*)")
"""The last line of a stack, such as `ValueError: no such layer`, with or without a logger's prefix."""
SAME_CHARS = 100
"""Errors that begin with the same so many characters are one: a process repeats what another wrote, cut elsewhere."""
_ELSEWHERE = re.compile(r"root cause|initialization failed", re.IGNORECASE)
"""Errors that only say that another one came before them."""


@contextmanager
def child_errors() -> Iterator[deque[str] | None]:
    """Inside the block, add the root cause on standard error to the message of an error, as a RuntimeError.

    Yields the last lines, to which later ones of the children are added; None where the engine is in this process.
    """
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        yield None
        return
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    copied = threading.Event()
    try:
        with _copied_to(lines, copied):
            yield lines
    except Exception as failure:
        copied.wait(QUIET_S)
        if not (cause := root_cause(list(lines))):
            raise
        raise RuntimeError(f"{failure} Its process wrote: {cause}") from failure


@contextmanager
def _copied_to(lines: deque[str], ended: threading.Event) -> Iterator[None]:
    """Inside the block, file descriptor 2 is a pipe. Sets `ended` when all processes that hold it have closed it."""
    sys.stderr.flush()
    before = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    threading.Thread(target=_copy, args=(reading, before, lines, ended), name="child-stderr", daemon=True).start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)


def _copy(reading: int, to: int, lines: deque[str], ended: threading.Event) -> None:
    """Copy from one file descriptor to another until the end, keep the last lines, and close both."""
    rest = b""
    while chunk := os.read(reading, 65536):
        os.write(to, chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[:LINE_CHARS]
        lines.extend(line.decode("utf-8", "replace")[:LINE_CHARS] for line in whole)
    lines.append(rest.decode("utf-8", "replace"))
    ended.set()
    os.close(reading)
    os.close(to)


def root_cause(lines: Sequence[str]) -> str:
    """The last different errors among these lines that do not refer to others, or else the last lines; one line."""
    last = [line.strip() for line in lines if line.strip()]
    return _errors(lines) or "; ".join(last[-SHOWN:])


def later_cause(lines: deque[str] | None) -> str:
    """What children that ended after their start wrote, for the end of a message; empty without children.

    `lines`: as `child_errors` yields them. Waits a moment for the last of them.
    """
    if lines is None:
        return ""
    deadline = time.monotonic() + QUIET_S
    while not (cause := _errors(list(lines))) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return f" Its process wrote: {cause or 'no error; it was killed or has crashed'}"


def _errors(lines: Sequence[str]) -> str:
    errors = [match[1].strip() for line in lines if (match := _ERROR.search(line))]
    causes = {error[:SAME_CHARS]: error for error in errors if not _ELSEWHERE.search(error)}
    return "; ".join([*causes.values()][-SHOWN:])
