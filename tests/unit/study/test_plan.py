"""The study's points: planned the same every time, each once, with samples drawn once for all k."""

from __future__ import annotations

from collections import Counter

import pytest

from rft_ray.config import Config, ConfigError, load
from rft_ray.data.problems import ProblemSet, in_order
from rft_ray.data.tiny import model_dir
from rft_ray.data.tiny.generator import generate
from rft_ray.study.cost import paths_guess
from rft_ray.study.plan import Spec, StudyPlan, facts_of, make_study_plan
from rft_ray.study.result import Model

NAMES = ("a", "b", "c")
BASES = {name: str(place) * 16 for place, name in enumerate(NAMES, 1)}
TRAIN = ProblemSet(tuple(in_order(generate(40, split="train", seed=1, steps=(1, 2)), 0)), 40, "8" * 16)
TEST = ProblemSet(tuple(in_order(generate(20, split="test", seed=1, steps=(1, 2)), 0)), 20, "9" * 16)


def config(*overrides: str) -> Config:
    models = "--models=[" + ", ".join(f"{{name: {name}, source: x}}" for name in NAMES) + "]"
    sampling = "--sampling={samples_per_problem: 12, samples_per_block: 4}"
    return load(None, [models, sampling, "--study={k: [1, 4, 6, 12], halvings: 2, seeds: 2}", *overrides])


def facts(settings: Config) -> list[Model]:
    losses = dict(zip(NAMES, (0.3, 0.2, 0.1), strict=True))
    headline = settings.study.headline or NAMES
    return [
        Model(m.name, m.source, 1000, losses[m.name], settings.study.full_grid or m.name in headline, m.samples)
        for m in settings.models
    ]


def planned(*overrides: str) -> StudyPlan:
    settings = config(*overrides)
    return make_study_plan(settings, TRAIN, TEST, BASES, facts(settings))


def fingerprints(plan: StudyPlan) -> list[str]:
    return [point.training.fingerprint for point in plan.points]


def test_the_plan_is_the_same_every_time() -> None:
    assert planned() == planned()
    assert planned().fingerprint == planned().fingerprint


def test_every_point_is_planned_once_under_its_own_name() -> None:
    plan = planned()
    assert set(Counter(point.spec.name for point in plan.points).values()) == {1}
    assert set(Counter(fingerprints(plan)).values()) == {1}
    assert set(Counter(point.evaluation.key for point in plan.points).values()) == {1}


def test_questions_share_points() -> None:
    apart = [set(fingerprints(planned(f"--study.questions=[{question}]"))) for question in (1, 2, 3, 4, 5)]
    together = set(fingerprints(planned()))
    assert set().union(*apart) == together
    assert sum(map(len, apart)) > len(together)


def test_nothing_is_sampled_twice_and_smaller_k_are_prefixes() -> None:
    plan = planned()
    drawn = {shard.key() for job in plan.collected for shard in job.sampling.shards()}
    used = [shard.key() for job in plan.path_jobs for verdicts in job.verdicts for shard in verdicts.sampling.shards()]
    assert set(used) == drawn
    assert len(drawn) == sum(len(list(job.sampling.shards())) for job in plan.collected)
    for job in plan.path_jobs:
        covered = job.verdicts[0].sampling.samples_per_problem
        assert covered - 4 < (job.k or covered) <= covered


def test_a_larger_k_keeps_the_names_of_every_smaller_one() -> None:
    small, large = (
        planned("--study.questions=[3]"),
        planned("--study.questions=[3]", "--sampling.samples_per_problem=24"),
    )
    below = {point.training.fingerprint for point in small.points if point.spec.k < 12 and not point.spec.control}
    assert below < set(fingerprints(large))
    assert {s.key() for job in small.collected for s in job.sampling.shards()} < {
        s.key() for job in large.collected for s in job.sampling.shards()
    }


def test_a_wider_grid_only_adds_points() -> None:
    narrow = set(fingerprints(planned("--study.seeds=1", "--study.equal_steps=false", "--study.headline=[a]")))
    assert narrow < set(fingerprints(planned())) < set(fingerprints(planned("--study.full_grid=true")))


def test_only_headline_points_have_several_seeds() -> None:
    several = {point.spec for point in planned("--study.headline=[a, b]").points if point.spec.seed}
    union = {Spec(name, "rft", "equations", NAMES, 12, seed=1) for name in "ab"}
    assert several == union | {Spec(name, "sft", seed=1) for name in "ab"}


