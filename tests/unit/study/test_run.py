"""The progress lines of a long study, the estimate of its time, and the time that it took."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.plan.cost import Left
from rft_ray.store import StoreError, open_store
from rft_ray.study import run
from rft_ray.study.cost import describe, sampling_jobs, training_seconds
from rft_ray.study.plan import PlannedPoint
from rft_ray.study.result import read_study, write_study
from rft_ray.study.run import Ticker
from rft_ray.training.results import TrainingProgress
from tests.study_result import STUDY
from tests.unit.study.test_plan import planned


def at(point: PlannedPoint, step: int) -> TrainingProgress:
    return TrainingProgress(point.spec.name, point.spec.stage, step, 10, 0.5, 1000.0, 3.0)


def test_progress_names_the_point_its_number_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned()
    points = plan.of(late=True)
    ticker = Ticker(plan, points)
    for point, step in ((points[0], 5), (points[0], 10), (points[3], 2), (points[-1], 10)):
        ticker(at(point, step))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"  1/{len(points)} {points[0].spec.name}: step 5/10")
    assert "all:" not in first  # no pace yet
    assert last.startswith(f"  {len(points)}/{len(points)} {points[-1].spec.name}: step 10/10")
    assert re.search(r"; all: 0 s left$", last)


def test_more_paths_and_more_data_are_expected_to_take_longer() -> None:
    plan = planned("--study.headline=[a]")
    seconds = {point.spec.name: training_seconds(plan, point, gpu=False) for point in plan.points}
    assert seconds["a sft 1/4 #0"] < seconds["a sft 1/2 #0"] < seconds["a sft #0"] == seconds["a sft 1/4 same steps #0"]
    assert seconds["a rft a k=1 #0"] < seconds["a rft a k=12 #0"] < seconds["a rft a+b+c k=12 #0"]
    assert seconds["a sft same steps as rft #0"] == seconds["a rft a+b+c k=12 #0"]


def test_the_estimate_counts_every_training_and_what_is_missing() -> None:
    plan = planned()
    early, late = plan.of(late=False), plan.of(late=True)
    shards = frozenset(shard.stem for job in sampling_jobs(plan) for shard in job.shards())
    untrained = frozenset(point.training.fingerprint for point in [*early[2:], *late])
    shown = describe(plan, gpu=False, left=Left(shards, untrained))
    assert re.search(rf"train sft +{len(early)} +{len(early) - 2} ", shown)
    assert f"{len(plan.points)} points, {len(early) + len(late)} trainings and evaluations; left: about" in shown


def test_of_a_finished_study_no_time_is_left() -> None:
    shown = describe(planned(), gpu=False, left=Left(frozenset(), frozenset()))
    assert shown.splitlines()[-1].endswith("left: about 0 s on two CPU cores")


def test_the_time_of_a_stage_that_fails_is_in_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        time.sleep(0.05)
        raise StoreError("out of order")

    plan, store = planned(), open_store(str(tmp_path))
    write_study(store, replace(STUDY, fingerprint=plan.fingerprint, stages=()))
    monkeypatch.setattr(run, "save", lambda *_: None)
    monkeypatch.setattr(run.problems, "commit_problems", fail)
    for times in (1, 2):
        with pytest.raises(StoreError, match="out of order"):
            run.run(plan, store, "study", lambda _: None)
        [stage] = read_study(store).stages
        assert stage.name == "problems"
        assert stage.seconds >= times * 0.05
