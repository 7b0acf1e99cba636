"""Resume checkpoints: only complete, unaltered ones of the same layout are loaded, the furthest first."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rft_ray.store.backends.local import LocalStore
from rft_ray.training import checkpoints
from rft_ray.training.checkpoints import MANIFEST, Checkpoint, work_folder
from rft_ray.training.results import STARTED

LAYOUT = {"workers": 2, "zero_stage": 2}
JOB = "5f0c5f0c5f0c5f0c"


class DistantStore:
    """A store without local paths, so that files must be copied, as with S3."""

    def __init__(self, path: Path) -> None:
        self._there = LocalStore(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def local_path(self, key: str) -> None:
        return None


def write(store: Any, scratch: Path, attempt: str, step: int, layout: dict[str, int] | None = None) -> Checkpoint:
    """Save one checkpoint of three files as the trainer and its callback do."""
    folder = f"{work_folder(JOB, attempt)}/checkpoint-{step}"
    local = checkpoints.local_folder(store, folder, scratch)
    for name in ("latest", f"global_step{step}/rank_0.pt", f"global_step{step}/rank_1.pt"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text(f"{name} {step}")
    files = checkpoints.upload(store, folder, local)
    checkpoint = Checkpoint(folder, step, 1.5 * step, layout or LAYOUT, files)
    checkpoints.commit(store, checkpoint)
    return checkpoint


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_the_furthest_complete_checkpoint_of_all_attempts_is_chosen(store: LocalStore, tmp_path: Path) -> None:
    write(store, tmp_path, "b", 20)
    furthest = write(store, tmp_path, "a", 30)
    write(store, tmp_path, "c", 10)
    assert checkpoints.newest(store, JOB, LAYOUT, tmp_path) == (furthest, 0)


def test_a_half_written_checkpoint_is_never_loaded(store: LocalStore, tmp_path: Path) -> None:
    complete = write(store, tmp_path, "a", 10)
    half = write(store, tmp_path, "a", 20)
    store.local_path(f"{half.folder}/{MANIFEST}").unlink()
    assert checkpoints.newest(store, JOB, LAYOUT, tmp_path) == (complete, 0)


@pytest.mark.parametrize("harm", ["alter", "remove", "truncate"])
def test_a_damaged_checkpoint_is_skipped_and_counted(store: LocalStore, tmp_path: Path, harm: str) -> None:
    older = write(store, tmp_path, "a", 10)
    damaged = write(store, tmp_path, "a", 20)
    file = store.local_path(f"{damaged.folder}/global_step20/rank_1.pt")
    content = file.read_bytes()
    file.unlink()
    if harm != "remove":
        file.write_bytes(content[:-1] if harm == "truncate" else content.replace(b"2", b"3"))
    assert checkpoints.newest(store, JOB, LAYOUT, tmp_path) == (older, 1)


@pytest.mark.parametrize("other", [{"workers": 1, "zero_stage": 2}, {"workers": 2, "zero_stage": 3}])
def test_a_checkpoint_of_another_layout_is_skipped_and_counted(
    store: LocalStore, tmp_path: Path, other: dict[str, int]
) -> None:
    write(store, tmp_path, "a", 10)
    assert checkpoints.newest(store, JOB, other, tmp_path) == (None, 1)


def test_a_checkpoint_with_an_unreadable_manifest_is_skipped(store: LocalStore, tmp_path: Path) -> None:
    complete = write(store, tmp_path, "a", 10)
    store.create(f"{work_folder(JOB, 'a')}/checkpoint-20/{MANIFEST}", b'{"step": 20')
    store.create(f"{work_folder(JOB, 'a')}/checkpoint-30/{MANIFEST}", b'{"stop": 30}')
    assert checkpoints.newest(store, JOB, LAYOUT, tmp_path) == (complete, 0)


def test_two_checkpoints_of_all_attempts_are_kept(store: LocalStore, tmp_path: Path) -> None:
    for attempt, step in (("a", 10), ("a", 20), ("b", 30), ("b", 40)):
        write(store, tmp_path, attempt, step)
        checkpoints.prune(store, JOB)
    assert {c.step for c in checkpoints.committed(store, JOB)} == {30, 40}
    assert not store.local_path(f"{work_folder(JOB, 'a')}/checkpoint-20").exists()


def test_a_finished_job_leaves_no_work_folder(store: LocalStore, tmp_path: Path) -> None:
    write(store, tmp_path, "a", 10)
    write(store, tmp_path, "killed", 20)
    checkpoints.remove(store, JOB, "a")
    assert list(store.list("work/")) == []
    assert not store.local_path(f"work/{JOB}").exists()


def test_a_finished_job_leaves_the_folder_of_another_that_may_train_the_same_model(
    store: LocalStore, tmp_path: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, processes = socket.gethostname(), {"live": os.getpid(), "killed": ended.pid, "far": 1}
    for attempt, pid in processes.items():
        write(store, tmp_path, attempt, 10)
        origin = {"host": "elsewhere" if attempt == "far" else here, "pid": pid}
        store.create(f"{work_folder(JOB, attempt)}/{STARTED}", json.dumps(origin).encode())
    write(store, tmp_path, "a", 20)
    checkpoints.remove(store, JOB, "a")
    assert {key.split("/")[2] for key in store.list(f"work/{JOB}/")} == {"live", "far"}


def test_a_checkpoint_is_uploaded_to_a_remote_store_and_fetched_back(tmp_path: Path) -> None:
    distant: Any = DistantStore(tmp_path / "bucket")
    written = write(distant, tmp_path / "node-1", "a", 10)
    newest, passed_over = checkpoints.newest(distant, JOB, LAYOUT, tmp_path / "node-2")
    assert (newest, passed_over) == (written, 0)
    assert newest is not None
    folder = checkpoints.fetch(distant, newest, tmp_path / "node-2")
    assert checkpoints.hash_files(folder) == written.files
    checkpoints.remove(distant, JOB, "a")
    assert len(checkpoints.committed(distant, JOB)) == 1, "a store without delete keeps what it has"
