"""GPU-hours, idle share, utilization and money of a stage, from what the workers and engines recorded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest

from rft_ray.config import load
from rft_ray.config.hardware import BY_NAME
from rft_ray.data.problems import prepare_sets
from rft_ray.evaluation.gpu_use import (
    Work,
    engine_work,
    gpu_use,
    in_groups,
    most_at_once,
    training_work,
    trainings,
    use_of,
)
from rft_ray.evaluation.summary_records import GpuUse, ProblemCounts, Summary, parse_summary, summary_json
from rft_ray.grading.spec import spec_of
from rft_ray.plan.run_plan import make_plan
from rft_ray.runtime.progress import StageTime
from rft_ray.store import commit_table, mark_run, open_store
from rft_ray.store.models.committed import commit_model
from rft_ray.store.shards import missing_shards
from rft_ray.training.results import TrainingRecord
from tests.unit.store.test_models import model_files

RECORD = TrainingRecord(
    examples=1000,
    skipped_too_long=0,
    steps=24,
    tokens=3_000_000,
    seconds=900.0,
    tokens_per_s=3333.3,
    final_loss=0.4,
    settings={"workers": 8},
    device="gpu",
    card="A100-80GB",
    parameters=7_000_000_000,
)
PEAK = 312e12


def shard(engine: str, ended: float, seconds: float, tokens: int, **environment: str) -> dict[str, str]:
    """Metadata of a shard of completions."""
    return {
        "engine": json.dumps({"incarnation": engine}),
        "ended_unix": str(ended),
        "seconds": str(seconds),
        "counts": json.dumps({"tokens": tokens}),
        "environment": json.dumps({"gpus": "2", "card": "H200", **environment}),
    }


def test_a_training_counts_six_flops_a_weight_and_token() -> None:
    work = training_work(RECORD)
    assert work is not None
    use = use_of("rft", 1000.0, [work], 2.5)
    assert use.gpus == 8
    assert use.gpu_hours == pytest.approx(8000 / 3600, abs=1e-4)
    assert use.idle == 0.1  # a hundred of a thousand seconds without optimizer steps
    assert use.mfu == pytest.approx(6 * 7e9 * 3e6 / (900 * 8 * PEAK), abs=1e-4)
    assert use.usd == pytest.approx(8000 / 3600 * 2.5, abs=0.01)


def test_a_training_on_cpus_uses_no_gpu() -> None:
    assert training_work(replace(RECORD, device="cpu")) is None


@pytest.mark.parametrize("unknown", [{"card": "Tesla V100"}, {"parameters": 0}])
def test_without_card_or_size_there_is_no_utilization(unknown: dict[str, object]) -> None:
    work = training_work(replace(RECORD, **unknown))  # type: ignore[arg-type]
    assert work is not None
    use = use_of("rft", 1000.0, [work], None)
    assert (use.mfu, use.usd, use.gpus) == (None, None, 8)


def test_trainings_one_after_another_hold_the_gpus_of_one() -> None:
    first = Work(0.0, 10.0, 8, 10.0)
    assert most_at_once([first, Work(10.0, 30.0, 8, 20.0)]) == 8
    assert most_at_once([first, Work(9.0, 30.0, 8, 20.0)]) == 16


def test_an_engines_time_is_the_union_of_its_shards() -> None:
    shards = [
        (10**9, shard("a", 110.0, 10.0, 500)),
        (10**9, shard("a", 115.0, 12.0, 700)),
        (10**9, shard("b", 200.0, 50.0, 900)),
    ]
    a, b = engine_work(shards)
    assert (a.started, a.ended, a.busy, a.gpus) == (100.0, 115.0, 15.0, 2)
    assert a.flops == 2 * 10**9 * 1200
    assert a.peak == BY_NAME["H200"].tflops * 1e12
    use = use_of("sample", 200.0, [a, b], None)
    assert use.gpus == 2  # the second engine starts after the first one has ended
    assert use.idle == pytest.approx(1 - (15 + 50) * 2 / (200 * 2))


def test_an_engine_with_a_model_of_unknown_size_has_no_utilization() -> None:
    [work] = engine_work([(10**9, shard("a", 110.0, 10.0, 500)), (0, shard("a", 120.0, 5.0, 500))])
    assert work.peak == 0.0
    assert use_of("sample", 20.0, [work], None).mfu is None


def test_the_trainings_of_a_stage_are_counted_one_after_another() -> None:
    works = in_groups([training_work(RECORD), None, training_work(RECORD)], 2000.0)
    use = use_of("rft", 2000.0, works, None)
    assert use.gpus == 8
    assert use.idle == 0.1


@pytest.mark.parametrize(("models", "seconds", "gpus"), [(2, 4200.0, 8), (3, 4200.0, 12), (3, 8000.0, 8), (2, 5.0, 4)])
def test_trainings_side_by_side_hold_the_gpus_of_all_their_groups(models: int, seconds: float, gpus: int) -> None:
    """Each trains for an hour on four workers; at last: two that the stage found done."""
    hour = training_work(replace(RECORD, seconds=3600.0, settings={"workers": 4}))
    use = use_of("rft", seconds, in_groups([hour] * models, seconds), None)
    assert use.gpus == gpus
    assert use.gpu_hours == pytest.approx(max(seconds * gpus, 4 * 3600 * models) / 3600, abs=1e-4)
    assert use.idle == pytest.approx(1 - 4 * models / use.gpu_hours, abs=1e-4)


def test_what_two_models_of_a_config_share_is_counted_once(tmp_path: Path) -> None:
    """One base under two names, of which another model samples for one: one evaluation of the base, one RFT model."""
    problems = "{train: {source: 'tiny:train:20'}, test: {source: 'tiny:test:20'}, per_block: 20}"
    models = "[{name: a, source: x}, {name: b, source: x, sample_from: y}]"
    settings = load(None, [f"--problems={problems}", f"--models={models}", "--sft=null", "--engine.device=gpu"])
    bases = {"a": "0" * 16, "b": "0" * 16, "b samples from": "1" * 16}
    plan = make_plan(settings, *prepare_sets(settings.problems, spec_of(settings)), bases)
    first, second = plan.rft
    assert first.fingerprint == second.fingerprint
    store = open_store(str(tmp_path / "run"))
    mark_run(store)
    (tmp_path / "files").mkdir()
    for name, content in model_files().items():
        (tmp_path / "files" / name).write_bytes(content)
    commit_model(store, first.fingerprint, tmp_path / "files", {"training": asdict(RECORD)})
    evaluations = [job.sampling for job in plan.evaluation_verdicts("base")]
    shards = missing_shards(store, [shard for job in evaluations for shard in job.shards()])
    assert (
        len(shards)
        == len({shard.stem for shard in shards})
        == len([*evaluations[0].shards(), *evaluations[1].shards()])
    )
    for shard_ in shards:
        commit_table(store, shard_.key(), pa.table({"row": [1]}), shard("e", 1000.0, 100.0, 10**6, card="A100-80GB"))
    rft, sample = gpu_use(store, plan, [StageTime("rft", 900.0), StageTime("sample", 100.0)])
    assert (rft.gpus, rft.gpu_hours) == (8, 2.0)
    assert sample.mfu == pytest.approx(2 * 7e9 * len(shards) * 10**6 / (100 * 2 * PEAK), abs=1e-4)


NOON = 1_790_000_000.0
HOUR = replace(RECORD, seconds=3500.0, settings={"workers": 4})


def at(began: float, hours: float = 1.0) -> TrainingRecord:
    return replace(HOUR, began_unix=NOON + 3600 * began, ended_unix=NOON + 3600 * (began + hours))


@pytest.mark.parametrize(
    ("records", "gpus"),
    [
        ([at(0), at(1)], 4),
        ([at(0), at(0.1), at(1)], 8),  # their seconds alone would fit one group of a stage that took 3 hours
        ([at(0), at(0.2), at(0.4)], 12),
        ([at(0), at(0.1), HOUR], 8),  # one of an earlier version: a lower bound
        ([HOUR, HOUR, HOUR], 4),
    ],
)
def test_trainings_with_a_time_of_day_hold_the_gpus_that_worked_at_once(
    records: list[TrainingRecord], gpus: int
) -> None:
    use = use_of("rft", 3 * 3600.0, trainings(records, 3 * 3600.0), None)
    assert (use.gpus, use.gpu_hours) == (gpus, 3 * gpus)


def test_a_summary_keeps_the_use_and_one_without_gpus_says_nothing_of_it() -> None:
    empty = Summary(
        run="r",
        fingerprint="f",
        problems=ProblemCounts(1, 1),
        models=(),
        ledger={},
        evaluation={},
        finished=True,
        stages=(),
        seconds=0.0,
    )
    assert b"gpu_use" not in summary_json(empty)
    used = replace(empty, gpu_use=(GpuUse(stage="rft", gpus=8, gpu_hours=2.2, idle=0.1, mfu=None, usd=5.5),))
    assert parse_summary(summary_json(used)) == used
