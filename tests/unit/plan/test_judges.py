"""The judge in the plan of a run: without one no name changes, and with one only what it decides does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.config import Config, ConfigError, load
from rft_ray.config.loading import saved_config
from rft_ray.plan import prompt_kinds
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.plan.samplers import sources
from rft_ray.store import names
from rft_ray.store.names import fingerprint_of
from tests.unit.plan.test_run_plan import TEST, TRAIN, config

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
SHIPPED = {
    "demo": "c8f512c2fa8209b8",
    "distil": "1d850a4663c3e59c",
    "k8s": "773fabc060e7f59c",
    "paper": "773fabc060e7f59c",
    "self_improve": "012f740f284f65d6",
    "smollm2": "abf1505ecd72f761",
    "qwen": "67257ea143f517c9",
    "study": "a522d63a0e305350",
    "study_smollm2": "6d5194ae2be08722",
}
"""Shipped config -> the fingerprint of its plan under version 3 of the strict rules."""
JUDGE = "--grading.judge=openai:j"


def plan_of(settings: Config) -> Plan:
    bases = {name: name.encode().hex()[:16].ljust(16, "0") for name in sources(settings)}
    return make_plan(settings, TRAIN, TEST, bases)


def planned(*overrides: str) -> Plan:
    return plan_of(config(*overrides))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_plans_of_the_shipped_configs_keep_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(CONFIGS / f"{name}.yaml")
    now = plan_of(settings).fingerprint
    monkeypatch.setitem(names.VERSIONS, "strict_rules", 3)
    assert plan_of(settings).fingerprint == SHIPPED[name]
    assert (now == SHIPPED[name]) == (settings.grading.mode == "paper")


def test_the_names_of_a_judges_answers_never_change_under_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, each judge is asked anew in every run: change the question's wording only on purpose."""
    monkeypatch.setitem(names.VERSIONS, "strict_rules", 3)
    job = planned(JUDGE).judged[0]
    assert (job.sampling.fingerprint, job.fingerprint) == ("369471e8017e182d", "42b2308cf5f07ac1")


def test_a_judge_whose_opinions_are_ignored_renames_no_verdict_path_corpus_or_model() -> None:
    plain, judged = planned(), planned(JUDGE)
    assert not plain.judged
    assert len(judged.judged) == 2
    assert replace(judged, config=plain.config, judged=(), bases=plain.bases) == plain
    assert judged.fingerprint != plain.fingerprint


def test_accepted_opinions_rename_paths_and_what_is_made_from_them() -> None:
    plain, accepting = planned(JUDGE), planned(JUDGE, "--corpus.judge=accept")
    assert accepting.collected == plain.collected
    assert accepting.judged == plain.judged
    assert accepting.paths.fingerprint != plain.paths.fingerprint
    assert not {job.fingerprint for job in accepting.rft} & {job.fingerprint for job in plain.rft}


def test_a_limit_of_paths_renames_the_corpus_with_accepted_opinions_alone() -> None:
    limit = "--corpus.max_paths_per_problem=3"
    assert planned(JUDGE, limit).corpus.fingerprint == planned(limit).corpus.fingerprint == "41a8963461b26c7c"
    assert planned(JUDGE, "--corpus.judge=accept").corpus.fingerprint == "11ff292e3e0d5f22"
    assert planned(JUDGE, "--corpus.judge=accept", limit).corpus.fingerprint != "01b99b502265c14e"


def test_the_self_control_accepts_opinions_on_its_own_samples_only() -> None:
    plan = planned(JUDGE, "--corpus.judge=accept", "--controls=true")
    own = [job.paths for job in plan.own if job.paths]
    assert [paths.accepted for paths in own] == [(job,) for job in plan.judged]
    assert [paths.verdicts for paths in own] == [(job,) for job in plan.collected]


def test_a_quarantined_answer_of_a_judge_that_is_ignored_renames_nothing() -> None:
    for ignored, settings in ((True, [JUDGE]), (False, [JUDGE, "--corpus.judge=accept"])):
        plan = planned(*settings)
        lost = next(iter(plan.judged[0].sampling.shards())).stem
        past = plan.past([lost])
        assert (past.corpus.fingerprint == plan.corpus.fingerprint) == ignored
        assert len(past.judged[0].shards()) == len(plan.judged[0].shards()) - 1
        assert lost not in {shard.stem for shard in past.completion_shards()}


def test_more_samples_keep_the_answers_that_are_there() -> None:
    few, many = planned(JUDGE), planned(JUDGE, "--sampling.samples_per_problem=16")
    answers = [{shard.stem for job in plan.judged for shard in job.sampling.shards()} for plan in (few, many)]
    assert answers[0] < answers[1]


def test_the_source_alone_stands_for_a_judge() -> None:
    judge = config(JUDGE).grading.judge
    assert judge
    assert judge.source == "openai:j"
    assert judge.statuses == ("bad_equation", "no_answer", "undecided")
    saved = config(JUDGE)
    assert saved_config(saved.to_yaml().encode(), "config.yaml") == saved


def test_the_prompt_of_a_judge_is_a_chat_where_its_model_has_a_template() -> None:
    for source, has, kind in (("openai:j", False, "chat"), ("m", True, "chat"), ("m", False, "template")):
        judge = prompt_kinds.resolved(config(f"--grading.judge={source}"), lambda _, has=has: has).grading.judge
        assert judge
        assert judge.prompt.kind == kind


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--corpus.judge=accept", "corpus.judge: accept needs grading.judge"),
        ("--grading.judge='openai:'", "a source openai: without a name"),
        ("--grading.judge={source: 'openai:j', statuses: []}", "grading.judge.statuses"),
        ("--grading.judge={source: 'openai:j', statuses: [correct]}", "grading.judge.statuses"),
        ("--grading.judge={source: 'openai:j', endpoint: {retry_seconds: 9999}}", "grading.judge: its endpoint's"),
        ("--grading.judge={statuses: [no_answer]}", "grading.judge.source: is missing"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        config(override)
    assert message in str(refusal.value)


def test_models_and_judges_have_names_of_their_own() -> None:
    """A model may be called `judge`."""
    plan = planned("--models=[{name: judge, source: 'openai:j', rft: false}, {name: b, source: y}]", JUDGE)
    assert plan.judged[0].sampling.model.name not in plan.config.endpoints
    assert json.dumps(sorted(sources(plan.config))) == '["b", "judge", "judge of rejects"]'
    assert fingerprint_of("judgements", answers=plan.judged[0].sampling.fingerprint) == plan.judged[0].fingerprint
