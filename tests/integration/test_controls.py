"""Controls added to a finished run, on Ray with the scripted engine: existing files are reused, new ones are reported.

The models are committed beforehand (all the same one), so that nothing is trained and the accuracies are meaningless.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rft_ray import pipeline
from rft_ray.config import load
from rft_ray.data.tiny import model_dir
from rft_ray.evaluation.summary import complete
from rft_ray.evaluation.summary_records import Summary
from rft_ray.plan.run_plan import Plan
from rft_ray.records import ReasoningPath, from_table
from rft_ray.store import Store, read_table
from rft_ray.store.models.committed import commit_model

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "demo.yaml"
VIEWS = {"summary.json", "report.html", "config.yaml", "progress.json"}


@dataclass
class Runs:
    plan: Plan
    store: Store
    before: dict[str, int]
    """Keys and sizes of the run without controls."""
    plain: Summary
    controlled: Summary


def arguments(folder: Path) -> list[str]:
    return [
        f"--run.store={folder}",
        "--problems={train: {source: 'tiny:train:20'}, test: {source: 'tiny:test:20'}, per_block: 10}",
        "--models=[{name: a, source: 'tiny:tiny-s'}, {name: b, source: 'tiny:tiny-m'}]",
        "--sampling={samples_per_problem: 4, samples_per_block: 2, max_new_tokens: 64}",
        "--evaluation={samples_per_problem: 2, samples_per_block: 2}",
        "--sampling.engine=scripted",
    ]


def trained(plan: Plan, store: Store) -> None:
    stats = dict.fromkeys(("examples", "skipped_too_long", "steps", "tokens", "resumed_at_step"), 0)
    stats |= {"checkpoints_passed_over": 0, "seconds": 0, "tokens_per_s": 0, "final_loss": 0}
    for job in plan.trainings:
        commit_model(store, job.fingerprint, model_dir("tiny-s"), {"training": {**stats, "attempt": "none"}})


def committed(store: Store) -> dict[str, int]:
    return {key: size for key, size in store.sizes() if key not in VIEWS and not key.startswith("models/")}


@pytest.fixture(scope="module")
def runs(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    given = arguments(tmp_path_factory.mktemp("controls"))
    plan, store = pipeline.prepare(load(CONFIG, given))
    trained(plan, store)
    plain = pipeline.run(plan, store)
    before = committed(store)
    plan, store = pipeline.prepare(load(CONFIG, [*given, "--controls=true"]))
    trained(plan, store)
    return Runs(plan, store, before, plain, pipeline.run(plan, store))


def test_existing_files_are_reused_and_kept(runs: Runs) -> None:
    after = committed(runs.store)
    assert runs.before.items() <= after.items()
    sampled = [key for key in after.keys() - runs.before.keys() if key.startswith("completions/")]
    assert sampled
    assert all(runs.plan.test.fingerprint in key for key in sampled), "training problems were sampled again"


def test_every_model_has_sft_rft_and_both_controls(runs: Runs) -> None:
    for name in ("a", "b"):
        assert set(runs.plain.evaluation[name]) == {"sft", "rft"}
        settings = runs.controlled.evaluation[name]
        assert set(settings) == {"sft", "rft", "rft_self", "sft_same_steps"}
        assert {key: settings[key] for key in ("sft", "rft")} == runs.plain.evaluation[name]
        assert set(settings["rft_self"]) == set(settings["sft_same_steps"]) == {"maj1@1"}


def test_rft_is_compared_with_each_control_on_the_same_problems(runs: Runs) -> None:
    for name in ("a", "b"):
        assert set(runs.plain.paired[name]) == {"rft_minus_sft"}
        paired = runs.controlled.paired[name]
        assert set(paired) == {"rft_minus_sft", "rft_minus_rft_self", "rft_minus_sft_same_steps"}
        assert all(gain.low <= gain.value <= gain.high and gain.n == 20 for gain in paired.values())


def test_a_models_own_corpus_holds_only_its_own_paths(runs: Runs) -> None:
    for job in runs.plan.own:
        assert job.paths is not None
        rows = from_table(read_table(runs.store, job.key)[0], ReasoningPath)
        [name] = job.paths.samplers
        assert {row.model for row in rows if not row.gold} == {name}
        corpus = runs.controlled.own_corpora[name]
        assert corpus is not None
        assert corpus.paths == sum(not row.gold for row in rows)
    assert runs.controlled.corpus == runs.plain.corpus is not None


def test_stage_seconds_include_those_of_the_earlier_run(runs: Runs) -> None:
    before, after = ({stage.name: stage.seconds for stage in run.stages} for run in (runs.plain, runs.controlled))
    assert list(before) == list(after)
    assert all(after[name] >= before[name] for name in before)
    assert after["evaluate"] > before["evaluate"]


def test_a_finished_run_with_controls_is_complete(runs: Runs) -> None:
    assert complete(runs.store, runs.plan)
