"""What a child process wrote on standard error is part of the error that its parent raises."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque

import pytest

from rft_ray.sampling import child_errors as module
from rft_ray.sampling.child_errors import KEPT_LINES, LINE_CHARS, child_errors, later_cause, root_cause

STACK = """
(EngineCore pid=41) ERROR 11-29 10:00:01 [core.py:1] Traceback (most recent call last):
(EngineCore pid=41)   File "loader.py", line 7, in load
(EngineCore pid=41) ValueError: no module or parameter named 'lm_tail'
Process EngineCore:
Traceback (most recent call last):
RuntimeError: Worker failed with error, see root cause above
RuntimeError: Engine core initialization failed. See root cause above.
"""
CHILD = "import sys; print('noise', file=sys.stderr); raise ValueError('no such layer')"


@pytest.fixture(autouse=True)
def multiprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)


def test_the_error_that_refers_to_no_other_is_the_root_cause() -> None:
    assert root_cause(STACK.splitlines()) == "ValueError: no module or parameter named 'lm_tail'"


def test_an_error_that_is_repeated_and_cut_elsewhere_is_shown_once() -> None:
    """Lines are cut, and what stands before an error differs from process to process."""
    error = f"RuntimeError: Worker failed with error 'Available memory is less than {'requested ' * 30}"
    lines = [f"(EngineCore pid=41) ERROR [core.py:1] {error}"[:LINE_CHARS], f"(EngineCore pid=41) {error}"[:LINE_CHARS]]
    assert root_cause(lines).count("RuntimeError") == 1


def test_without_an_error_the_last_lines_are_shown() -> None:
    assert root_cause(["a", "Killed", "", "by signal 9"]) == "Killed; by signal 9"
    assert root_cause([]) == ""


def test_a_long_line_is_searched_in_linear_time() -> None:
    started = time.monotonic()
    root_cause(["aA." * 100_000, "Error" * 60_000, "x:" * 150_000])
    assert time.monotonic() - started < 5


def failing(code: str) -> str:
    """The message of an error after a child has run this code."""
    with pytest.raises(RuntimeError) as caught, child_errors():
        fail_after(code)
    return str(caught.value)


def fail_after(code: str) -> None:
    subprocess.run([sys.executable, "-c", code])
    raise RuntimeError("Engine core initialization failed.")


def test_an_error_has_the_root_cause_that_its_child_wrote() -> None:
    expected = "Engine core initialization failed. Its process wrote: ValueError: no such layer"
    assert failing(CHILD) == expected


def test_the_childs_lines_still_come_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    failing(CHILD)
    time.sleep(0.5)  # a thread copies them
    assert "noise\n" in capfd.readouterr().err
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_flood_of_lines_is_bounded() -> None:
    """Also without a single line end."""
    assert len(failing("import sys; sys.stderr.write('x' * 10**6)")) < 1000
    flood = (
        f"import sys; sys.stderr.write('y' * {10 * LINE_CHARS} + chr(10)); sys.stderr.write('z\\n' * {9 * KEPT_LINES})"
    )
    assert failing(flood).endswith("Its process wrote: z; z")


def test_an_error_without_a_childs_words_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"^no folder$"), child_errors():
        raise ValueError("no folder")


def test_an_engine_in_this_process_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    before = os.fstat(2).st_ino
    with child_errors():
        assert os.fstat(2).st_ino == before


def test_an_error_that_a_child_writes_after_its_start_is_known_too() -> None:
    with child_errors() as lines:
        child = subprocess.Popen([sys.executable, "-c", "input(); raise ValueError('no room')"], stdin=subprocess.PIPE)
    child.communicate(b"\n")
    assert later_cause(lines) == " Its process wrote: ValueError: no room"


def test_a_child_that_ends_without_an_error_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last lines may be anything."""
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    assert later_cause(deque(["WARNING: no P2P"])) == " Its process wrote: no error; it was killed or has crashed"
    assert later_cause(None) == ""
