"""The folders of attempts on one node: each has its own, and those of killed ones are deleted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rft_ray.config import Training
from rft_ray.training import scratch
from rft_ray.training.results import TrainingError
from rft_ray.training.trainer import Group

HOLD = """
import sys
from pathlib import Path
from rft_ray.training import scratch
folder = Path(sys.argv[1])
scratch.claim(folder)
(folder / "state.pt").write_text("state")
print("held", flush=True)
sys.stdin.read()
"""


class Elsewhere:
    url = "s3://bucket/run"


def attempt(settings: Training, name: str, node_rank: int = 0) -> Group:
    store: Any = Elsewhere()
    return Group(name, store, settings, False, None, 0, 0, 1, node_rank=node_rank)


def test_the_files_of_an_attempt_stay_while_its_process_lives(tmp_path: Path) -> None:
    settings = Training(scratch_folder=str(tmp_path))
    first, second = attempt(settings, "first").scratch, attempt(settings, "second").scratch
    (first.parent / "work" / "5f").mkdir(parents=True)  # as earlier versions left it
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(first)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        scratch.claim(second)
        assert {path.name for path in second.parent.iterdir() if path.is_dir()} == {first.name, second.name}
        assert (first / "state.pt").exists()
        process.kill()
    third = attempt(settings, "third").scratch
    scratch.claim(third)
    assert {path.name for path in third.parent.iterdir() if path.is_dir()} == {second.name, third.name}
    for folder in (second, third):
        scratch.release(folder)
    assert not [path for path in third.parent.iterdir() if path.is_dir()]


def test_nodes_that_share_the_folder_have_folders_of_their_own(tmp_path: Path) -> None:
    settings = Training(scratch_folder=str(tmp_path))
    assert attempt(settings, "a", 0).scratch != attempt(settings, "a", 1).scratch


def test_a_folder_that_cannot_be_made_is_one_line_that_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"^training\.scratch_folder .*file/below cannot be used on this node \(.*"):
        scratch.scratch_folder(Training(scratch_folder=str(tmp_path / "file" / "below")))
