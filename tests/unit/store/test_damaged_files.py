"""Each kind of file of a run, damaged in several ways: no command ends with a traceback, each error is one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rft_ray import pipeline
from rft_ray.cli import pairs, report, store
from rft_ray.sampling import quarantine
from tests.report_run import make_run

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "a flipped bit": lambda data: (
        data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 0x80]) + data[len(data) // 3 + 1 :]
    ),
    "foreign": lambda data: b"\x89PNG\r\n\x1a\n\x00\x00",
    "another tree": lambda data: b"[1, 2]\n",
}
COMMANDS: dict[str, Callable[[str], int]] = {
    "store ls": lambda run: store.main(["ls", run]),
    "store verify --repair": lambda run: store.main(["verify", "--repair", run]),
    "store prune": lambda run: store.main(["prune", run]),
    "store prune --superseded": lambda run: store.main(["prune", "--superseded", run]),
    "report": lambda run: report.main(["--run", run]),
    "pairs": lambda run: pairs.main(["--run", run, "--out", f"{run}.jsonl"]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan, run = make_run(tmp_path_factory.mktemp("run"))
    stem = next(iter(plan.collected[0].sampling.shards())).stem
    quarantine.Record(stem, quarantine.FAILED, "it hangs").write(run)
    pipeline.save(plan, run)
    return Path(run.url)


def kinds(run: Path) -> dict[str, Path]:
    """Kind of file -> the first file of the run that is one."""
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and ".tmp" not in path.parts)
    by_kind: dict[str, Path] = {}
    for path in files:
        kind = (
            path.name
            if len(path.parts) == 1 or path.parts[0] == "models"
            else f"{path.parts[0]}*{''.join(path.suffixes[-2:])}"
        )
        by_kind.setdefault(kind, path)
    return by_kind


def test_the_run_has_files_of_every_kind(finished: Path) -> None:
    folders = {path.parts[0] for path in kinds(finished).values()}
    assert folders >= {
        "completions", "config.yaml", "corpus", "evaluation", "failures", "models", "paths", "plans", "present",
        "problems", "run.json", "summary.json", "verdicts",
    }  # fmt: skip


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=[pytest.mark.long] * (name != "a flipped bit")) for name in DAMAGE]
)
def test_no_damaged_file_ends_a_command_with_a_traceback(
    damage: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for kind, path in kinds(finished).items():
        run = tmp_path / "run"
        shutil.copytree(finished, run)
        (run / path).write_bytes(DAMAGE[damage]((run / path).read_bytes()))
        for name, command in COMMANDS.items():
            try:
                code = command(str(run))
            except BaseException as error:
                wrong.append(f"{name}, {kind}: {type(error).__name__}: {str(error)[:150]}")
                continue
            err = capsys.readouterr().err
            if code not in (0, 1, 2) or (code == 2 and len(err.splitlines()) != 1):
                wrong.append(f"{name}, {kind}: {code} {err[:300]!r}")
        shutil.rmtree(run)
    assert wrong == []
