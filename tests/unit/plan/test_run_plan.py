"""The plan of a run: controls only add jobs; quarantined shards rename only what is made from samples."""

from __future__ import annotations

from rft_ray.config import Config, load
from rft_ray.data.problems import ProblemSet, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.plan import cost
from rft_ray.plan.jobs import ModelRef
from rft_ray.plan.run_plan import Plan, make_plan

BASES = {"a": "1" * 16, "b": "2" * 16}
TRAIN = ProblemSet(tuple(in_order(generate(40, split="train", seed=1, steps=(1, 2)), 0)), 40, "3" * 16)
TEST = ProblemSet(tuple(in_order(generate(20, split="test", seed=1, steps=(1, 2)), 0)), 20, "4" * 16)


def config(*overrides: str) -> Config:
    models = "--models=[{name: a, source: x}, {name: b, source: y}]"
    return load(None, [models, "--sampling={samples_per_problem: 8, samples_per_block: 8}", *overrides])


def planned(*overrides: str) -> Plan:
    return make_plan(config(*overrides), TRAIN, TEST, BASES)


def test_the_names_of_a_run_never_change() -> None:
    """If this fails, the names of all models of all runs have changed: raise the stage's version only on purpose."""
    plan = planned("--grading.mode=paper")
    assert [job.fingerprint for job in plan.trainings] == [
        "821937a40d2dbd7e",
        "a860988c75c0ead1",
        "d9d1b825baee6326",
        "a6d0e0bdaaf7d600",
    ]
    assert plan.corpus.fingerprint == "c469bb2762cbf8e3"


def test_controls_only_add_jobs() -> None:
    plain, more = planned(), planned("--controls=true")
    assert {job.fingerprint for job in plain.trainings} < {job.fingerprint for job in more.trainings}
    assert {job.key for job in plain.evaluations} < {job.key for job in more.evaluations}
    assert {shard.key() for shard in plain.completion_shards()} < {shard.key() for shard in more.completion_shards()}
    assert more.corpora[0] == plain.corpus
    assert not plain.controls + plain.own


def test_every_trained_model_has_both_controls() -> None:
    plan = planned("--controls=true")
    assert [(job.model, job.stage) for job in plan.controls] == [
        *(("a", "rft_self"), ("a", "sft_same_steps")),
        *(("b", "rft_self"), ("b", "sft_same_steps")),
    ]
    assert {job.setting for job in plan.evaluations} == {"sft", "rft", "rft_self", "sft_same_steps"}


def test_the_self_control_is_trained_on_its_own_paths_by_the_rft_recipe() -> None:
    plan = planned("--controls=true", "--rft.epochs=5")
    assert [job.paths.samplers for job in plan.own if job.paths] == [("a",), ("b",)]
    trained = [job for job in plan.controls if job.stage == "rft_self"]
    assert [job.data_key for job in trained] == [job.key for job in plan.own]
    assert {job.recipe.epochs for job in trained} == {5}


def test_the_steps_control_names_the_union_corpus_that_it_counts() -> None:
    plan = planned("--controls=true")
    control = next(job for job in plan.controls if job.stage == "sft_same_steps")
    assert (control.data_key, control.same_steps_as) == (plan.gold.key, plan.corpus.key)
    larger = planned("--controls=true", "--sampling.samples_per_problem=16")
    other = next(job for job in larger.controls if job.stage == "sft_same_steps")
    assert control.fingerprint != other.fingerprint


def test_one_sampler_has_no_self_control() -> None:
    """The paths of the only sampler are the union."""
    plan = planned("--controls=true", "--models.1.samples=false")
    assert not plan.own
    assert {job.stage for job in plan.controls} == {"sft_same_steps"}


def test_continuing_without_a_shard_renames_only_what_is_made_from_samples() -> None:
    plan = planned()
    assert plan.past([]) is plan
    lost = next(iter(plan.collected[0].sampling.shards())).stem
    past = plan.past([lost])
    assert {job.fingerprint for job in past.sft} == {job.fingerprint for job in plan.sft}
    assert [job.fingerprint for job in past.collected] == [job.fingerprint for job in plan.collected]
    assert past.corpus.fingerprint != plan.corpus.fingerprint
    assert not {job.fingerprint for job in past.rft} & {job.fingerprint for job in plan.rft}
    assert past.fingerprint != plan.fingerprint
    assert {shard.stem for shard in plan.collected[0].sampling.shards()} - {lost} == {
        shard.stem for shard in past.completion_shards() if shard.fingerprint == plan.collected[0].sampling.fingerprint
    }
    assert len(past.collected[0].shards()) == len(plan.collected[0].shards()) - 1
    assert past.past([lost]) is past


def test_an_evaluation_that_lacks_a_shard_is_left_out_and_no_other() -> None:
    plan = planned()
    lost = next(iter(plan.evaluations_of("sft")[0].greedy.sampling.shards())).stem
    past = plan.past([lost])
    assert past.left_out == plan.evaluations[:1]
    assert past.evaluations == plan.evaluations[1:]
    assert past.corpus.fingerprint == plan.corpus.fingerprint


TEACHER = (
    "--models=[{name: a, source: x}, {name: b, source: 'openai:big', rft: false, "
    "endpoint: {price_per_million_tokens: {prompt: 1, completion: 2}}}]"
)


def test_a_teacher_samples_without_being_trained_or_evaluated() -> None:
    plan = planned(TEACHER, "--evaluation.icl_shots=2", "--controls=true")
    assert {job.model for job in plan.trainings} == {job.model.name for job in plan.evaluations} == {"a"}
    own, teacher = (job.sampling for job in plan.collected)
    assert teacher.model == ModelRef("b", "base", BASES["b"], "openai:big")
    assert (teacher.settings.engine, teacher.settings.max_model_len) == ("openai", None)
    assert (own.settings.engine, own.model.stage) == ("vllm", "sft")
    assert plan.paths.samplers == ("a", "b")


def test_the_estimate_names_what_a_teacher_charges() -> None:
    plan = planned(TEACHER)
    left = cost.Left(frozenset(shard.stem for shard in plan.completion_shards()), frozenset())
    lines = cost.describe(plan, {"a": 10**6, "b": 0}, left, gpu=False)
    assert "b charges for about " in lines
    assert "by its price_per_million_tokens" in lines
