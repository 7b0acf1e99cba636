"""Runs: one process makes the marker, a folder without one is refused with the nearest run, old runs are recognised."""

from __future__ import annotations

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rft_ray.store import NotARun, StoreError, mark_run, open_run, open_store, outages
from rft_ray.store.marker import FORMAT, KEY, RunMarker
from tests.chaos.small_run import JOBS, run, sampler


def test_of_several_writers_one_makes_the_marker_and_all_return_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def mark(_: int) -> RunMarker:
        barrier.wait()
        return mark_run(open_store(str(tmp_path / "run")))

    with ThreadPoolExecutor(8) as pool:
        markers = set(pool.map(mark, range(8)))
    assert [marker.format for marker in markers] == [FORMAT]
    assert markers == {mark_run(open_run(str(tmp_path / "run")))}


def test_the_marker_is_the_first_file_of_a_run(tmp_path: Path) -> None:
    ids = {mark_run(open_store(str(tmp_path / name))).id for name in ("a", "b", "a/../c")}
    assert len(ids) == 3
    assert list(open_store(str(tmp_path / "a")).list()) == [KEY]


@pytest.mark.parametrize("place", ["", "runs", "runs/demo/completions", "runs/demo/completions/x/y"])
def test_a_folder_near_a_run_is_refused_with_the_path_of_the_run(tmp_path: Path, place: str) -> None:
    demo = tmp_path / "runs" / "demo"
    mark_run(open_store(str(demo)))
    with pytest.raises(NotARun, match=rf"the run {demo}: give that path"):
        open_run(str(tmp_path / place))
    with pytest.raises(NotARun, match=rf"the run {demo}: choose another folder"):
        mark_run(open_store(str(tmp_path / place)))
    assert mark_run(open_store(str(tmp_path / "runs" / "second")))


def test_several_runs_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        mark_run(open_store(str(tmp_path / name)))
    with pytest.raises(NotARun, match=f"contains the runs {tmp_path}/a, {tmp_path}/b"):
        open_run(str(tmp_path))


def test_a_missing_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NotARun, match="typo is not a run: there is no such folder"):
        open_run(str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_a_run_from_before_markers_is_read_and_gets_a_marker_from_its_next_job(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(str(folder))
    (folder / KEY).unlink()
    old = open_run(str(folder))
    assert not old.exists(KEY)
    with pytest.raises(NotARun, match=f"the run {folder}: give"):
        open_run(str(tmp_path))
    files = set(old.list())
    run(str(folder))
    assert set(old.list()) - files == {KEY}


@pytest.mark.parametrize("names", [[], ["config.yaml"], ["config.yaml", "models/llama"], ["completions/notes.parquet"]])
def test_foreign_folders_are_not_taken_for_old_runs(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(NotARun):
        open_run(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", "5", '{"id": "x"}', '{"id": 1, "format": [], "created_unix": 0}'])
def test_a_damaged_marker_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY).write_text(content)
    with pytest.raises(StoreError, match=rf"damaged file {KEY} in {tmp_path}"):
        open_run(str(tmp_path))


def test_a_run_of_a_newer_version_is_refused_and_further_fields_are_not(tmp_path: Path) -> None:
    marker = {"id": "x", "format": FORMAT, "created_unix": 0, "later": "field"}
    (tmp_path / KEY).write_text(json.dumps(marker))
    assert mark_run(open_store(str(tmp_path))).id == "x"
    (tmp_path / KEY).write_text(json.dumps(marker | {"format": FORMAT + 1}))
    with pytest.raises(StoreError, match="newer version"):
        open_run(str(tmp_path))


@pytest.mark.parametrize("left", [True, False])
def test_a_worker_whose_mount_goes_away_commits_nothing(
    tmp_path: Path, left: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a worker of a stage: it opened the run, and ends with an error when it has waited for the mount to return."""
    for name, seconds in {"OUTAGE_S": 0.1, "OUTAGE_WAIT_S": 0.01}.items():
        monkeypatch.setattr(outages, name, seconds)
    folder = tmp_path / "mount" / "run"
    run(str(folder))
    store = pickle.loads(pickle.dumps(open_run(str(folder))))  # as Ray hands it to a worker
    worker = sampler(store, JOBS[0].sampling)
    (tmp_path / "mount").rename(tmp_path / "elsewhere")
    if left:
        (tmp_path / "mount").mkdir()
    with pytest.raises(RuntimeError, match=f"the run {folder} went away"):
        worker(next(iter(JOBS[0].sampling.shards())))
    assert "is tried again" in caplog.text
    assert not folder.exists()
