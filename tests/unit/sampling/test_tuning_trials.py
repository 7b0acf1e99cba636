"""Trials of engine settings: what a child's end means, and that none of its processes outlives its trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from rft_ray.config import Engine
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling import tuning_child, tuning_trials
from rft_ray.sampling.tuning import Failed, Measured, Outcome, OutOfTime
from rft_ray.sampling.tuning_child import Task
from rft_ray.sampling.tuning_trials import run_trial

TASK = Task(Engine(), Path("nowhere"), SamplingSettings(0.7, 1.0, 8, 2, "{query}"), False, (), (), 1)
MEASURED = Measured(1000, 2.0, 30.0, 3, 0.5, 16, 1.5)
Trial = Callable[..., Outcome]


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Run a trial whose child executes these statements."""
    monkeypatch.setattr(tuning_trials, "CHILD", "tests.unit.sampling.trial_child")

    def run(code: str, sampling_s: float = 30, all_s: float = 30, show: Callable[[str], object] = len) -> Outcome:
        monkeypatch.setenv("TRIAL", code)
        return run_trial(TASK, sampling_s, all_s, show)

    return run


def gone(pid: int) -> bool:
    """Whether a process has ended, within 5 s."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_measurement_and_the_progress_before_it_arrive(trial: Trial) -> None:
    shown: list[str] = []
    code = f"tell(opened=31.7); tell(answered=50, of=200, tokens=900, seconds=3); tell(measured={asdict(MEASURED)})"
    assert trial(code, show=shown.append) == MEASURED
    assert shown == ["open after 32 s", "50 of 200 prompts, 300 tokens/s"]


def test_a_child_that_the_kernel_kills_is_a_failure_that_says_so(trial: Trial) -> None:
    outcome = trial("import signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert outcome == Failed("its process ended by signal 9, as the kernel does where memory is short")


def test_a_child_that_dies_without_a_report_leaves_its_last_error(trial: Trial) -> None:
    outcome = trial("raise MemoryError('no room for 3 GiB')")
    assert outcome == Failed("its process ended by exit code 1: MemoryError: no room for 3 GiB")


def test_a_reported_failure_is_passed_on(trial: Trial) -> None:
    assert trial("tell(failed='ValueError: no such dtype')") == Failed("ValueError: no such dtype")


def test_a_child_that_samples_too_long_is_ended_as_slower(trial: Trial) -> None:
    outcome = trial("import time; tell(opened=1); time.sleep(60)", sampling_s=0.2)
    assert outcome == Failed("ended as slower than the fastest", fits=True)


def test_the_end_of_the_search_ends_a_child_that_is_still_opening(trial: Trial) -> None:
    with pytest.raises(OutOfTime):
        trial("import time; time.sleep(60)", all_s=0.3)


def test_an_engines_own_process_ends_with_a_child_that_died(trial: Trial, tmp_path: Path) -> None:
    """The engine's process keeps the pipe of the reports open, so that its end does not show there."""
    note = tmp_path / "pid"
    code = f"""
import time
pid = os.fork()
if pid == 0:
    time.sleep(60)
open({str(note)!r}, 'w').write(str(pid))
os.kill(os.getpid(), 9)
"""
    assert isinstance(trial(code), Failed)
    assert gone(int(note.read_text()))


def test_ctrl_c_ends_the_child(trial: Trial, tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    code = f"import time; open({str(note)!r}, 'w').write(str(os.getpid())); tell(opened=1); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        trial(code, show=interrupt)
    assert gone(int(note.read_text()))


def test_a_task_is_the_same_after_its_way_to_the_child() -> None:
    problems = (Problem("1", "Wie viele \u2028 sind das?", "#### 5", "5"),)
    engine = Engine(kv_cache_gib=1.5, extra={"block_size": 32})
    task = Task(engine, Path("a b"), SamplingSettings(0.7, 1.0, 8, 2, "{query}", top_k=50), True, problems, problems, 3)
    line = tuning_child.TASK.dump_json(task)
    assert b"\n" not in line
    assert tuning_child.TASK.validate_json(line) == task
