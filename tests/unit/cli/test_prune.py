"""`rft-ray store prune --superseded`: what any saved plan needs stays, and what cannot be known is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rft_ray import pipeline
from rft_ray.cli.store import main
from rft_ray.config import Config, load
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import CorpusJob, EvaluationJob, PathJob, TrainingJob, VerdictJob
from rft_ray.plan.run_plan import Plan
from rft_ray.store import Store, mark_run, names, open_store
from rft_ray.store.models.committed import commit_model
from rft_ray.store.plans import recipes, saved_plans
from rft_ray.store.run_lock import run_lock
from rft_ray.study import run as study_run
from tests.report_run import make_run
from tests.unit.store.test_models import model_files

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"


def is_saved(store: Store, plan: object) -> bool:
    return frozenset(recipes(plan)) in {saved.recipes for saved in saved_plans(store)}


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Settings of a small run on local data files."""
    for split in ("train", "test"):
        rows = [{"question": p.question, "answer": p.solution} for p in generate(20, split=split, seed=3, steps=(1, 2))]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"--problems.train.source={tmp_path}/train.jsonl",
        f"--problems.test.source={tmp_path}/test.jsonl",
        f"--run.store={tmp_path}/runs",
        "--problems.per_block=10",
    ]


def add_row(file: Path) -> None:
    with file.open("a") as rows:
        rows.write(json.dumps({"question": "How many are 1 and 1?", "answer": "1+1 = <<1+1=2>>2\n#### 2"}) + "\n")


def files_of(parts: Iterable[Any]) -> set[str]:
    """The keys of these jobs' files."""
    keys: set[str] = set()
    for part in parts:
        match part:
            case TrainingJob():
                keys |= {f"models/{part.fingerprint}/{name}" for name in ("manifest.json", "a1/model.safetensors")}
            case VerdictJob():
                keys |= {shard.key() for shard in [*part.sampling.shards(), *part.shards()]}
            case PathJob():
                keys |= {shard.key() for shard in part.shards()}
            case CorpusJob():
                keys |= {part.key, part.jsonl_key}
            case EvaluationJob():
                keys |= {part.key} | files_of(job for job in (part.greedy, part.samples) if job)
    return keys


def jobs_of(plan: Plan) -> list[Any]:
    return [*plan.trainings, *plan.collected, *plan.path_jobs, plan.gold, *plan.corpora, *plan.evaluations]


def made(config: Config, *, saved: bool = True) -> tuple[Store, set[str]]:
    """A run of this config in which every file of the plan is committed, with some bytes, and the plan's keys."""
    plan, store = pipeline.prepare(config)
    mark_run(store)
    if saved:
        pipeline.save(plan, store)
    store.replace("config.yaml", config.to_yaml().encode())
    store.replace("summary.json", json.dumps({"fingerprint": plan.fingerprint, "finished": True}).encode())
    keys = files_of(jobs_of(plan))
    for key in keys:
        store.create(key, b"content")
    return store, keys


def demo(settings: Sequence[str], *further: str) -> Config:
    return load(CONFIGS / "demo.yaml", [*settings, *further])


def pruned(store: Store, *options: str) -> int:
    return main(["prune", "--superseded", "--yes", *options, store.url])


def test_nothing_of_a_scaling_study_is_superseded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--problems.train.limit=50", "--problems.test.limit=50", "--study.seeds=1"]
    config = load(CONFIGS / "study.yaml", [f"--run.store={tmp_path}", *few])
    plan, store = study_run.prepare(config)
    mark_run(store)
    study_run.save(plan, store)
    store.replace("config.yaml", config.to_yaml().encode())
    points = [part for point in plan.points for part in (point.training, point.corpus, point.evaluation)]
    keys = files_of([*points, *plan.collected, *plan.path_jobs, *plan.corpora])
    for key in keys:
        store.create(key, b"content")
    assert pruned(store) == 0
    assert "0  bytes in 0 files" in capsys.readouterr().out
    assert keys <= set(store.list())


def test_a_row_added_to_a_data_file_supersedes_nothing(settings: list[str], tmp_path: Path) -> None:
    store, keys = made(demo(settings))
    add_row(tmp_path / "train.jsonl")
    assert pruned(store) == 0
    assert keys <= set(store.list())


