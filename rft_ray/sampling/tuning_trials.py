"""Trials of `rft-ray tune`: each engine in a process of its own, so that one that runs out of memory ends alone.

In: a `Task`, the seconds that sampling may take, and those that everything may take. Out: `Measured` or `Failed`. When
a trial is over, for whatever reason, its whole group of processes is killed, and with it an engine's own processes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rft_ray.sampling.child_errors import root_cause
from rft_ray.sampling.tuning import Failed, Measured, Outcome, OutOfTime
from rft_ray.sampling.tuning_child import TASK, Task
from rft_ray.sampling.vllm_arguments import process_environment

CHILD = "rft_ray.sampling.tuning_child"
POLL_S = 1.0
"""How often a silent child is looked at."""
GRACE_S = 5.0
"""How long a child that reports no more may take to end by itself, which tells why."""
ROOT = Path(__file__).resolve().parents[2]


def run_trial(task: Task, sampling_s: float, all_s: float, show: Callable[[str], object]) -> Outcome:
    """Measure one engine. `show` gets its progress, in a few words.

    Raises OutOfTime after `all_s` seconds. KeyboardInterrupt ends the trial too.
    """
    began = time.monotonic()
    opened: float | None = None
    with _child(task) as (child, lines, log):
        while True:
            now = time.monotonic()
            limits = [began + all_s] + ([opened + sampling_s] if opened is not None else [])
            line = lines(min(limits) - now) if min(limits) > now else ""
            if line is None:
                deadline = time.monotonic() + GRACE_S
                while not _has_ended(child.pid) and time.monotonic() < deadline:
                    time.sleep(0.01)
                return Failed(_death(_ended(child), log))
            if not line:
                if opened is not None and time.monotonic() >= opened + sampling_s:
                    return Failed("ended as slower than the fastest", fits=True)
                raise OutOfTime
            event: dict[str, Any] = json.loads(line)
            if "measured" in event:
                return Measured(**event["measured"])
            if "failed" in event:
                return Failed(event["failed"])
            if "opened" in event:
                opened = time.monotonic()
                show(f"open after {event['opened']:.0f} s")
            else:
                rate = event["tokens"] / event["seconds"]
                show(f"{event['answered']} of {event['of']} prompts, {rate:,.0f} tokens/s")


@contextmanager
def _child(task: Task) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[float], str | None], Path]]:
    """A child at work on the task, a function that waits for its next line, and the file of its output.

    The function returns "" when nothing came in so many seconds, and None when the child has ended.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="rft-tune-") as folder, open(reading, "rb", buffering=0) as pipe:
        log = Path(folder, "log")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", CHILD, str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                env={**os.environ, **process_environment(task.engine, gpu=task.gpu), "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C reaches this process only, which ends the child's whole group
            )
        os.close(writing)
        assert child.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it has died at once: its log says why
                child.stdin.write(TASK.dump_json(task) + b"\n")
                child.stdin.flush()
            yield child, _Lines(pipe.fileno(), child.pid), log
        finally:
            _ended(child)
            with suppress(BrokenPipeError):
                child.stdin.close()


class _Lines:
    """Lines of a child's pipe, waited for with a bound."""

    def __init__(self, descriptor: int, pid: int) -> None:
        self._descriptor, self._pid, self._rest = descriptor, pid, b""

    def __call__(self, seconds: float) -> str | None:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0:
                return ""
            if select.select([self._descriptor], [], [], min(left, POLL_S))[0]:
                if not (chunk := os.read(self._descriptor, 65536)):
                    return None
                self._rest += chunk
            elif _has_ended(self._pid):
                return None  # an engine's process may keep the pipe open
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; its status and number stay until it is waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _ended(child: subprocess.Popen[bytes]) -> int:
    """Kill the child's whole group, and return the child's own exit status."""
    if child.returncode is None:  # until it is waited for, no other process can have its number
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def _death(status: int, log: Path) -> str:
    """Why a child ended without a report, in one line."""
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    hint = ", as the kernel does where memory is short" if status == -signal.SIGKILL else ""
    cause = root_cause(log.read_text(errors="replace").splitlines()[-200:])
    return f"its process ended by {how}{hint}" + (f": {cause}" if cause else "")
