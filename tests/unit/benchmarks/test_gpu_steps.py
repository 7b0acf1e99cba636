"""Steps of a check on GPUs: each ends within its time, alone, and keeps the figures that it had."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu_smoke, gpu_steps
from benchmarks.gpu_steps import Note, Place, Step

CHILD = """
import os, sys, subprocess, time
from pathlib import Path
from benchmarks.gpu_steps import Note, Place, Skipped, Step, run_step

folder, name = Path(sys.argv[1]), sys.argv[2]

def good(place, note):
    note(first=1)
    note(second=float(os.environ["RFT_STEP_SECONDS"]))

def skipped(place, note):
    raise Skipped("needs two GPUs")

def failing(place, note):
    note(first=1)
    raise ValueError("no such\\n layer")

def killed(place, note):
    note(first=1)
    print("OutOfMemoryError: CUDA out of memory.", flush=True)
    os.kill(os.getpid(), 9)

def hanging(place, note):
    child = subprocess.Popen(["sleep", "600"])
    note(child=child.pid)
    time.sleep(600)

run_step(name, Step(globals()[name], 1), Place(folder, 0))
"""


def record(tmp_path: Path, name: str, seconds: float = 60) -> gpu_steps.Figures:
    step = Step(lambda place, note: None, seconds)
    return gpu_steps.do(name, step, Place(tmp_path, 0), seconds, ["-c", CHILD, str(tmp_path), name])


def test_a_step_that_ends_has_its_figures_and_says_what_failed(tmp_path: Path) -> None:
    good, skipped, failing = (record(tmp_path, name) for name in ("good", "skipped", "failing"))
    assert (good["ok"], good["first"], good["second"]) == (True, 1, gpu_steps.ROOM * 60)
    assert (skipped["ok"], skipped["skipped"]) == (None, "needs two GPUs")
    assert failing | {"seconds": 0} == {
        "step": "failing",
        "seconds": 0,
        "first": 1,
        "ok": False,
        "error": "ValueError: no such layer",
        "log": str(tmp_path / "failing.log"),
    }


def test_of_a_log_in_an_error_the_cause_is_shown() -> None:
    log = "\n".join(["noise"] * 50 + ["Traceback (most recent call last):", "ValueError: no free port", "more noise"])
    failure = SystemExit(f"the service did not start:\n{log}")
    assert gpu_steps.one_line(failure) == "SystemExit: the service did not start: ValueError: no free port"
    assert gpu_steps.one_line(ValueError("no such\n layer")) == "ValueError: no such layer"


def test_a_step_whose_process_is_killed_keeps_its_figures_and_shows_its_log(tmp_path: Path) -> None:
    killed = record(tmp_path, "killed")
    assert (killed["ok"], killed["first"]) == (False, 1)
    assert killed["error"] == "its process ended by signal 9; last in its log: OutOfMemoryError: CUDA out of memory."


def test_a_step_that_hangs_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    hanging = record(tmp_path, "hanging", seconds=4)
    assert hanging["ok"] is False
    assert hanging["error"].startswith("not done within 4 s")
    left = [process for process in psutil.process_iter() if process.pid == hanging["child"]]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in left)


def test_a_step_leaves_the_later_ones_the_seconds_that_they_usually_take() -> None:
    assert gpu_steps.bound(600, [100, 200, 200]) == 200
    assert gpu_steps.bound(300, [100, 200, 300]) == pytest.approx(50)  # half of all is to be had
    assert gpu_steps.bound(40, [100]) == 40


def test_a_record_of_an_earlier_call_is_not_taken_for_this_one(tmp_path: Path) -> None:
    Note(tmp_path / "killed.json")(ok=True, old=1)
    killed = record(tmp_path, "killed")
    assert killed["ok"] is False
    assert "old" not in killed


def test_the_table_has_a_row_for_each_step_without_what_is_not_known() -> None:
    rows = [
        {"step": "a", "seconds": 12.3, "ok": True, "tokens_per_s": 12345.6, "used_gib": None, "cards": ["X, 80 GiB"]},
        {"step": "b", "seconds": 0.1, "ok": None, "skipped": "needs two GPUs"},
        {"step": "c", "seconds": 1.0, "ok": False, "error": "a | b", "log": "/x/c.log", "stages": {"sft": 1.5}},
    ]
    assert gpu_steps.table(rows).splitlines()[2:] == [
        "| a | ok | 12 | tokens_per_s 12,346; cards: X, 80 GiB |",
        "| b | skipped | 0 | needs two GPUs |",
        "| c | FAILED | 1 | error a / b; stages: sft 1.5 |",
    ]


def test_what_stops_the_check_ends_the_step_and_prints_the_table(tmp_path: Path) -> None:
    """SIGTERM, as from a scheduler: no step keeps the GPU."""
    code = """
import sys
from functools import partial
from pathlib import Path
from benchmarks.gpu_smoke import check
from benchmarks.gpu_steps import Place, Step
folder = Path(sys.argv[1])
steps = {"hanging": Step(print, 60)}
sys.exit(check(steps, ["hanging"], Place(folder, 0), 1, ["-c", sys.argv[2], str(folder)]))
"""
    check = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), CHILD], cwd=gpu_steps.ROOT, stdout=subprocess.PIPE, text=True
    )
    note = Note(tmp_path / "hanging.json")
    while not note.figures():
        assert check.poll() is None
        time.sleep(0.1)
    check.terminate()
    out, _ = check.communicate(timeout=50)
    assert check.returncode == 143
    assert out.startswith("\n| step |")
    left = [process for process in psutil.process_iter() if process.pid == note.figures()["child"]]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in left)


def test_every_step_of_both_lists_has_its_time_and_fits_the_time_for_all() -> None:
    from benchmarks.gpu_measure import MEASUREMENTS
    from benchmarks.gpu_smoke import STEPS

    assert sum(step.seconds for step in STEPS.values()) <= 600
    assert sum(step.seconds for step in MEASUREMENTS.values()) <= 1200


def test_only_a_folder_of_the_check_or_an_empty_one_is_kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check deletes `models` and `run` in it."""
    weights = tmp_path / "demo" / "models" / "weights"
    weights.parent.mkdir(parents=True)
    weights.touch()
    begun: list[Path] = []
    monkeypatch.setattr(gpu_smoke, "check", lambda _steps, _names, place, *_: begun.append(place.folder) or 0)

    def call(folder: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu_smoke", "--cpu", "--keep", str(tmp_path / folder)])
        return gpu_smoke.main()

    with pytest.raises(SystemExit, match="2"):
        call("demo")
    assert not begun
    assert call("new") == 0
    (tmp_path / "new" / "run").mkdir()
    assert call("new") == 0
    assert begun == [tmp_path / "new"] * 2