def test_the_files_of_two_configs_in_one_run_stay(settings: list[str]) -> None:
    store, first = made(demo(settings))
    second = made(demo(settings, "--sampling.temperature=0.3"))[1]
    assert first - second
    assert pruned(store) == 0
    assert first | second <= set(store.list())


def test_the_files_that_only_a_forgotten_plan_needs_go(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store, first = made(demo(settings))
    [plan] = saved_plans(store)
    second = made(demo(settings, "--sampling.temperature=0.3"))[1]
    assert pruned(store, "--forget", plan.name) == 0
    shown = capsys.readouterr().out
    assert f"plan {plan.name} of run, saved " in shown
    assert f"{len(first - second) + 1} files deleted" in shown
    assert second <= set(store.list())
    assert not (first - second) & set(store.list())
    assert [other.name for other in saved_plans(store)] != [plan.name]
    assert pruned(store) == 0


@pytest.fixture
def earlier_rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The first strict rules, until `undo`."""
    with monkeypatch.context() as earlier:
        earlier.setitem(names.VERSIONS, "strict_rules", names.FIRST_STRICT_RULES)
        yield earlier


def test_files_of_earlier_strict_rules_go_only_with_their_plan(
    settings: list[str], earlier_rules: pytest.MonkeyPatch
) -> None:
    config = demo(settings, "--grading.mode=strict")
    store, first = made(config)
    [plan] = saved_plans(store)
    earlier_rules.undo()
    assert pruned(store) == 0
    second = made(config)[1]
    assert {key.split("/")[0] for key in first - second} == {"verdicts", "paths", "corpus", "models", "evaluation"} | {
        "completions"  # of the RFT models, which are others
    }
    assert pruned(store) == 0
    assert first | second <= set(store.list())
    assert pruned(store, "--forget", plan.name) == 0
    assert second <= set(store.list())
    assert not (first - second) & set(store.list())


def test_a_model_that_is_kept_keeps_the_corpus_that_it_was_trained_from(
    settings: list[str], earlier_rules: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = demo(settings, "--grading.mode=strict")
    plan, store = pipeline.prepare(config)
    (tmp_path / "model").mkdir()
    for name, content in model_files().items():
        (tmp_path / "model" / name).write_bytes(content)
    mark_run(store)
    for job in plan.sft:
        commit_model(store, job.fingerprint, tmp_path / "model", {"data": job.data_key})
    made(config)
    [saved], trained_from = saved_plans(store), plan.gold.key
    earlier_rules.undo()
    assert trained_from not in made(config)[1]
    assert pruned(store, "--forget", saved.name) == 0
    assert trained_from in set(store.list())


def test_without_a_saved_plan_no_file_of_earlier_strict_rules_is_superseded(
    settings: list[str], earlier_rules: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, keys = made(demo(settings, "--grading.mode=strict"), saved=False)
    earlier_rules.undo()
    assert pruned(store) == 2
    assert "graded by earlier rules" in capsys.readouterr().err
    assert keys <= set(store.list())


def test_a_new_version_of_the_strict_rules_changes_no_file_of_a_paper_run(
    settings: list[str], earlier_rules: pytest.MonkeyPatch
) -> None:
    first = made(demo(settings))[1]
    earlier_rules.undo()
    assert made(demo(settings))[1] == first


def test_a_plan_that_is_unknown_and_the_last_plan_are_not_forgotten(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, keys = made(demo(settings))
    [plan] = saved_plans(store)
    assert pruned(store, "--forget", "5f0c") == 2
    assert "has no plan 5f0c" in capsys.readouterr().err
    assert pruned(store, "--forget", plan.name) == 2
    assert "no plan of" in capsys.readouterr().err
    assert keys <= set(store.list())


def test_files_of_no_saved_plan_are_refused_and_deleted_on_request(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, keys = made(demo(settings))
    old = "completions/" + "c" * 16 + "/p000000/" + "d" * 16 + ".s00000.g0.parquet"
    store.create(old, b"")
    assert pruned(store) == 2
    assert f"names 1 files, such as {old}: nothing is pruned" in capsys.readouterr().err
    assert store.exists(old)
    assert pruned(store, "--unplanned") == 0
    assert not store.exists(old)
    assert keys <= set(store.list())


def test_a_live_job_blocks_a_prune_and_a_prune_blocks_jobs(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, keys = made(demo(settings))
    with run_lock(store, "job"):
        for options in ([], ["--superseded"]):
            assert main(["prune", "--yes", *options, store.url]) == 2
            assert "a job has been running on it" in capsys.readouterr().err
            assert main(["prune", *options, store.url]) == 0
    with run_lock(store, "prune"), pytest.raises(RuntimeError, match="a prune"), run_lock(store, "job"):
        pass
    assert pruned(store) == 0
    assert keys <= set(store.list())


def test_a_damaged_plan_stops_a_prune(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store, keys = made(demo(settings))
    [plan] = saved_plans(store)
    path = Path(store.url, plan.key)
    whole = path.read_text()
    for damaged in ("", whole[:-9], whole.replace(sorted(plan.recipes)[0], "0" * 16)):
        path.write_text(damaged)
        assert pruned(store) == 2
        assert f"damaged plan {plan.key}" in capsys.readouterr().err
    assert keys <= set(store.list())


def test_the_pipeline_saves_its_plan_of_a_finished_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = make_run(tmp_path)
    pipeline.run(plan, store)
    [saved] = saved_plans(store)
    Path(store.url, saved.key).unlink()
    assert not is_saved(store, plan)
    capsys.readouterr()
    files = set(store.list())
    pipeline.run(plan, store)
    assert "nothing to do" in capsys.readouterr().out
    assert [again.name for again in saved_plans(store)] == [saved.name]
    new = set(store.list()) - files
    assert {key.split("/")[0] for key in new} == {"plans", "present"}
    pipeline.run(plan, store)
    assert set(store.list()) - files == new


def test_a_study_saves_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--problems.train.limit=50", "--problems.test.limit=50"]
    plan, store = study_run.prepare(load(CONFIGS / "study.yaml", [f"--run.store={tmp_path}", *few]))
    saved: list[bool] = []
    monkeypatch.setattr(study_run, "_run", lambda *_: saved.append(is_saved(store, plan)))
    study_run.run(plan, store, "", lambda _: None)
    assert saved == [True]


# --- Runs of earlier versions, without saved plans --------------------------------------------------


def test_the_plan_of_an_older_run_is_made_from_its_config(settings: list[str]) -> None:
    store, keys = made(demo(settings), saved=False)
    old = f"corpus/{'d' * 16}.parquet"
    store.create(old, b"")
    assert pruned(store) == 0
    assert not store.exists(old)
    assert keys <= set(store.list())


def test_an_older_run_whose_data_have_changed_is_refused(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, keys = made(demo(settings), saved=False)
    add_row(tmp_path / "train.jsonl")
    for options in ([], ["--unplanned"]):
        assert pruned(store, *options) == 2
        assert "data, models or config have changed" in capsys.readouterr().err
    assert keys <= set(store.list())


@pytest.mark.parametrize("left", ["study.json", ""])
def test_an_older_study_is_refused(settings: list[str], capsys: pytest.CaptureFixture[str], left: str) -> None:
    store, keys = made(demo(settings), saved=False)
    if left:
        store.replace(left, b"{}")
    else:  # ended before its first answer
        Path(store.url, "summary.json").unlink()
    assert pruned(store) == 2
    assert "it is a study" in capsys.readouterr().err
    assert keys <= set(store.list())


@pytest.mark.parametrize("damaged", [b"", b"[1]", b"run: [", b"run: \xee", b"run: {name: 5}", b"unknown: key"])
def test_an_older_run_whose_config_is_damaged_is_refused_in_one_line(
    settings: list[str], capsys: pytest.CaptureFixture[str], damaged: bytes
) -> None:
    store, keys = made(demo(settings), saved=False)
    Path(store.url, "config.yaml").write_bytes(damaged)
    assert pruned(store) == 2
    error = capsys.readouterr().err
    assert "cannot be made from config.yaml" in error
    assert len(error.splitlines()) == 1
    assert keys <= set(store.list())


def test_a_run_without_plans_and_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path))
    mark_run(store)
    assert pruned(store) == 2
    assert "neither saved plans nor config.yaml" in capsys.readouterr().err


def test_stray_files_are_left_alone(settings: list[str]) -> None:
    store, _ = made(demo(settings))
    strays = {"completions/notes", "models/llama/model.safetensors", "corpus/mine.jsonl", "paths/a/b"}
    for key in strays:
        store.create(key, b"")
    assert pruned(store) == 0
    assert strays <= set(store.list())
