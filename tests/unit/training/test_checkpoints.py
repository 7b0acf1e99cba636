"""Resume checkpoints: only complete, unaltered ones of the same layout are loaded, the furthest first."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rft_ray.store import StoreError, outages
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.processes import machine
from rft_ray.training import checkpoints
from rft_ray.training.checkpoints import MANIFEST, Checkpoint, work_folder
from rft_ray.training.results import STARTED

LAYOUT = {"workers": 2, "zero_stage": 2}
JOB = "5f0c5f0c5f0c5f0c"


class DistantStore:
    """A store without local paths, so that files must be copied, as with S3."""

    url = "s3://bucket/run"
    may_delete = True

    def __init__(self, path: Path) -> None:
        self._there = LocalStore(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def local_path(self, key: str) -> None:
        return None

    def discard(self, keys: Iterable[str]) -> None:
        if not self.may_delete:
            raise StoreError("S3 denies access")
        self._there.discard(keys)


def write(store: Any, scratch: Path, attempt: str, step: int, layout: dict[str, Any] | None = None) -> Checkpoint:
    """Save one checkpoint of three files as the trainer and its callback do."""
    folder = f"{work_folder(JOB, attempt)}/checkpoint-{step}"
    local = checkpoints.local_folder(store, folder, scratch)
    for name in ("latest", f"global_step{step}/rank_0.pt", f"global_step{step}/rank_1.pt"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text(f"{name} {step}")
    names = [str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()]
    files = checkpoints.upload(store, folder, local, names)
    checkpoint = Checkpoint(folder, step, 1.5 * step, layout or LAYOUT, files)
    checkpoints.commit(store, checkpoint)
    return checkpoint


def newest(store: Any, scratch: Path, layout: dict[str, int] = LAYOUT) -> tuple[Checkpoint | None, int]:
    """The checkpoint that a worker alone in its group starts from."""
    complete = checkpoints.committed(store, JOB)
    return checkpoints.newest(complete, layout, lambda c: checkpoints.damaged(store, c, [*c.files], scratch))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_the_furthest_complete_checkpoint_of_all_attempts_is_chosen(store: LocalStore, tmp_path: Path) -> None:
    write(store, tmp_path, "b", 20)
    furthest = write(store, tmp_path, "a", 30)
    write(store, tmp_path, "c", 10)
    assert newest(store, tmp_path) == (furthest, 0)


def test_a_half_written_checkpoint_is_never_loaded(store: LocalStore, tmp_path: Path) -> None:
    complete = write(store, tmp_path, "a", 10)
    half = write(store, tmp_path, "a", 20)
    store.local_path(f"{half.folder}/{MANIFEST}").unlink()
    assert newest(store, tmp_path) == (complete, 0)


@pytest.mark.parametrize("harm", ["alter", "remove", "truncate"])
def test_a_damaged_checkpoint_is_skipped_and_counted(store: LocalStore, tmp_path: Path, harm: str) -> None:
    older = write(store, tmp_path, "a", 10)
    damaged = write(store, tmp_path, "a", 20)
    file = store.local_path(f"{damaged.folder}/global_step20/rank_1.pt")
    content = file.read_bytes()
    file.unlink()
    if harm != "remove":
        file.write_bytes(content[:-1] if harm == "truncate" else content.replace(b"2", b"3"))
    assert newest(store, tmp_path) == (older, 1)


def test_a_checkpoint_of_other_data_is_skipped_and_counted(store: LocalStore, tmp_path: Path) -> None:
    write(store, tmp_path, "a", 10)
    assert newest(store, tmp_path, {**LAYOUT, "training/x": "other rows"}) == (None, 1)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_checkpoint_of_another_zero_stage_is_taken(store: LocalStore, tmp_path: Path, stage: int) -> None:
    kept = write(store, tmp_path, "a", 10)
    assert newest(store, tmp_path, {**LAYOUT, "zero_stage": stage}) == (kept, 0)


def test_a_checkpoint_with_an_unreadable_manifest_is_skipped(store: LocalStore, tmp_path: Path) -> None:
    complete = write(store, tmp_path, "a", 10)
    store.create(f"{work_folder(JOB, 'a')}/checkpoint-20/{MANIFEST}", b'{"step": 20')
    store.create(f"{work_folder(JOB, 'a')}/checkpoint-30/{MANIFEST}", b'{"stop": 30}')
    assert newest(store, tmp_path) == (complete, 0)


def test_two_checkpoints_of_all_attempts_are_kept(store: LocalStore, tmp_path: Path) -> None:
    for attempt, step in (("a", 10), ("a", 20), ("b", 30), ("b", 40)):
        write(store, tmp_path, attempt, step)
        checkpoints.prune(store, JOB, step)
    assert {c.step for c in checkpoints.committed(store, JOB)} == {30, 40}
    assert not store.local_path(f"{work_folder(JOB, 'a')}/checkpoint-20").exists()


def test_the_checkpoints_of_a_training_that_began_again_stay_beside_later_ones_that_it_cannot_load(
    store: LocalStore, tmp_path: Path
) -> None:
    for step in (700, 800):
        write(store, tmp_path, "a", step, {**LAYOUT, "training/x": "other rows"})
    for step in (10, 20, 30):
        last = write(store, tmp_path, "b", step)
        checkpoints.prune(store, JOB, step)
    assert newest(store, tmp_path) == (last, 2)
    assert {c.step for c in checkpoints.committed(store, JOB)} == {20, 30, 700, 800}
    write(store, tmp_path, "b", 810)
    write(store, tmp_path, "b", 820)
    checkpoints.prune(store, JOB, 820)
    assert {c.step for c in checkpoints.committed(store, JOB)} == {810, 820}


def test_no_flipped_bit_of_a_manifest_gives_another_checkpoint(store: LocalStore, tmp_path: Path) -> None:
    right = write(store, tmp_path, "a", 40)
    path = store.local_path(f"{right.folder}/{MANIFEST}")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes((int.from_bytes(whole, "big") ^ (1 << bit)).to_bytes(len(whole), "big"))
        assert checkpoints.committed(store, JOB) in ([], [right]), bit


def test_a_checkpoint_of_an_earlier_version_has_no_hash_of_its_manifest(store: LocalStore, tmp_path: Path) -> None:
    complete = write(store, tmp_path, "a", 10)
    path = store.local_path(f"{complete.folder}/{MANIFEST}")
    body = json.loads(path.read_text())
    del body["sha256"]
    path.write_text(json.dumps(body))
    assert newest(store, tmp_path) == (complete, 0)


def test_a_store_out_of_reach_hides_no_checkpoint(store: LocalStore, tmp_path: Path) -> None:
    write(store, tmp_path, "a", 10)

    def unreachable(key: str) -> bytes:
        raise StoreUnreachable("S3 is out of reach")

    store.read = unreachable  # type: ignore[method-assign]
    with pytest.raises(StoreUnreachable):
        checkpoints.committed(store, JOB)


def test_the_manifest_of_a_checkpoint_outlasts_an_outage_as_its_files_do(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.0)
    failures, create = [StoreUnreachable("S3 is out of reach")] * 2, LocalStore.create

    def flickering(self: LocalStore, key: str, data: bytes) -> bool:
        if failures:
            raise failures.pop()
        return create(self, key, data)

    monkeypatch.setattr(LocalStore, "create", flickering)
    assert newest(store, tmp_path) == (None, 0)
    complete = write(store, tmp_path, "a", 10)
    assert newest(store, tmp_path) == (complete, 0)


def test_files_that_were_written_while_the_disk_was_away_are_not_committed(store: LocalStore, tmp_path: Path) -> None:
    complete = write(store, tmp_path, "a", 10)
    away = replace(complete, folder=complete.folder.replace("-10", "-20"), step=20)
    with pytest.raises(StoreError, match="was its disk away"):
        checkpoints.commit(store, away)
    assert newest(store, tmp_path) == (complete, 0)


def test_a_file_that_cannot_be_read_while_the_disk_is_away_is_not_damaged(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = write(store, tmp_path, "a", 10)
    failures, digest = [OSError(errno.ESTALE, "stale file handle")], checkpoints.digest_of_file

    def flickering(path: Path) -> str:
        if failures:
            raise failures.pop()
        return digest(path)

    monkeypatch.setattr(checkpoints, "digest_of_file", flickering)
    assert newest(store, tmp_path) == (complete, 0)


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


def begin(store: Any, attempt: str, **origin: Any) -> None:
    """The record that an attempt writes when it starts."""
    content = json.dumps({**checkpoints.this_process(), **origin}).encode()
    store.create(f"{work_folder(JOB, attempt)}/{STARTED}", content)


@pytest.mark.parametrize("remote", [False, True])
def test_only_what_attempts_that_have_ended_left_of_half_written_checkpoints_is_deleted(
    store: LocalStore, tmp_path: Path, remote: bool
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    there: Any = DistantStore(tmp_path / "store") if remote else store
    origins: dict[str, dict[str, Any]] = {
        "live": {},
        "failed": {},
        "killed": {"pid": ended.pid},
        "reused": {"started": "1"},  # its id is another process's by now
        "far": {"host": "elsewhere", "machine": "elsewhere", "pid": ended.pid},
        "namesake": {"machine": f"{socket.gethostname()} another-boot pid:[4026531836]", "pid": ended.pid},
        "container": {"machine": f"{machine().rpartition(' ')[0]} pid:[1]", "pid": ended.pid},
        "earlier": {"machine": None, "pid": ended.pid},
        "absurd": {"pid": 1e999},
    }
    for step, (attempt, origin) in enumerate(origins.items()):
        begin(there, attempt, **origin)
        write(there, tmp_path, attempt, 10 + step)
        half = write(there, tmp_path, attempt, 20 + step)
        store.local_path(f"{half.folder}/{MANIFEST}").unlink()
    there.create(f"work/{JOB}/notes", b"a user's")
    whole = checkpoints.committed(there, JOB)
    checkpoints.discard_unfinished(there, JOB, "failed")
    left = {key.split("/")[2] for key in there.list("work/") if "/checkpoint-2" in key}
    assert left == set(origins) - {"failed", "killed", "reused"}
    assert not checkpoints._may_run(there, work_folder(JOB, "absurd"))
    assert checkpoints.committed(there, JOB) == whole
    assert all(not checkpoints.damaged(there, checkpoint, [*checkpoint.files], tmp_path) for checkpoint in whole)


@pytest.mark.parametrize("remote", [False, True])
def test_a_checkpoint_that_is_committed_while_its_attempt_is_looked_at_stays(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    """Its process ends right after."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    there: Any = DistantStore(tmp_path / "store") if remote else store
    begin(there, "a", pid=ended.pid)
    half = write(there, tmp_path, "a", 10)
    manifest = store.local_path(f"{half.folder}/{MANIFEST}")
    content = manifest.read_bytes()
    manifest.unlink()
    read = LocalStore.read

    def commits(self: LocalStore, key: str) -> bytes:
        if key.endswith(STARTED):
            manifest.write_bytes(content)
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read", commits)
    checkpoints.discard_unfinished(there, JOB)
    assert checkpoints.committed(there, JOB) == [half]
    assert not checkpoints.damaged(there, half, [*half.files], tmp_path)


