"""Commands that read a run take it by its name, or the newest one and say so; none changes a run that is not named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rft_ray.cli.main import main
from rft_ray.cli.named_run import newest_run
from rft_ray.config.errors import InputError
from rft_ray.store import mark_run, open_store

COMMANDS = (["report"], ["pairs", "--out=pairs.jsonl"], ["export", "--to=model"], ["store", "ls"], ["store", "prune"])


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs: the older one finished, the newer one did not."""
    monkeypatch.chdir(tmp_path)
    for age, name, finished in ((60, "old", "true"), (0, "new", "false")):
        mark_run(store := open_store(str(tmp_path / "runs" / name)))
        store.replace("summary.json", b'{"finished": %s}' % finished.encode())
        for path in (tmp_path / "runs" / name).iterdir():
            os.utime(path, (path.stat().st_mtime - age,) * 2)
    return tmp_path / "runs"


def test_the_newest_run_is_the_one_whose_files_were_written_last(runs: Path) -> None:
    assert newest_run("summary.json") == "runs/new"
    assert newest_run("summary.json", finished=True) == "runs/old"
    (runs / "new" / "summary.json").unlink()
    assert newest_run("summary.json", "study.json") == "runs/old"
    (runs / "old" / "summary.json").unlink()
    with pytest.raises(InputError, match=r"no run with summary.json in runs/: give RUN"):
        newest_run("summary.json")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_run_the_newest_is_read_and_named(
    command: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command)
    newest = "runs/old" if command[0] == "export" else "runs/new"
    assert capsys.readouterr().err.startswith(f"run: {newest}, the newest in runs/")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_run_is_named_in_both_ways_and_errors_are_alike(
    command: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for named in (["elsewhere"], ["--run", "elsewhere"], ["--run=elsewhere", "elsewhere"]):
        assert main([*command, *named]) == 2
        assert capsys.readouterr().err.startswith(f"error: {runs.parent}/elsewhere is not a run")
    with pytest.raises(SystemExit, match="2"):
        main([*command, "a", "--run=b"])
    assert "give one run (given: 'a' and 'b')" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_where_no_run_is_the_error_says_what_to_give(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is no ")
    assert line.endswith("in runs/: give RUN, the folder or s3:// address of one")


@pytest.mark.parametrize("command", [["prune", "--yes"], ["verify", "--repair", "--yes"]], ids=" ".join)
def test_what_changes_a_run_needs_its_name(command: list[str], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["store", *command])
    assert "--yes changes the run: give RUN" in capsys.readouterr().err
