"""The estimate of a run: what is left of it, and the time of the demo as measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rft_ray.config import Corpus, ProblemSet, load
from rft_ray.config.hardware import BY_NAME
from rft_ray.data.problems import prepare
from rft_ray.plan.cost import Left, describe, expected_paths, paths_guess, sampling_rate, training_rate, work_left
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.store import Store, commit_table, open_store
from rft_ray.store.shards import Shard
from tests.unit.plan.test_run_plan import BASES, TEST, TRAIN, config, planned

DEMO = Path(__file__).parents[3] / "jobs" / "configs" / "demo.yaml"
SIZES = {"a": 328_224, "b": 724_608}
NOTHING = Left(frozenset(), frozenset())


def all_of(plan: Plan) -> Left:
    return Left(
        frozenset(shard.stem for shard in plan.completion_shards()),
        frozenset(job.fingerprint for job in plan.trainings),
    )


def minutes(shown: str) -> float:
    match = re.search(r"left: about (\d+) (s|min)", shown)
    assert match
    return int(match[1]) / (60 if match[2] == "s" else 1)


def test_the_estimate_of_the_demo_is_near_the_measured_times() -> None:
    """14 to 21 minutes on two idle cores, 30 on two loaded ones."""
    demo = load(DEMO, [])
    train, test = (prepare(ProblemSet(source=source), 0, 50) for source in ("tiny:train:500", "tiny:test:1000"))
    plan = make_plan(demo, train, test, {model.name: model.name for model in demo.models})
    sizes = {"tiny-s": 328_224, "tiny-m": 328_224, "tiny-l": 724_608}
    assert 14 <= minutes(describe(plan, sizes, all_of(plan), gpu=False)) <= 25


def test_what_is_committed_takes_no_time() -> None:
    plan = planned()
    everything = all_of(plan)
    sampled = Left(frozenset(), everything.models)
    times = [minutes(describe(plan, SIZES, left, gpu=False)) for left in (everything, sampled, NOTHING)]
    assert times == sorted(set(times), reverse=True)
    assert describe(plan, SIZES, NOTHING, gpu=True).splitlines()[-1].startswith("left: about 0 s on 1 GPUs to sample")


def test_missing_shards_and_models_are_in_the_table() -> None:
    plan = planned()
    job = plan.collected[0].sampling
    first = next(job.shards())
    left = Left(frozenset({first.stem}), frozenset({plan.sft[0].fingerprint}))
    assert left.samples(job) == (first.problem_stop - first.problem_start) * job.settings.samples_per_block
    shown = describe(plan, SIZES, left, gpu=False)
    assert re.search(r"a +sample \(sft, collect\) +1 +1 ", shown)
    assert re.search(r"b +sample \(sft, collect\) +1 +0 .* 0 s", shown)
    assert re.search(r"a +train sft +1 +1 ", shown)
    assert re.search(r"a +train rft +1 +0 .* 0 s", shown)


def test_what_is_left_is_what_the_store_lacks(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    shards = list(planned().completion_shards())
    commit(store, shards[0])
    left = work_left(store, shards, ["5" * 16])
    assert left == Left(frozenset(shard.stem for shard in shards[1:]), frozenset({"5" * 16}))


def commit(store: Store, shard: Shard) -> None:
    import pyarrow as pa

    commit_table(store, shard.key(), pa.table({"sample": [1]}), {})


@pytest.mark.parametrize(("k", "samplers", "low", "high"), [(32, 3, 4.0, 6.0), (100, 4, 8.0, 13.0), (1, 1, 0.5, 1.0)])
def test_the_guess_of_distinct_paths_is_near_the_known_ones(k: int, samplers: int, low: float, high: float) -> None:
    """The demo's union has 4.1 a problem, and the paper's of four models at k=100 12.8."""
    assert low <= paths_guess(k, samplers) <= high


def test_the_settings_of_the_corpus_bound_its_paths() -> None:
    assert expected_paths(Corpus(), 100, 3, every=False) == paths_guess(100, 3)
    assert expected_paths(Corpus(), 100, 3, every=True) == pytest.approx(120)
    assert expected_paths(Corpus(max_paths_per_problem=2), 100, 3, every=True) == 2

    def examples(*settings: str) -> int:
        plan = planned("--sampling.samples_per_problem=40", *settings)
        found = re.search(r"a +train rft +1 +1 +([\d,]+)", describe(plan, SIZES, all_of(plan), gpu=False))
        assert found
        return int(found[1].replace(",", ""))

    assert examples("--corpus.max_paths_per_problem=1") < examples() < examples("--corpus.dedup=none")


PAPER_HOURS = {
    "7B": (6.7e9, 0.6, 10, 9),
    "13B": (13.0e9, 4, 100, 62),
    "33B": (32.5e9, 40, 100, 600),
    "65B": (65.2e9, 74, 4300, 1000),
    "70B": (69.0e9, 80, 4500, 1200),
}
"""Weights, and A100-80GB hours of SFT, of 7,473 x 100 samples, and of RFT on U33B (arXiv 2308.01825, appendix)."""
PROMPT, RESPONSE = 100, 125
"""Tokens of GSM8K in the paper's prompt, about."""


