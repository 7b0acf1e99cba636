"""A stall is reported while work is in progress and nothing changes; progress and idleness are not stalls."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from rft_ray.sampling.watchdog import Watchdog

FROZEN = """
import ctypes, sys
from rft_ray.sampling.watchdog import Watchdog
with Watchdog(0.3, lambda: 0, lambda *_: None, hard=True).during("sampling"):
    ctypes.PyDLL(None).sleep(30)
"""


def test_a_stall_is_reported_with_the_operations_in_progress() -> None:
    stalls, seen = [], threading.Event()
    watchdog = Watchdog(0.2, lambda: 0, lambda *what: (stalls.append(what), seen.set()), hard=False)
    with watchdog.during("sampling"):
        assert seen.wait(10)
    assert stalls[0] == ("no progress for 0.2 s", ["sampling"])


def test_answers_and_idleness_are_not_stalls() -> None:
    stalls: list[object] = []
    answers = iter(range(10**9))
    watchdog = Watchdog(0.2, lambda: next(answers), lambda *what: stalls.append(what), hard=False)
    with watchdog.during("sampling"):
        time.sleep(0.6)
    time.sleep(0.6)
    assert stalls == []


def test_a_process_that_is_frozen_with_the_interpreters_lock_is_ended_with_its_stacks() -> None:
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=25)
    assert ended.returncode == 1
    assert "<string>" in ended.stderr
    assert time.monotonic() - started < 20
