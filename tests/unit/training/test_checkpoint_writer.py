"""Checkpoints are stored behind the training: when they are due, in which order, and what a failure does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rft_ray.config import Training
from rft_ray.store import StoreError, outages
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable
from rft_ray.training import checkpoints, ray_group
from rft_ray.training.agreement import SavingError
from rft_ray.training.checkpoint_writer import CheckpointWriter, Schedule
from rft_ray.training.trainer import Group

JOB = "5f0c5f0c5f0c5f0c"


class GatedStore:
    """A store elsewhere whose uploads wait until its gate is open, or fail."""

    url = "s3://bucket/gated"

    def __init__(self, path: Path) -> None:
        self._there = LocalStore(path)
        self.gate = threading.Event()
        self.full = False
        self.outage = 0
        """Number of uploads that find the store out of reach."""
        self.uploads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def local_path(self, key: str) -> None:
        return None

    def create_file(self, key: str, path: Path) -> bool:
        self.uploads.append(key)
        assert self.gate.wait(30)
        if self.full:
            raise StoreError(f"S3 failed for {key}")
        if self.outage:
            self.outage -= 1
            raise StoreUnreachable("S3 is out of reach")
        return self._there.create_file(key, path)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return GatedStore(tmp_path / "bucket")


@pytest.fixture
def group(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Group:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Group("a", store, Training(), False, None, 0, 0, 1)


@pytest.fixture
def writer(group: Group) -> Iterator[CheckpointWriter]:
    writer = CheckpointWriter(group, JOB)
    yield writer
    group.store.gate.set()
    writer.finish()


def trained_to(group: Group, step: int) -> int:
    """Write the files of a step, as DeepSpeed does."""
    folder = checkpoints.local_folder(group.store, f"work/{JOB}/a/checkpoint-{step}", group.scratch)
    (folder / f"global_step{step}").mkdir(parents=True)
    (folder / "latest").write_text(f"global_step{step}")
    (folder / f"global_step{step}" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"state")
    return step


def steps(group: Group) -> list[int]:
    return sorted(checkpoint.step for checkpoint in checkpoints.committed(group.store, JOB))


def test_the_training_goes_on_while_a_checkpoint_is_uploaded(group: Group, writer: CheckpointWriter) -> None:
    writer.save(trained_to(group, 1), 1.5)
    assert writer.busy
    assert steps(group) == []
    group.store.gate.set()
    writer.wait()
    (checkpoint,) = checkpoints.committed(group.store, JOB)
    assert (checkpoint.step, checkpoint.seconds, len(checkpoint.files)) == (1, 1.5, 2)
    assert not list(group.scratch.rglob("latest")), "the copies on this node are gone"


def test_the_next_checkpoint_waits_for_the_one_before(group: Group, writer: CheckpointWriter) -> None:
    writer.save(trained_to(group, 1), 1.0)
    threading.Timer(0.2, group.store.gate.set).start()
    writer.save(trained_to(group, 2), 2.0)
    writer.wait()
    of_step = [key.split("/")[3] for key in group.store.uploads]
    assert of_step == sorted(of_step)
    assert steps(group) == [1, 2]


def test_a_failed_upload_fails_the_attempt_and_leaves_no_checkpoint(group: Group, writer: CheckpointWriter) -> None:
    schedule = Schedule(group, writer)
    group.store.full = True
    group.store.gate.set()
    writer.save(trained_to(group, 1), 1.0)
    while not writer.failed:
        time.sleep(0.01)
    with pytest.raises(SavingError, match=r"^the checkpoint of step 1 could not be stored: S3 failed for work/"):
        schedule.due(2)
    assert steps(group) == []
    assert ray_group.refused_by(SavingError("…")) == "", "another attempt is made"


def test_a_checkpoint_outlasts_an_outage_of_the_store(
    group: Group, writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.01)
    group.store.outage = 3
    group.store.gate.set()
    writer.save(trained_to(group, 1), 1.0)
    writer.wait()
    assert steps(group) == [1]


def test_a_failure_after_the_last_step_is_a_warning(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    writer = CheckpointWriter(group, JOB)
    group.store.full = True
    group.store.gate.set()
    writer.save(trained_to(group, 1), 1.0)
    writer.finish()
    assert "the training is over" in caplog.text


def test_a_checkpoint_is_due_when_its_minutes_are_over(group: Group, writer: CheckpointWriter) -> None:
    now = [0.0]
    schedule = Schedule(group, writer, clock=lambda: now[0])
    now[0] = 1000.0
    schedule.begin()
    due = []
    for step in range(1, 50):
        now[0] += 100
        if schedule.due(step):
            due.append(step)
    assert due == [12, 24, 36, 48], "every 20 minutes, of steps that take 100 s"


def test_a_slow_store_postpones_the_next_checkpoint_and_not_the_training(
    group: Group, writer: CheckpointWriter
) -> None:
    now = [0.0]
    schedule = Schedule(group, writer, clock=lambda: now[0])
    writer.save(trained_to(group, 1), 1.0)
    now[0] = 5000.0
    assert not schedule.due(2), "the one before is on its way"
    group.store.gate.set()
    writer.wait()
    assert schedule.due(3)
    assert not schedule.due(4), "the minutes begin anew"


def test_steps_and_urgency_make_one_due_too(group: Group, writer: CheckpointWriter) -> None:
    object.__setattr__(group, "settings", Training(checkpoint_every_steps=4))
    urgent = [False]
    schedule = Schedule(group, writer, urgent=lambda: urgent[0])
    assert [step for step in range(1, 13) if schedule.due(step)] == [4, 8, 12]
    urgent[0] = True
    assert schedule.due(13)