def estimated_hours(weights: float) -> tuple[float, float, float]:
    sft = 3 * 7473 * (PROMPT + RESPONSE) / training_rate(6 * weights, 1) / 3600
    samples = 7473 * 100 * RESPONSE / sampling_rate(2 * weights, 1) / 3600
    return sft, samples, sft * 110_000 / 7473


def test_the_cost_of_7b_is_the_papers() -> None:
    weights, *hours = PAPER_HOURS["7B"]
    assert estimated_hours(weights) == pytest.approx(hours, rel=0.2)


@pytest.mark.parametrize("model", ["13B", "33B", "65B", "70B"])
def test_larger_models_are_estimated_below_the_papers_hours(model: str) -> None:
    """The paper's hours grow faster than the arithmetic: 13B took 7 to 10 times as long as 7B for twice as much."""
    weights, *hours = PAPER_HOURS[model]
    ratios = [spent / estimate for spent, estimate in zip(hours, estimated_hours(weights), strict=True)]
    assert min(ratios) > 2
    assert max(ratios[0], ratios[2]) < 16  # training
    assert ratios[1] < (8 if model in ("13B", "33B") else 60)  # sampling


def test_a_faster_card_takes_less_time() -> None:
    h100 = BY_NAME["H100-80GB"]
    for rate in (training_rate, sampling_rate):
        assert rate(1e12, 1, h100) / rate(1e12, 1) == pytest.approx(h100.tflops / 312)


def test_an_estimate_for_gpus_has_hours_and_money() -> None:
    plan = planned("--cost.usd_per_gpu_hour=2", "--hardware.gpu=L4", "--engine.max_actors=4")
    sizes = {"a": 7 * 10**9, "b": 7 * 10**9}
    shown = describe(plan, sizes, all_of(plan), gpu=True)
    found = re.search(r"about ([\d.]+) GPU-hours of L4, ([\d.]+) US dollars by cost.usd_per_gpu_hour", shown)
    assert found
    assert float(found[2]) == pytest.approx(2 * float(found[1]), abs=0.11)
    assert "GPU-hours" not in describe(plan, sizes, all_of(plan), gpu=False)


def test_samples_are_estimated_with_the_model_that_draws_them() -> None:
    name = "a samples from"
    plan = make_plan(config("--models.0.sample_from=hub:own/large"), TRAIN, TEST, {**BASES, name: "c0ffee"})
    large, small = (
        describe(plan, {**SIZES, name: size}, all_of(plan), gpu=True).splitlines() for size in (7 * 10**10, 10**5)
    )
    changed = [line for line, other in zip(large, small, strict=True) if line != other]
    assert [line.split()[0] for line in changed] == ["a", "left:"]
    assert "collect" in changed[0]


def test_engines_of_another_card_sample_at_its_speed() -> None:
    fast, slow = (planned("--hardware.gpu=A100-80GB", *other) for other in ([], ["--engine.accelerator_type=L4"]))
    sizes = {"a": 7 * 10**9, "b": 7 * 10**9}
    lines = [describe(plan, sizes, all_of(plan), gpu=True).splitlines() for plan in (fast, slow)]
    differ = [line for line, other in zip(*lines, strict=True) if line != other]
    assert all("sample" in line or "GPU" in line for line in differ)
    assert sum("sample (" in line for line in differ) > 2
    assert "GPU-hours of A100-80GB and L4" in "\n".join(lines[1])


def test_a_stage_on_cpus_is_estimated_for_cpus() -> None:
    sizes = {"a": 7 * 10**9, "b": 7 * 10**9}
    shown = {}
    for device in ("gpu", "cpu"):
        plan = planned("--engine.device=gpu", f"--training.device={device}")
        shown[device] = describe(plan, sizes, all_of(plan), gpu=True)
    assert "on 1 GPUs to sample and two CPU cores to train" in shown["cpu"]
    lines = zip(*(text.splitlines() for text in shown.values()), strict=True)
    assert {line.split()[1] for line, other in lines if line != other} >= {"train"}