def test_each_model_is_trained_on_each_sampler_the_union_and_the_union_without_each() -> None:
    points = [p.spec for p in planned("--study.questions=[4]").points if p.spec.stage == "rft" and not p.spec.seed]
    pools = {("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")}
    for name in NAMES:
        assert {spec.samplers for spec in points if spec.model == name} == pools


def test_each_share_of_the_data_has_a_second_point_with_the_steps_of_all_data() -> None:
    points = [p for p in planned("--study.questions=[2]").points if p.spec.model == "a" and not p.spec.seed]
    shares = {(p.corpus.problems, p.spec.schedule) for p in points}
    assert shares == {(40, "epochs"), (20, "epochs"), (20, "steps"), (10, "epochs"), (10, "steps")}
    whole = next(p.corpus.key for p in points if p.corpus.problems == 40)
    assert {p.training.same_steps_as for p in points if p.spec.schedule == "steps"} == {whole}


def test_the_control_has_as_many_steps_as_its_rft_on_the_union() -> None:
    points = {p.spec: p for p in planned("--study.headline=[a]").points}
    control = points[Spec("a", "sft", schedule="steps")]
    union = points[Spec("a", "rft", "equations", NAMES, 12)]
    assert control.training.same_steps_as == union.corpus.key
    assert control.training.data_key == points[Spec("a", "sft")].corpus.key
    assert control in planned("--study.headline=[a]").of(late=True)
    assert Spec("b", "sft", schedule="steps") not in points


def test_a_question_about_gold_data_alone_samples_nothing() -> None:
    plan = planned("--study.questions=[2]")
    assert not plan.collected
    assert not plan.path_jobs


def test_a_thinned_corpus_is_built_after_the_one_that_gives_its_size() -> None:
    order = [job.fingerprint for job in planned().corpora]
    thinned = [job for job in planned().corpora if job.as_many_as]
    assert len(thinned) == 3
    for job in thinned:
        assert job.as_many_as is not None
        assert order.index(job.as_many_as.fingerprint) < order.index(job.fingerprint)
        assert job.paths is not None
        assert job.paths.dedup == "none"


def test_parts_that_one_model_cannot_answer_are_skipped_with_a_reason() -> None:
    settings = config("--models=[{name: a, source: x}]")
    plan = make_study_plan(settings, TRAIN, TEST, BASES, facts(settings))
    reasons = {skip.question: skip.reason for skip in plan.skipped}
    assert set(reasons) == {1, 2, 4}
    assert "3 models" in reasons[1]
    assert "two models that sample" in reasons[4]
    assert {point.spec.stage for point in plan.points} == {"sft", "rft"}


def test_one_base_with_one_seed_under_two_names_is_refused() -> None:
    settings = config()
    with pytest.raises(ConfigError, match="are the same sampler"):
        make_study_plan(settings, TRAIN, TEST, BASES | {"b": BASES["a"]}, facts(settings))


def test_too_many_halvings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"study\.halvings=6"):
        planned("--study.halvings=6")


def test_a_model_that_is_not_fine_tuned_on_paths_samples_them_and_has_points_of_gold() -> None:
    whole, plan = planned(), planned("--models.1.rft=false")
    left = {point.spec for point in whole.points} - {point.spec for point in plan.points}
    assert left == {point.spec for point in whole.points if point.spec.late and point.spec.model == "b"}
    assert plan.samplers == whole.samplers == NAMES
    assert {point.spec.stage for point in plan.points if point.spec.model == "b"} == {"sft"}


def test_a_choice_of_paths_that_the_study_makes_by_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"in question 3: leave out corpus\.dedup=none"):
        planned("--corpus.dedup=none")


def test_the_estimate_of_paths_is_bounded_as_the_corpus_is() -> None:
    plan, bounded = planned(), planned("--corpus.max_paths_per_problem=1")
    assert max(paths_guess(plan, point) for point in plan.points) > 2 * TRAIN.count
    assert max(paths_guess(bounded, point) for point in bounded.points) == TRAIN.count


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no model 'tiny'"):
        config("--study.headline=[tiny]")


def test_losses_come_from_the_base_or_from_the_config() -> None:
    settings = config("--study.pretraining_losses={b: 1.75}", "--study.headline=[a]")
    folders = {"a": model_dir("tiny-s"), "b": model_dir("tiny-s"), "c": model_dir("tiny-s").parent}
    models = facts_of(settings, folders, dict.fromkeys(NAMES, 5))
    assert models[0].pretraining_loss is not None
    assert 0 < models[0].pretraining_loss < 2
    assert (models[1].pretraining_loss, models[2].pretraining_loss) == (1.75, None)
    assert [known.headline for known in models] == [True, False, False]
