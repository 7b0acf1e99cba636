"""The search for fast engine settings: what is tried, what wins, and what is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from rft_ray.config import ConfigError, Engine
from rft_ray.sampling import tuning
from rft_ray.sampling.tuning import Axis, Failed, Measured, Outcome, OutOfTime, Search

OWN = Engine(max_num_seqs=256)


def measured(rate: float, preemptions: int = 0) -> Measured:
    return Measured(
        tokens=int(rate * 10), seconds=10, start_s=30, preemptions=preemptions, kv_cache=0.5, running=9, memory_gib=2
    )


def search(
    speed: Callable[[Engine], float | Outcome], axes: list[Axis], left: float = 1e9, own: Engine = OWN
) -> Search:
    """A finished search among engines of these speeds."""

    def measure(engine: Engine, limit: float) -> Outcome:
        outcome = speed(engine)
        return outcome if isinstance(outcome, Measured | Failed) else measured(outcome)

    found = Search(own, measure, lambda: left)
    found.run(axes)
    return found


def tried(found: Search) -> list[Mapping[str, Any]]:
    return [tuning.changes(trial.engine, found.own) for trial in found.trials]


SIZES = Axis("max_num_seqs", (64, 128, 256, 512, 1024, 2048), ordered=True)


def test_sizes_are_tried_upwards_until_one_is_no_faster() -> None:
    rates = {256: 100, 512: 150, 1024: 140, 2048: 900}
    found = search(lambda engine: rates[engine.max_num_seqs], [SIZES], left=0)
    assert tried(found) == [{}, {"max_num_seqs": 512}, {"max_num_seqs": 1024}]
    assert found.winner == Engine(max_num_seqs=512)


def test_sizes_are_tried_downwards_where_more_is_slower() -> None:
    rates = {64: 150, 128: 160, 256: 100, 512: 90}
    found = search(lambda engine: rates[engine.max_num_seqs], [SIZES], left=0)
    assert tried(found) == [{}, {"max_num_seqs": 512}, {"max_num_seqs": 128}, {"max_num_seqs": 64}]
    assert found.winner == Engine(max_num_seqs=128)


def test_settings_that_do_not_fit_are_passed_over_and_the_search_goes_on() -> None:
    def speed(engine: Engine) -> float | Outcome:
        return Failed("OutOfMemoryError: CUDA out of memory.") if engine.max_num_seqs >= 256 else 70

    found = search(speed, [SIZES], left=0)
    assert tried(found) == [{}, {"max_num_seqs": 512}, {"max_num_seqs": 128}, {"max_num_seqs": 64}]
    assert found.winner == Engine(max_num_seqs=128)
    assert "no: OutOfMemoryError: CUDA out of memory." in tuning.table(found)
    assert "the config's own do not fit" in tuning.advice(found)


def test_a_later_setting_is_varied_from_the_fastest_so_far() -> None:
    def speed(engine: Engine) -> float:
        return engine.max_num_seqs + (50 if engine.max_num_batched_tokens == 8192 else 0)

    axes = [Axis("max_num_seqs", (512,), ordered=True), Axis("max_num_batched_tokens", (128, 4096, 8192))]
    found = search(speed, axes, left=0)
    assert found.winner == Engine(max_num_seqs=512, max_num_batched_tokens=8192)
    assert {"max_num_seqs": 512, "max_num_batched_tokens": 128} not in tried(found)  # vLLM would refuse it
    assert yaml.safe_load(tuning.advice(found)) == {"engine": {"max_num_seqs": 512, "max_num_batched_tokens": 8192}}


def test_a_gain_within_the_noise_is_none() -> None:
    found = search(lambda engine: 101 if engine.max_num_seqs == 512 else 100, [SIZES], left=0)
    assert found.winner == OWN
    assert tuning.advice(found).startswith("the config's own settings are the fastest that fit: 100 tokens/s")


def test_settings_that_change_samples_never_win_but_are_named() -> None:
    own = Engine(max_num_seqs=256)
    found = search(lambda e: 300 if e.kv_cache_dtype == "fp8" else 100, [Axis("kv_cache_dtype", ("fp8",))], own=own)
    assert found.winner == own
    assert "kv_cache_dtype=fp8 makes 3.00 times that, and other samples under other names" in tuning.advice(found)
    assert "kv_cache_dtype=fp8 (changes samples)" in tuning.table(found)


def test_the_winner_and_the_own_settings_are_measured_again_where_there_is_time() -> None:
    lucky = iter([150.0, 100.0])

    def speed(engine: Engine) -> float:
        return next(lucky) if engine.max_num_seqs == 512 else 130

    found = search(speed, [Axis("max_num_seqs", (512,), ordered=True)])
    assert [trial.engine.max_num_seqs for trial in found.trials] == [256, 512, 512, 256]
    assert found.winner == OWN, "512 was only lucky: its mean is 125"
    assert "125 (mean of 2)" in tuning.table(found)


def test_a_trial_may_sample_half_as_long_again_as_the_fastest() -> None:
    limits = []

    def measure(engine: Engine, limit: float) -> Outcome:
        limits.append(limit)
        return measured(100)

    Search(OWN, measure, lambda: 0).run([SIZES])
    assert limits == [float("inf"), 15, 15]


def test_what_was_measured_before_the_time_was_over_counts() -> None:
    def measure(engine: Engine, limit: float) -> Outcome:
        if engine.max_num_seqs == 1024:
            raise OutOfTime
        return measured(engine.max_num_seqs)

    found = Search(OWN, measure, lambda: 0)
    found.run([SIZES])
    assert found.winner == Engine(max_num_seqs=512)


def test_what_only_chance_made_second_is_measured_again_and_may_win() -> None:
    """The first measurement of 4,096 was lucky: its mean is below what 8,192 made, which is then measured again too."""
    rates = {None: [100, 102], 4096: [210, 130], 8192: [200, 190], 16384: [150]}
    batched = Axis("max_num_batched_tokens", (4096, 8192, 16384))
    found = search(lambda engine: rates[engine.max_num_batched_tokens].pop(0), [batched])
    assert tried(found)[4:] == [{"max_num_batched_tokens": 4096}, {}, {"max_num_batched_tokens": 8192}]
    assert found.winner == Engine(max_num_seqs=256, max_num_batched_tokens=8192)
    first = [cell.strip() for cell in tuning.table(found).splitlines()[2].split("|")]
    assert first[1:3] == ["max_num_batched_tokens=8192", "195 (mean of 2)"]


@pytest.mark.parametrize(("again", "said"), [(95, False), (50, True)])
def test_speeds_that_other_work_may_have_decided_are_said_to_be_so(again: int, said: bool) -> None:
    """The winner and the config's own settings are measured twice."""
    rates = {256: [60, 61], 512: [100, again], 1024: [70]}
    found = search(lambda engine: rates[engine.max_num_seqs].pop(0), [SIZES])
    advice = tuning.advice(found)
    assert ("differ by a factor of 2.0" in advice) == said
    assert yaml.safe_load(advice) == {"engine": {"max_num_seqs": 512}}