def test_a_checkpoint_is_uploaded_to_a_remote_store_and_fetched_back(tmp_path: Path) -> None:
    distant: Any = DistantStore(tmp_path / "bucket")
    written = write(distant, tmp_path / "node-1", "a", 10)
    assert newest(distant, tmp_path / "node-2") == (written, 0)
    for name in written.files:
        copies = [checkpoints.local_folder(distant, written.folder, tmp_path / node) for node in ("node-1", "node-2")]
        assert (copies[0] / name).read_bytes() == (copies[1] / name).read_bytes()


def test_old_checkpoints_are_deleted_from_a_remote_store_their_manifests_first(tmp_path: Path) -> None:
    distant: Any = DistantStore(tmp_path / "bucket")
    deleted: list[str] = []
    discard = distant.discard
    distant.discard = lambda keys: (deleted.extend(keys := [*keys]), discard(keys))
    for step in (10, 20, 30):
        write(distant, tmp_path / "node", "a", step)
    checkpoints.prune(distant, JOB, 30)
    assert deleted[0].endswith(f"checkpoint-10/{MANIFEST}")
    assert not list(distant.list(f"{work_folder(JOB, 'a')}/checkpoint-10/"))
    assert {c.step for c in checkpoints.committed(distant, JOB)} == {20, 30}
    checkpoints.remove(distant, JOB, "a")
    assert not list(distant.list("work/"))


