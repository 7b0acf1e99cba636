"""The sampling benchmark's figures: slopes without starts, ratios of one round, and a row for what cannot run."""

from __future__ import annotations

import pytest

from benchmarks import sampling
from benchmarks.samplers import Part, Turn


def turn(rate: float, *, start_s: float = 9.0, first_s: float = 10.0) -> Turn:
    """A turn of so many tokens a second, and half as many a CPU second."""
    small, large = (Part(tokens, start_s + tokens / rate, start_s + 2 * tokens / rate) for tokens in (1_000, 5_000))
    return Turn(first_s, small, large)


@pytest.mark.parametrize("start_s", [0.0, 100.0])
def test_the_seconds_of_a_start_do_not_change_a_rate(start_s: float) -> None:
    assert turn(400, start_s=start_s).rate == pytest.approx(400)
    assert turn(400, start_s=start_s).cpu_rate == pytest.approx(200)


def test_ratios_are_of_one_round_whatever_the_load_of_another() -> None:
    turns = {"stage": [turn(1_000), turn(100)], "vllm": [turn(1_000), turn(100)]}
    assert sampling.ratios(turns, "vllm", "rate") == pytest.approx([1, 1])


def test_the_table_has_medians_with_their_range_and_the_error_of_what_cannot_run() -> None:
    rates = {"stage": [97, 97, 97], "vllm": [100, 97, 194]}
    turns = {name: [turn(rate, first_s=rate) for rate in own] for name, own in rates.items()}
    lines = sampling.table(turns, {"ray.data.llm": "ImportError: no module"}, {"vllm": {"threads": 1}}).splitlines()
    assert "| vllm | 100 | 0.97 [0.50, 1.00] | >= 0.97 |" in lines[3]
    assert lines[4].startswith("| ray.data.llm | cannot run: ImportError: no module |")
    assert any("first output: 0.97 [0.50, 1.00], wanted <= 1.3" in line for line in lines)


@pytest.mark.parametrize("name", list(sampling.SUBJECTS))
def test_every_sampler_has_settings_and_two_parts_of_each_model(name: str) -> None:
    subject = sampling.SUBJECTS[name]
    for sizes in (subject.full, subject.tuning, subject.quick):
        parts = [sizes.problems(sampler) for sampler in subject.choices]
        assert all(0 < small < large for small, large in parts)
    assert all(subject.choices[sampler] for sampler in sampling.SAMPLERS)


def test_untuned_settings_are_the_first_ones_and_the_stage_has_those_of_vllm() -> None:
    subject = sampling.SUBJECTS["tiny-m"]
    chosen, failed = sampling.settings_of(["stage", "vllm", "ray.data.llm"], subject, tune=False)
    assert failed == {}
    assert chosen["vllm"] == sampling.ENGINES[0]
    assert chosen["stage"] == sampling.ENGINES[0] | sampling.ACTORS[-1]
    assert chosen["ray.data.llm"] == sampling.ENGINES[0] | sampling.BATCHES[0]
