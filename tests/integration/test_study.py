"""The scaling study on Ray with the scripted engine: every point is made once, a second run does no work.

The models are committed beforehand (all the same one): a committed model is not trained. Training has its
own tests, so no worker group is started here, and the accuracies are meaningless.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rft_ray.cli.study import main, write_page
from rft_ray.config import load
from rft_ray.data.tiny import model_dir
from rft_ray.plan.jobs import CorpusJob
from rft_ray.records import Completion, ReasoningPath, from_table
from rft_ray.store import Store, read_table
from rft_ray.store.models.committed import commit_model
from rft_ray.study import run as study_run
from rft_ray.study.plan import StudyPlan
from rft_ray.study.result import Study, read_study
from rft_ray.training.results import TrainingRecord

TRAIN, TEST, K = 20, 20, 4
CONFIG = str(Path(__file__).parents[2] / "jobs" / "configs" / "study.yaml")
TRAINED = TrainingRecord(
    examples=20, skipped_too_long=0, steps=3, tokens=1000, seconds=1.5, tokens_per_s=666.7, final_loss=0.5
)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    models = "[{name: a, source: 'tiny:tiny-s'}, {name: b, source: 'tiny:tiny-m', samples: true}]"
    return [
        "--config",
        CONFIG,
        f"--run.store={tmp_path_factory.mktemp('study')}",
        f"--problems={{train: {{source: 'tiny:train:{TRAIN}'}}, test: {{source: 'tiny:test:{TEST}'}}, per_block: 10}}",
        f"--models={models}",
        f"--sampling={{samples_per_problem: {K}, samples_per_block: 2, max_new_tokens: 64}}",
        "--sampling.engine=scripted",
        "--study={k: [1, 2, 3, 4], halvings: 1, seeds: 1, equal_steps: false, headline: [b]}",
    ]


@pytest.fixture(scope="module")
def planned(arguments: list[str]) -> tuple[StudyPlan, Store]:
    return study_run.prepare(load(CONFIG, arguments[2:]))


@pytest.fixture(scope="module")
def done(ray_cluster: str, arguments: list[str], planned: tuple[StudyPlan, Store]) -> Study:
    plan, store = planned
    for point in plan.points:
        commit_model(store, point.training.fingerprint, model_dir("tiny-s"), {"training": asdict(TRAINED)})
    return study_run.run(plan, store, "made by a test", write_page)


def corpus_rows(store: Store, job: CorpusJob) -> list[ReasoningPath]:
    return from_table(read_table(store, job.key)[0], ReasoningPath)


def test_every_planned_point_exists_once(done: Study, planned: tuple[StudyPlan, Store]) -> None:
    assert done.finished
    assert [point.name for point in done.points] == [point.spec.name for point in planned[0].points]
    assert {point.problems for point in done.points} == {TEST}
    assert all(point.accuracy.low <= point.accuracy.value <= point.accuracy.high for point in done.points)
    assert {point.tokens for point in done.points} == {TRAINED.tokens}


def test_each_training_sample_is_drawn_once(done: Study, planned: tuple[StudyPlan, Store]) -> None:
    plan, store = planned
    counts: Counter[tuple[str, str, int]] = Counter()
    for key in store.list(f"completions/{plan.train.fingerprint}/"):
        name = key.split("/")[-1].split(".")[0]
        counts.update(
            (name, row.problem_id, row.sample_index) for row in from_table(read_table(store, key)[0], Completion)
        )
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * TRAIN * K


def test_the_corpus_of_each_k_is_made_from_the_first_k_samples(done: Study, planned: tuple[StudyPlan, Store]) -> None:
    plan, store = planned
    sizes = {}
    for point in plan.points:
        if point.spec.samplers == ("b",) and point.spec.selection == "equations" and point.spec.model == "b":
            rows = corpus_rows(store, point.corpus)
            assert max(row.sample_index for row in rows) < point.spec.k
            sizes[point.spec.k] = len(rows)
    assert list(sizes) == [1, 2, 3, 4]
    assert sorted(sizes.values()) == list(sizes.values())


def test_random_and_thinned_corpora_have_the_size_of_the_distinct_one(
    done: Study, planned: tuple[StudyPlan, Store]
) -> None:
    plan, store = planned
    mine = {
        p.spec.selection: p for p in plan.points if p.spec.samplers == ("b",) and p.spec.k == K and p.spec.model == "b"
    }
    per_problem = {
        choice: Counter(row.problem_id for row in corpus_rows(store, point.corpus)) for choice, point in mine.items()
    }
    assert per_problem["random"] == per_problem["equations"]
    assert per_problem["thinned"].total() == per_problem["equations"].total() < per_problem["none"].total()
    every = {(row.problem_id, row.sample_index) for row in corpus_rows(store, mine["none"].corpus)}
    for choice in ("random", "thinned"):
        rows = [(row.problem_id, row.sample_index) for row in corpus_rows(store, mine[choice].corpus)]
        assert len(set(rows)) == len(rows)
        assert set(rows) <= every


def test_sampling_costs_are_those_of_the_samples_that_a_corpus_is_made_from(done: Study) -> None:
    union = next(point for point in done.points if len(point.samplers) == 2 and point.model == "b")
    own = {p.k: p for p in done.points if p.samplers == ("b",) and p.selection == "equations" and p.model == "b"}
    assert union.sampled == 2 * TRAIN * K
    assert own[2].sampled == TRAIN * 2
    assert 0 < own[1].sampling_tokens < own[2].sampling_tokens < own[4].sampling_tokens < union.sampling_tokens
    sizes = {model.name: model.parameters for model in done.models}
    assert own[4].sampling_flops == pytest.approx(2 * sizes["b"] * own[4].sampling_tokens, rel=1e-3)
    assert own[4].training_flops == 6 * sizes["b"] * TRAINED.tokens


def test_every_question_that_these_models_can_answer_is_answered(done: Study) -> None:
    assert {"gain", "k", "dedup", "repeats", "choice", "pooling"} <= {finding.key for finding in done.findings}
    assert {skip.question for skip in done.skipped} == {1, 2}
    assert {"rft-k", "rft-paths"} <= {fit.name for fit in done.fits}


def test_a_finished_study_trains_nothing_and_computes_the_answers_again(
    done: Study, arguments: list[str], planned: tuple[StudyPlan, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    store = planned[1]
    before = {key: size for key, size in store.sizes() if key not in ("study.json", "study.html")}
    view = store.local_path("study.json")
    assert view is not None
    view.unlink()
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {key: size for key, size in store.sizes() if key not in ("study.json", "study.html")} == before
    again = read_study(store)
    assert replace(again, command=done.command, stages=done.stages) == done


def test_markdown_and_dry_run_do_not_start_ray(
    done: Study, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--markdown", str(tmp_path / "study.md")]) == 0
    page = (tmp_path / "study.md").read_text()
    assert all(table.title in page for table in done.tables)
    assert main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"{done.planned} points" in shown
    assert "not answered: question 1" in shown


def test_the_study_of_one_real_model_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a GPU the same job runs SmolLM2; here its config is planned with other problems."""
    config = str(Path(CONFIG).with_name("study_smollm2.yaml"))
    problems = "--problems={train: {source: 'tiny:train:100'}, test: {source: 'tiny:test:20'}}"
    assert main(["--config", config, problems, f"--run.store={tmp_path}", "--dry-run", "--gpu"]) == 0
    shown = capsys.readouterr().out
    assert "smollm2 rft smollm2 k=96 thinned #0" in shown
    assert "not answered: question 4: pooling needs two models that sample" in shown
    assert "on one GPU" in shown


def test_study_json_is_plain_json(done: Study, planned: tuple[StudyPlan, Store]) -> None:
    body = json.loads(planned[1].read("study.json"))
    assert {"points", "fits", "comparisons", "tables", "findings", "skipped", "stages"} <= set(body)
    assert body["points"][0]["accuracy"].keys() == {"value", "low", "high"}