def test_where_the_key_may_not_delete_one_warning_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    distant: Any = DistantStore(tmp_path / "bucket")
    monkeypatch.setattr(DistantStore, "url", "s3://bucket/readonly")
    monkeypatch.setattr(DistantStore, "may_delete", False)
    for step in (10, 20, 30, 40):
        write(distant, tmp_path / "node", "a", step)
        checkpoints.prune(distant, JOB, step)
    checkpoints.remove(distant, JOB, "a")
    assert len(checkpoints.committed(distant, JOB)) == 4
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("old checkpoints stay in s3://bucket/readonly/work (S3 denies access): ")
    assert "lifecycle rule" in warning


def test_a_store_out_of_reach_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "OUTAGE_S", 0.0)
    distant: Any = DistantStore(tmp_path / "bucket")
    write(distant, tmp_path / "node-1", "a", 10)

    def unreachable(key: str, path: Path) -> None:
        raise StoreUnreachable("S3 is out of reach")

    distant.fetch = unreachable
    with pytest.raises(StoreUnreachable):
        newest(distant, tmp_path / "node-2")


def test_every_file_is_one_ranks_own(tmp_path: Path) -> None:
    names = {
        "latest": 0,
        "trainer_state.json": 0,
        "rng_state_0.pth": 0,
        "rng_state_1.pth": 1,
        "rng_state_11.pth": 11,
        "global_step8/mp_rank_00_model_states.pt": 0,
        "global_step8/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt": 1,
        "global_step8/zero_pp_rank_11_mp_rank_00_model_states.pt": 11,
    }
    for name in (*names, MANIFEST):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    own = {rank: checkpoints.own_files(tmp_path, rank, rank == 0) for rank in range(12)}
    assert {name: rank for rank, files in own.items() for name in files} == names
    assert sum(map(len, own.values())) == len(names)
