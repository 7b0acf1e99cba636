"""A child process that grades: one request at a time, with a deadline for each, ended and started anew when it fails.

In: a task of `child_tasks.py` by name, and requests as JSON. Out: answers as JSON, or why there is none. The child has
a session and a process group of its own, talks over two pipes that are not its standard streams, and is limited in
memory, CPU time and processes. Whatever a request does to the child costs that request only. Sets of texts have one
order in all children, so that what code or a user's function makes of them does not differ from process to process.

Limits: Linux. Use a `Child` from one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from rft_ray.config.errors import RunError

START_S = 120.0
"""How long a child may take to import what it needs."""
MARK = "RFT_GRADING_CHILD"
"""Environment variable of a child and of all that it starts: by its value they are found when the child has ended."""
MOST_BYTES = 64 << 20
SLICES = 20
LENGTH = struct.Struct("!I")
_CODE = "import sys; sys.path[:] = {path!r}; from rft_ray.grading.child_main import main; main({requests}, {answers})"
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class ChildError(RunError, RuntimeError):
    """The child cannot start: a module, a function or a library is missing or fails."""


class NoAnswer(Exception):
    """A request that the child does not answer: it is out of time, or has ended."""


@dataclass(slots=True)
class Patience:
    """Time to wait for a child. Of the time in which the machine is paused, no more than a slice counts.

    Example: Patience(10.0).wait(poll)
    """

    left_s: float
    slice_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.slice_s = self.left_s / SLICES

    def wait(self, ready: select.poll) -> list[int]:
        """The descriptors on which something has happened; empty where nothing has in all of the time."""
        while True:
            began = time.monotonic()
            events = [descriptor for descriptor, _ in ready.poll(1000 * min(self.slice_s, max(self.left_s, 0.0)))]
            self.left_s -= min(time.monotonic() - began, self.slice_s)
            if events or self.left_s <= 0:
                return events


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may use. Example: Limits(10.0, 4.0)"""

    seconds: float
    memory_gib: float
    margin_s: float = 0.0
    """So much longer the child is waited for: it ends processes and removes files of its own after `seconds`."""


class Child:
    """The child process of one task."""

    def __init__(self, task: str, limits: Limits, *, own_environment: bool = False, **options: str) -> None:
        """`own_environment`: give it this process's environment variables. `options`: what the task needs besides."""
        self._process: subprocess.Popen[bytes] | None = None
        self._task, self._limits, self._options = task, limits, options
        self._own_environment = own_environment
        self._to = self._from = self._ended = -1
        self._mark = ""

    @property
    def runs(self) -> bool:
        """Whether the process is there: otherwise the next request starts one, which imports its modules anew."""
        return self._process is not None and self._process.poll() is None

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises NoAnswer where the child gives none, and ChildError when it cannot start."""
        if not self.runs:
            self._start()
        answer = self._exchange(request, self._limits.seconds + self._limits.margin_s)
        if answer.pop("spoiled", False):
            self.close()
        return answer

    def close(self) -> None:
        """End the child and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        end_marked(self._mark)
        for descriptor in (self._to, self._from, self._ended):
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        self.close()
        self._mark = uuid.uuid4().hex
        requests, self._to = os.pipe()
        self._from, answers = os.pipe()
        inherited = os.environ if self._own_environment else {k: os.environ[k] for k in _KEPT if k in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=[*sys.path], requests=requests, answers=answers)],
            env={"PYTHONHASHSEED": "0", **inherited, MARK: self._mark, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(requests, answers),
            start_new_session=True,
        )
        self._ended = os.pidfd_open(self._process.pid)
        os.close(requests)
        os.close(answers)
        os.set_blocking(self._to, False)
        limits = {"seconds": self._limits.seconds, "memory_gib": self._limits.memory_gib}
        setting = {"task": self._task, "parent": os.getpid(), **limits, **self._options}
        try:
            message = self._exchange(setting, START_S).get("error")
        except NoAnswer as failure:
            message = str(failure)
        if message:
            self.close()
            raise ChildError(f"the verifier `{self._task}` cannot start: {message}")

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request and receive its answer. Ends the child where it gives none, and raises NoAnswer."""
        patience = Patience(seconds)
        try:
            own = uuid.uuid4().hex  # what a task writes into the pipe by itself has another id
            content = json.dumps({**request, "id": own}).encode()
            self._send(LENGTH.pack(len(content)) + content, patience)
            (length,) = LENGTH.unpack(self._receive(LENGTH.size, patience))
            if length > MOST_BYTES:
                raise NoAnswer("its answer is no message of the worker")
            answer = json.loads(self._receive(length, patience))
            if not isinstance(answer, dict) or answer.pop("id", None) != own:
                raise NoAnswer("its answer is no message of the worker")
            return answer
        except NoAnswer:
            self.close()
            raise
        except ValueError:  # JSON, or its encoding
            self.close()
            raise NoAnswer("its answer is no message of the worker") from None

    def _send(self, content: bytes, patience: Patience) -> None:
        while content:
            self._wait([], [self._to], patience)
            try:
                content = content[os.write(self._to, content) :]
            except BrokenPipeError:
                raise NoAnswer(self._why_ended()) from None

    def _receive(self, size: int, patience: Patience) -> bytes:
        received = b""
        while len(received) < size:
            self._wait([self._from], [], patience)
            part = os.read(self._from, min(size - len(received), 1 << 20))
            if not part:
                raise NoAnswer(self._why_ended())
            received += part
        return received

    def _wait(self, reading: list[int], writing: list[int], patience: Patience) -> None:
        """Wait until a pipe is ready. Raises NoAnswer when the child has ended, or the time has."""
        ready = select.poll()  # select() takes no descriptor from 1,024 on, which a busy process has
        for descriptor in (*reading, self._ended):
            ready.register(descriptor, select.POLLIN)
        for descriptor in writing:
            ready.register(descriptor, select.POLLOUT)
        events = patience.wait(ready)
        if any(descriptor in events for descriptor in (*reading, *writing)):
            return
        raise NoAnswer(self._why_ended() if events else f"timed out after {self._limits.seconds:g} s")

    def _why_ended(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.returncode
        if code is None:
            return "closed its pipe to the grader"
        if code >= 0:
            return f"ended its process with exit code {code}"
        name = signal.Signals(-code).name
        why = {"SIGKILL": " (out of memory?)", "SIGXCPU": f": more than {self._limits.seconds:g} s of CPU time"}
        return f"ended its process by {name}{why.get(name, '')}"


def end_marked(mark: str) -> None:
    """Kill every process that a child with this mark has started.

    A list of /proc misses a process that is forked meanwhile, and shows nothing of its parent that ends then: only the
    second list without a marked process counts.
    """
    wanted = f"{MARK}={mark}".encode()
    without = 0
    for _ in range(100):  # a process may start another one while the list is read
        marked = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if wanted in _environment(pid)]
        without = 0 if marked else without + 1
        if without == 2:
            return
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:  # it has ended, or is another user's
        return b""
