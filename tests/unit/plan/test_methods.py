"""The paper's recipe is one choice among several: no SFT, no gold, samples of the base or of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rft_ray.config import Config, ConfigError, load
from rft_ray.data.problems import prepare_sets
from rft_ray.data.prompts import is_chat
from rft_ray.plan import prompt_kinds
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.plan.samplers import sources
from rft_ray.store.names import fingerprint_of

BASE = (
    "--problems={train: {source: 'tiny:train:20'}, test: {source: 'tiny:test:20'}, per_block: 10}",
    "--models=[{name: a, source: x}, {name: b, source: y}]",
    "--sampling={samples_per_problem: 8, samples_per_block: 8, engine: scripted}",
)


def config_of(*settings: str) -> Config:
    return load(None, [*BASE, *settings])


def plan_of(*settings: str) -> Plan:
    config = config_of(*settings)
    train, test = prepare_sets(config.problems)
    bases = {name: fingerprint_of("model", files=source) for name, source in sources(config).items()}
    return make_plan(config, train, test, bases)


def stages(plan: Plan) -> list[str]:
    return [f"{job.model.name} {job.setting}" for job in plan.evaluations]


def test_the_paper_fine_tunes_first() -> None:
    plan = plan_of()
    assert [job.sampling.model.stage for job in plan.collected] == ["sft", "sft"]
    assert stages(plan) == ["a sft", "b sft", "a rft", "b rft"]
    assert plan.corpus.gold


def test_without_sft_the_bases_sample_and_are_evaluated_before() -> None:
    plan = plan_of("--sft=null", "--corpus.gold=false", "--controls=true")
    assert plan.sft == ()
    assert [(job.sampling.model.stage, job.sampling.model.source) for job in plan.collected] == [
        ("base", "x"),
        ("base", "y"),
    ]
    assert stages(plan) == ["a base", "b base", "a rft", "b rft", "a rft_self", "b rft_self"]
    assert not plan.corpus.gold
    assert plan.corpus.fingerprint != plan_of("--sft=null").corpus.fingerprint


def test_one_model_may_sample_for_another() -> None:
    plan = plan_of("--models=[{name: a, source: x, sample_from: 'hub:big/teacher'}]")
    assert plan.sft == ()
    [job] = plan.collected
    assert (job.sampling.model.name, job.sampling.model.source) == ("a", "hub:big/teacher")
    [trained] = plan.rft
    assert trained.base == "x"


def test_a_teacher_samples_and_a_student_is_trained() -> None:
    plan = plan_of("--sft=null", "--models=[{name: t, source: x, rft: false}, {name: s, source: y, samples: false}]")
    assert [job.sampling.model.name for job in plan.collected] == ["t"]
    assert [job.model for job in plan.rft] == ["s"]
    assert stages(plan) == ["s base", "s rft"]


def test_rft_may_start_from_the_model_that_sampled() -> None:
    plan, paper = plan_of("--rft.from=sampler"), plan_of()
    assert [job.start for job in plan.rft] == [job.fingerprint for job in plan.sft]
    assert [job.start for job in paper.rft] == ["", ""]
    assert {job.fingerprint for job in plan.rft}.isdisjoint(job.fingerprint for job in paper.rft)
    assert plan_of("--rft.from=sampler", "--sft=null").rft == plan_of("--sft=null").rft  # the base is what sampled


def test_two_prompts_or_shots_make_two_samplers_of_one_base() -> None:
    models = "--models=[{name: a, source: x, %s}, {name: b, source: x, rft: false}]"
    for own in ("shots: 2", "prompt: {kind: chat}", "prompt: {template: 'Q: {query}'}"):
        plan = plan_of("--sft=null", models % own)
        first, second = plan.collected
        assert first.sampling.fingerprint != second.sampling.fingerprint
    with pytest.raises(ConfigError, match="the same sampler"):
        plan_of("--sft=null", models % "seed: 1")


def test_shots_come_from_the_training_problems() -> None:
    first, _ = plan_of("--models.0.shots=3").collected
    assert (first.sampling.settings.shots, first.sampling.settings.shots_from) == (
        3,
        first.sampling.problems_fingerprint,
    )


def prompts_of(config: Config, with_template: Sequence[str]) -> list[bool]:
    """Whether each model's prompt is a chat, where these sources have a chat template."""
    resolved = prompt_kinds.resolved(config, lambda source: source in with_template)
    assert prompt_kinds.resolved(Config.model_validate(resolved.model_dump(mode="json")), _never) == resolved
    train, test = prepare_sets(resolved.problems)
    plan = make_plan(resolved, train, test, {"a": "0" * 16, "b": "1" * 16})
    return [is_chat(job.template) for job in plan.rft]


def _never(source: str) -> bool:
    raise AssertionError(f"the config is resolved, and {source} is asked for again")


def test_a_model_with_a_chat_template_is_asked_by_it_unless_a_template_is_given() -> None:
    assert prompts_of(config_of(), ["x", "y"]) == [True, True]
    assert prompts_of(config_of(), ["y"]) == [False, True]
    assert prompts_of(config_of(), []) == [False, False]
    assert prompts_of(config_of("--prompt.template=Q: {query}"), ["x", "y"]) == [False, False]
    assert prompts_of(config_of("--prompt.kind=template"), ["x", "y"]) == [False, False]
    assert prompts_of(config_of("--models.0.prompt={template: 'Q: {query}'}"), ["x", "y"]) == [False, True]
    mixed = config_of("--models.0.prompt={template: 'Q: {query}'}", "--prompt.system=Be brief.")
    assert prompts_of(mixed, ["y"]) == [False, True]


def test_settings_of_a_chat_are_refused_for_a_model_without_a_chat_template() -> None:
    with pytest.raises(ConfigError, match=r"y \(b\) has no chat template"):
        prompt_kinds.resolved(config_of("--prompt.system=Be brief."), lambda source: source == "x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--sft=null", "--models.0.sample_from=sft"], "the section sft is null: write sample_from: base"),
        (["--models.0.source=openai:big"], "only samples: write rft: false"),
        (["--rft.from=teacher"], "rft.from"),
    ],
)
def test_a_contradiction_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*settings)
