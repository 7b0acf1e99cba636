"""A run or study of which every file is committed has nothing left to do, whatever its data is refused for by now."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest

from rft_ray import pipeline
from rft_ray.cli import run, study
from rft_ray.config import load
from rft_ray.config.loading import saved_config
from rft_ray.evaluation.summary import CONFIG, SUMMARY, read_summary, write_summary
from rft_ray.evaluation.summary_records import ProblemCounts, Summary, summary_json
from rft_ray.plan.run_plan import Plan, verdicts_of
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, StoreError, commit_table
from rft_ray.store.models.committed import commit_model
from rft_ray.study import run as study_run
from tests.unit.cli.test_mistakes import problem_file
from tests.unit.store.test_models import model_files


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """A config whose test set is its training set."""
    source = problem_file(tmp_path / "train.jsonl", "train")
    return [
        f"--problems.train.source={source}",
        f"--problems.test.source={source}",
        f"--run.store={tmp_path}/runs",
        "--problems.per_block=10",
        "--sampling={samples_per_problem: 4, samples_per_block: 4}",
        "--models=[{name: a, source: 'tiny:tiny-xs'}]",
    ]


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    (tmp_path / "own.yaml").write_text("{}")
    return str(tmp_path / "own.yaml")


def commit(store: Store, key: str) -> None:
    commit_table(store, key, pa.table({"row": [1]}), {})


def finish(plan: Plan, store: Store, folder: Path) -> None:
    """Commit a file under every key that the plan needs, and a summary that says finished."""
    folder.mkdir()
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    for training in plan.trainings:
        commit_model(store, training.fingerprint, folder, {})
    verdicts = [*plan.collected, *verdicts_of(plan.evaluations)]
    shards = [*plan.completion_shards(), *(shard for job in (*verdicts, *plan.path_jobs) for shard in job.shards())]
    corpora = [key for job in plan.corpora for key in (job.key, job.jsonl_key)]
    for key in (plan.gold.key, *corpora, *(job.key for job in plan.evaluations), *(shard.key() for shard in shards)):
        commit(store, key)
    summary = Summary(
        run="rft",
        fingerprint=plan.fingerprint,
        problems=ProblemCounts(plan.train.count, plan.test.count),
        models=(),
        ledger={},
        evaluation={},
        finished=True,
        stages=(),
        seconds=0.0,
    )
    store.replace(SUMMARY, summary_json(summary))


def test_a_finished_run_is_not_refused_and_has_no_time_left(
    settings: list[str], config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([config_file, *settings, "--dry-run"]) == 2
    plan, store = pipeline.prepare(load(None, settings))
    assert not pipeline.finished(plan, store)
    finish(plan, store, tmp_path / "model")
    assert pipeline.finished(plan, store)
    capsys.readouterr()
    assert run.main([config_file, *settings, "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert pipeline.NOTHING_TO_DO in shown
    assert "left: about 0 s on two CPU cores, 0 s of it start-up" in shown
    assert not [line for line in shown if line.startswith(("note:", "warning:"))]
    assert callable(run.prepare(*run.arguments([config_file, *settings], "rft-ray run")))


def test_a_finished_run_says_so_without_starting_ray(
    settings: list[str],
    config_file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish(*pipeline.prepare(load(None, settings)), tmp_path / "model")
    monkeypatch.setattr(run, "start", lambda store: pytest.fail("Ray was started"))
    assert run.main([config_file, *settings]) == 0
    assert pipeline.NOTHING_TO_DO in capsys.readouterr().out.splitlines()


def test_the_config_of_a_finished_run_stays_until_another_plan_has_a_summary(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report, pairs, export and service read both, and other settings may be stopped midway."""

    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    plan, store = pipeline.prepare(load(None, settings))
    finish(plan, store, tmp_path / "model")
    other, _ = pipeline.prepare(load(None, [*settings, "--run.seed=1", "--grading.mode=paper"]))
    monkeypatch.setattr(pipeline, "fine_tune", stop)
    store.replace(CONFIG, other.config.to_yaml().encode())  # as an earlier version left it
    assert pipeline.run(plan, store).fingerprint == plan.fingerprint
    assert saved_config(store.read(CONFIG), CONFIG) == plan.config
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(other, store)
    assert saved_config(store.read(CONFIG), CONFIG) == plan.config
    write_summary(store, other, Stopwatch(), finished=False)
    assert saved_config(store.read(CONFIG), CONFIG) == other.config


def test_the_time_of_a_stage_that_fails_is_in_the_summary(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        time.sleep(0.05)
        raise StoreError("out of order")

    plan, store = pipeline.prepare(load(None, settings))
    finish(plan, store, tmp_path / "model")
    path = store.local_path(plan.evaluations[0].key)
    assert path is not None
    path.unlink()
    monkeypatch.setattr(pipeline.problems, "commit_problems", fail)
    for times in (1, 2):
        with pytest.raises(StoreError, match="out of order"):
            pipeline.run(plan, store)
        summary = read_summary(store)
        assert summary
        assert [stage.name for stage in summary.stages] == ["problems"]
        assert summary.seconds == summary.stages[0].seconds >= times * 0.05


def test_a_run_that_lacks_a_file_is_not_finished(settings: list[str], config_file: str, tmp_path: Path) -> None:
    plan, store = pipeline.prepare(load(None, settings))
    finish(plan, store, tmp_path / "model")
    path = store.local_path(plan.evaluations[0].key)
    assert path is not None
    path.unlink()
    assert not pipeline.finished(plan, store)
    assert run.main([config_file, *settings, "--dry-run"]) == 2


def test_a_finished_study_is_not_refused(
    settings: list[str], config_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*settings, "--study={k: [4], halvings: 1, questions: [1]}"]
    assert study.main([config_file, *settings, "--dry-run"]) == 2
    plan, store = study_run.prepare(load(None, settings))
    for point in plan.points:
        commit(store, point.evaluation.key)
    assert study.main([config_file, *settings, "--dry-run"]) == 0
    assert study_run.NOTHING_TO_DO in capsys.readouterr().out.splitlines()