def test_nothing_measured_is_no_winner() -> None:
    found = search(lambda engine: Failed("no such model"), [SIZES])
    assert found.winner is None
    assert tuning.advice(found).startswith("nothing was measured")


def test_without_a_gpu_neither_compilation_nor_eight_bit_caches_are_tried() -> None:
    assert [axis.key for axis in tuning.axes(OWN, 4000, gpu=False)] == ["max_num_seqs", "max_num_batched_tokens"]
    on_gpu = {axis.key: axis.values for axis in tuning.axes(OWN, 4000, gpu=True)}
    assert on_gpu["enforce_eager"] == (True,)
    assert on_gpu["kv_cache_dtype"] == ("fp8",)


def test_no_more_sequences_are_tried_than_the_prompts_have_samples() -> None:
    assert tuning.axes(OWN, 300, gpu=True)[0].values == (16, 32, 64, 128, 256)


def test_an_asked_key_may_be_any_engine_argument() -> None:
    axis = tuning.asked_axis("engine.extra.block_size=16, 32")
    assert axis == Axis("extra.block_size", (16, 32))
    varied = tuning.with_value(OWN, axis.key, 32)
    assert varied.extra == {"block_size": 32}
    assert tuning.changes(varied, OWN) == {"extra": {"block_size": 32}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_num_seqs", "write KEY=VALUE,VALUE"),
        ("max_num_seqs=", "write KEY=VALUE,VALUE"),
        ("max_seqs=1", "has no key 'max_seqs'"),
        ("max_num_seqs.x=1", "has no key 'max_num_seqs.x'"),
        ("max_num_seqs=[1", "is no list of values"),
    ],
)
def test_a_wrong_key_or_list_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^--try ") as refused:
        tuning.asked_axis(text)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_value_that_the_config_refuses_is_named_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"engine\.extra\.blok_size=16: .*did you mean block_size"):
        tuning.with_value(OWN, "extra.blok_size", 16)
