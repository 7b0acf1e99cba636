"""SIGTERM to a real process: it waits a bounded time for shards in flight; a second signal does not wait."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

DRIVER = """
import sys, threading, time
from rft_ray.runtime import sigterm

drained = threading.Event()
sigterm.install_handler()
print("ready", flush=True)
try:
    if sys.argv[1] == "outside":
        time.sleep(30)
    with sigterm.draining(drained.set, float(sys.argv[2])):
        drained.wait() if sys.argv[1] == "finishes" else time.sleep(30)
        print("finished", flush=True)
    print("went on", flush=True)
except Exception:
    print("taken for an error")
except sigterm.Preempted:
    sys.exit(sigterm.EXIT_CODE)
"""


def after_sigterm(how: str, bound_s: float, signals: int = 1) -> tuple[int, str, float]:
    """Exit code, what was printed, seconds from the first signal."""
    command = [sys.executable, "-c", DRIVER, how, str(bound_s)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    assert driver.stdout.readline() == "ready\n"
    time.sleep(0.2)
    started = time.monotonic()
    for _ in range(signals):
        driver.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    output = driver.communicate(timeout=25)[0]
    return driver.returncode, output, time.monotonic() - started


def test_shards_in_flight_are_finished_and_no_later_code_runs() -> None:
    code, output, _ = after_sigterm("finishes", 20)
    assert (code, "finished" in output, "went on" in output) == (143, True, False)
    assert "20 s to be committed" in output


@pytest.mark.parametrize(("how", "bound_s", "signals"), [("hangs", 1, 1), ("hangs", 25, 2), ("outside", 25, 1)])
def test_sigterm_waits_at_most_the_bound_and_only_for_shards_in_flight(how: str, bound_s: float, signals: int) -> None:
    code, output, seconds = after_sigterm(how, bound_s, signals)
    assert code == 143
    assert "finished" not in output
    assert seconds < 20
