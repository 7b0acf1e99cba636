"""A run and a study while the store is out of reach: they wait in any stage, and go on where they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rft_ray import pipeline
from rft_ray.config import Config
from rft_ray.runtime.actor_pool import ShardReceipt, StageError, _patient
from rft_ray.store import outages
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.shards import Shard
from rft_ray.study import run as study
from tests.unit.study.test_plan import planned

SHARD = Shard("verdicts", "5" * 16, "f" * 16, 1, 8, 16, 0)


class Reached(Exception):
    """The stage after the outage."""


class OutOfReach:
    """Fails twice, as while a server is away."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: object) -> ShardReceipt:
        self.calls += 1
        if self.calls <= 2:
            raise StoreUnreachable("S3 is out of reach")
        return ShardReceipt(SHARD.stem, 3)


def reach(*_: object) -> None:
    raise Reached


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.01)


def a_run(folder: Path, **engine: object) -> None:
    tree = {
        "engine": engine,
        "run": {"name": "mine", "store": str(folder)},
        "problems": {"train": {"source": "tiny:train:20"}, "test": {"source": "tiny:test:20"}, "per_block": 10},
        "models": [{"name": "a", "source": "tiny:tiny-s"}],
        "sampling": {"samples_per_problem": 4, "samples_per_block": 4},
        "prompt": {"kind": "template"},
    }
    pipeline.run(*pipeline.prepare(Config.model_validate(tree)))


def a_study(folder: Path) -> None:
    study.run(planned(), study.open_store(str(folder)), "study", lambda _: None)


@pytest.mark.parametrize(("command", "module"), [(a_run, pipeline), (a_study, study)])
def test_a_stage_that_cannot_reach_the_store_waits_and_goes_on(
    command: Callable[[Path], None], module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = OutOfReach()
    monkeypatch.setattr(study, "save", lambda *_: None)
    monkeypatch.setattr(pipeline.problems, "commit_problems", away)
    monkeypatch.setattr(module, "build_corpus", reach)
    with pytest.raises(Reached):
        command(tmp_path)
    assert away.calls == 2 + 2  # the problems to train on, and those of the test


def test_an_outage_neither_hides_the_end_of_a_stage_nor_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, away = list[str](), OutOfReach()

    def sample(*_: object, **__: object) -> None:
        ended.append("sample")
        raise StageError("sample: no engine")

    monkeypatch.setattr(pipeline, "fine_tune", lambda *_: 0)
    monkeypatch.setattr(pipeline, "sample", sample)
    monkeypatch.setattr(pipeline, "write_summary", lambda *_, **__: away())
    with pytest.raises(StageError, match="no engine"):
        a_run(tmp_path)
    assert (ended, away.calls) == (["sample"], 1)


def test_a_run_that_releases_shards_from_quarantine_does_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = OutOfReach()
    monkeypatch.setattr(pipeline.problems, "commit_problems", away)
    with pytest.raises(StoreUnreachable):
        a_run(tmp_path, retry_quarantined=True)
    assert away.calls == 1


def test_a_worker_tries_its_shard_again_and_its_start_too() -> None:
    start, shard = OutOfReach(), OutOfReach()

    def make() -> OutOfReach:
        start()
        return shard

    assert _patient(make, "verify")(SHARD) == ShardReceipt(SHARD.stem, 3)
    assert (start.calls, shard.calls) == (3, 3)
