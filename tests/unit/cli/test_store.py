"""`rft-ray store`: a folder that is no run is refused, a repair asks first, and a wrong void can be taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.cli import pairs, report, study
from rft_ray.cli import run as run_job
from rft_ray.cli.store import main
from rft_ray.store import names, open_store
from rft_ray.store.marker import KEY
from rft_ray.store.run_lock import FOLDER
from tests.chaos.small_run import CORPUS, JOBS, outcome, run
from tests.report_run import make_run

STEM = next(JOBS[0].sampling.shards()).stem


def tombstones(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if names.TOMBSTONE in path.name]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished run, `runs/demo`."""
    folder = tmp_path / "runs" / "demo"
    run(str(folder))
    return folder


@pytest.mark.parametrize("marked", [True, False])
def test_repairing_the_parent_of_a_run_voids_nothing_and_names_the_run(
    demo: Path, capsys: pytest.CaptureFixture[str], marked: bool
) -> None:
    if not marked:
        (demo / KEY).unlink()
    for options in (["--repair"], ["--repair", "--yes"], ["--repair", "--yes", "--no-job-runs"]):
        assert main(["verify", *options, str(demo.parent)]) == 2
        assert f"contains the run {demo}: give that path" in capsys.readouterr().err
    assert not tombstones(demo)
    assert main(["verify", str(demo)]) == 0


@pytest.mark.parametrize("command", ["ls", "du", "verify", "prune"])
def test_every_command_refuses_a_folder_that_is_no_run(
    demo: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for folder in (demo.parent, demo / "completions", demo.parent.parent / "typo"):
        assert main([command, str(folder)]) == 2
        assert "is not a run" in capsys.readouterr().err
    assert main([command, str(demo)]) == 0


def test_report_pairs_and_the_studys_page_refuse_a_folder_that_is_no_run(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, page = str(demo.parent), str(tmp_path / "page")
    assert report.main(["--run", parent]) == 2
    assert pairs.main(["--run", parent, "--out", page]) == 2
    assert study.main(["study", f"--run.store={tmp_path}", "--run.name=runs", "--markdown", page]) == 2
    assert capsys.readouterr().err.count(f"error: {parent} is not a run: it has no run.json; it contains the run ") == 3
    assert not Path(page).exists()
    assert not list(demo.parent.glob("*.html"))


def test_a_job_makes_no_run_around_another(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"--run.store={demo.parents[1]}", "--run.name=runs", "--limit=20"]
    assert run_job.main(["demo", *settings]) == 2
    assert f"cannot become a run: it contains the run {demo}" in capsys.readouterr().err
    assert not (demo.parent / KEY).exists()


def corrupt(demo: Path) -> Path:
    path = demo / f"{STEM}.g0.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    return path


def test_a_repair_lists_what_it_would_void_and_waits_for_yes(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt(demo)
    files = set(demo.rglob("*"))
    assert main(["verify", "--repair", str(demo)]) == 1
    shown = capsys.readouterr().out
    assert f"corrupt shard {STEM}" in shown
    assert f"stale file {CORPUS.key}" in shown
    assert "4 of these would be void: add --yes" in shown
    assert set(demo.rglob("*")) == files
    assert main(["verify", "--repair", "--yes", str(demo)]) == 0
    assert len(tombstones(demo)) == 4


@pytest.mark.parametrize("option", ["--yes", "--undo", "--no-job-runs"])
def test_options_of_a_repair_need_it(demo: Path, option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["verify", option, str(demo)])


def void(demo: Path) -> None:
    """Write a tombstone for every table that counts, as a repair of its parent folder used to."""
    store = open_store(str(demo))
    keys = list(store.list())
    for key in names.committed_files(keys).values():
        if key.endswith(".parquet"):
            store.create(names.tombstone(key, keys), b"{}")


def counting(demo: Path) -> dict[str, object]:
    """Key -> rows, or bytes, of every file of a stage that counts."""
    files = outcome(str(demo)).files
    return {key: rows for key, rows in files.items() if rows is not None and not key.startswith(FOLDER)}


def test_voids_of_intact_files_are_taken_back(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = counting(demo)
    for _ in range(3):
        void(demo)
        assert counting(demo) == {}
        before = {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()}
        assert main(["verify", "--repair", "--undo", str(demo)]) == 0
        assert "20 void files can count again: add --yes" in capsys.readouterr().out
        assert main(["verify", "--repair", "--undo", "--yes", str(demo)]) == 0
        assert all(path.read_bytes() == data for path, data in before.items())
        assert main(["verify", str(demo)]) == 0
        run(str(demo))
        assert counting(demo) == whole


def test_a_corrupt_file_and_what_was_made_from_it_stay_void(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt(demo)
    assert main(["verify", "--repair", "--yes", str(demo)]) == 0
    assert main(["verify", "--repair", "--undo", "--yes", str(demo)]) == 0
    assert "0 void files can count again" in capsys.readouterr().out
    run(str(demo))
    assert main(["verify", str(demo)]) == 0


def test_a_file_that_was_made_again_stays_void(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(demo))
    store.create(names.tombstone(CORPUS.key), b"{}")
    run(str(demo))
    assert main(["verify", "--repair", "--undo", "--yes", str(demo)]) == 0
    assert "0 void files can count again" in capsys.readouterr().out


def test_a_void_model_counts_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = make_run(tmp_path)
    key = f"models/{plan.sft[0].fingerprint}/manifest.json"
    store.create(names.tombstone(key), b"{}")
    assert main(["verify", "--repair", "--undo", "--yes", store.url]) == 0
    assert f"void but intact: {key}\n1 count again" in capsys.readouterr().out
    assert main(["verify", "--repair", "--undo", store.url]) == 0
    assert "0 void files" in capsys.readouterr().out
