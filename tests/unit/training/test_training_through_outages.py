"""A short outage of the store ends no training, uses up no attempt, and leaves the trainings next to it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rft_ray.config import ALPACA, Recipe, Training
from rft_ray.data import base_weights
from rft_ray.data.tiny import model_dir
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import StoreError, commit_table, outages
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.models.committed import commit_model, fetch_model
from rft_ray.training import checkpoints, final_weights, inputs, worker
from rft_ray.training.checkpoints import Checkpoint, work_folder
from rft_ray.training.results import STARTED, TrainingError
from rft_ray.training.side_by_side import Groups, RunningGroup
from rft_ray.training.stage import _result, _train_missing
from rft_ray.training.trainer import Group
from tests.flickering_store import FlickeringStore

A, B, START = "a" * 16, "b" * 16, "c" * 16
JOB = TrainingJob("tiny-s", "sft", A, "tiny:tiny-s", "training/x.parquet", Recipe(), ALPACA, 0)
OTHER = replace(JOB, model="tiny-m", fingerprint=B)
SIDE_BY_SIDE = Training(workers=1, parallel_jobs=2, max_attempts=2, device="cpu")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlickeringStore:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.0)
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    return FlickeringStore(tmp_path / "bucket")


@pytest.fixture
def group(store: Any) -> Group:
    return Group("attempt", store, Training(workers=1), False, None, 0, 0, 1)


# --- The driver -----------------------------------------------------------------------------------


class Scripted(Groups):
    """Groups that end as told, in the order of the script: model and failure, of which None commits the model."""

    def __init__(self, store: Any, script: Sequence[tuple[str, Exception | None]]) -> None:
        super().__init__(store, SIDE_BY_SIDE, None, gpu=False, jobs=2, start=self.begin)
        self._script = list(script)

    def __exit__(self, *_: object) -> None:
        assert not self.running, "trainings are ended that nothing is wrong with"
        super().__exit__(None, None, None)

    def begin(self, jobs: Sequence[TrainingJob], attempt: str, *_: object, **__: object) -> None:
        for job in jobs:
            self._store.there.create(f"{work_folder(job.fingerprint, attempt)}/{STARTED}", b"{}")

    def ended(self) -> tuple[RunningGroup, Exception | None]:
        model, failure = self._script.pop(0)
        group = next(group for group in self.running if group.jobs[0].model == model)
        self.running.remove(group)
        if failure is None:
            commit_model(self._store.there, group.jobs[0].fingerprint, model_dir("tiny-s"), {})
        return group, failure


LOST = ConnectionError("Connection closed by peer")


def test_a_group_that_fails_in_an_outage_is_started_again_next_to_the_others(store: FlickeringStore) -> None:
    with Scripted(store, [("tiny-s", LOST), ("tiny-m", None), ("tiny-s", None)]) as groups:
        attempts = _train_missing([JOB, OTHER], groups, store, SIDE_BY_SIDE)
    assert len(attempts) == 3
    assert [operation for operation, _ in store.met] == ["list", "list", "exists", "list"]


def test_what_failed_attempts_left_of_checkpoints_is_deleted_before_the_next_one(store: FlickeringStore) -> None:
    found: list[int] = []

    class Filling(Scripted):
        """Each attempt leaves a file of a checkpoint, as on a full disk."""

        def begin(self, jobs: Sequence[TrainingJob], attempt: str, *_: object, **__: object) -> None:
            found.append(sum("/checkpoint-" in key for key in store.there.list("work/")))
            store.there.create(f"{work_folder(jobs[0].fingerprint, attempt)}/checkpoint-8/latest", b"")

    with Filling(store, [("tiny-s", LOST), ("tiny-s", None)]) as groups:
        _train_missing([JOB], groups, store, SIDE_BY_SIDE)
    assert found == [0, 0]


def test_failures_in_an_outage_are_counted_all_the_same(store: FlickeringStore) -> None:
    script = [("tiny-s", LOST), ("tiny-s", LOST), ("tiny-m", None)]
    message = "sft of tiny-s: attempt 2 of 2 failed: ConnectionError"
    with Scripted(store, script) as groups, pytest.raises(TrainingError, match=message):
        _train_missing([JOB, OTHER], groups, store, SIDE_BY_SIDE)


@pytest.mark.parametrize("operation", ["exists", "list"])
def test_an_outage_that_does_not_end_leaves_the_others_to_end(
    store: Any, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise StoreUnreachable("S3 is out of reach")

    monkeypatch.setattr(outages, "OUTAGE_S", 0.0)
    monkeypatch.setattr(FlickeringStore, "_reach", lambda *_: None)
    setattr(store, operation, unreachable)
    with Scripted(store, [("tiny-s", LOST), ("tiny-m", None)]) as groups, pytest.raises(StoreUnreachable):
        _train_missing([JOB, OTHER], groups, store, SIDE_BY_SIDE)


def test_a_look_at_the_groups_does_not_wait_for_the_store(store: FlickeringStore) -> None:
    with Scripted(store, []) as groups:
        groups.start([JOB])
        placed = []
        for _ in range(2):
            groups._look()
            placed.append(groups.running[0].placed)
        groups.running.clear()
    assert (placed, len(store.met)) == ([False, True], 1)


def test_a_result_is_read_through_an_outage(store: Any) -> None:
    record = {"examples": 1, "skipped_too_long": 0, "steps": 1, "tokens": 1, "seconds": 1.0, "tokens_per_s": 1.0}
    commit_model(store.there, A, model_dir("tiny-s"), {"training": {**record, "final_loss": 0.5, "attempt": "x"}})
    assert _result(store, JOB, {"x"}).committed_here
    assert len(store.met) == 2


# --- A worker -------------------------------------------------------------------------------------


def test_a_worker_waits_for_its_rows_and_for_what_identifies_them(store: Any, group: Group) -> None:
    table = pa.table({"question": ["1 + 1?"], "text": ["2"]})
    commit_table(store.there, JOB.data_key, table, {})
    assert list(inputs.rows(group, JOB.data_key)) == [("1 + 1?", "2")]
    commit_model(store.there, START, model_dir("tiny-s"), {})
    made_from = inputs.made_from(group, replace(JOB, start=START, same_steps_as="training/x.parquet"))
    assert list(made_from) == ["training/x", f"models/{START}/manifest"]
    assert {operation for operation, _ in store.met} == {"list", "read"}


def test_a_worker_waits_for_the_model_that_it_starts_from(store: Any, group: Group) -> None:
    commit_model(store.there, START, model_dir("tiny-s"), {})
    folder = inputs.start_folder(group, replace(JOB, start=START))
    assert (folder / "config.json").read_bytes() == (model_dir("tiny-s") / "config.json").read_bytes()
    assert sum(operation == "fetch" for operation, _ in store.met) >= 3


def test_a_worker_waits_for_base_weights(store: Any, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_weights, "resolve_exactly", lambda *_: pytest.fail("the run has the base"))
    commit_model(store.there, START, model_dir("tiny-s"), {})
    folder = inputs.start_folder(group, replace(JOB, base="hub:a/b", base_fingerprint=START))
    assert (folder / "config.json").is_file()


def test_a_worker_waits_for_a_base_on_s3(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [StoreUnreachable("S3 is out of reach")] * 2

    def resolve(source: str) -> Path:
        if failures:
            raise failures.pop()
        return Path(source)

    monkeypatch.setattr(inputs, "resolve", resolve)
    assert inputs.start_folder(group, replace(JOB, base="here")) == Path("here")


def test_a_worker_waits_for_its_checkpoints_and_their_files(store: Any, group: Group, tmp_path: Path) -> None:
    folder = f"{work_folder(A, 'before')}/checkpoint-4"
    (tmp_path / "latest").write_text("global_step4")
    files = checkpoints.upload(store, folder, tmp_path, ["latest"])
    checkpoints.commit(store, Checkpoint(folder, 4, 1.5, {"workers": 1}, files))
    store.met.clear()
    [checkpoint] = worker._complete(group, JOB)
    assert checkpoint.step == 4
    assert checkpoints.damaged(store, checkpoint, ["latest"], tmp_path / "node") == ""
    assert [operation for operation, _ in store.met] == ["list", "read", "fetch"]


def test_a_worker_waits_to_say_that_it_has_started_and_that_it_is_done(store: Any, group: Group) -> None:
    worker._mark_started(group, JOB)
    assert store.there.exists(f"{work_folder(A, 'attempt')}/{STARTED}")
    own = [path for path in sorted(model_dir("tiny-s").iterdir()) if path.suffix in (".json", ".safetensors")]
    final_weights.commit(group, A, own, {})
    assert fetch_model(store.there, A).is_dir()


def test_no_other_error_of_a_store_is_waited_for(store: Any, group: Group) -> None:
    with pytest.raises(StoreError, match="not found: training/none"):
        list(inputs.rows(group, "training/none.parquet"))
