"""Completions after a chat template that ends in `<think>`: one that is cut before `</think>` is a draft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rft_ray import pipeline
from rft_ray.config import Config
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.graded import read_block, read_verdicts, verified_blocks
from rft_ray.corpus.selector import Selector
from rft_ray.corpus.verifier import Verifier
from rft_ray.data.problems import commit_problems
from rft_ray.data.tiny import model_dir
from rft_ray.evaluation.summary import write_summary
from rft_ray.judging.asking import rejects
from rft_ray.plan.jobs import JudgeSampling, VerdictJob
from rft_ray.plan.run_plan import Plan
from rft_ray.records import Completion, Problem, Status, to_table
from rft_ray.report.examples import Gallery, Marker
from rft_ray.report.facts import gather
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, commit_table, mark_run, read_table
from rft_ray.store.shards import Shard
from tests.unit.config.test_identity import work

R1 = "{% for m in messages %}<User>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
SWITCHED = R1.replace("<think>\n", "{{ '<think>\n' if enable_thinking is not false else '<think>\n\n</think>\n\n' }}")
CHAT = {"kind": "chat"}


def model(folder: Path, template: str = R1) -> str:
    """A model whose chat template is `template`."""
    here = shutil.copytree(model_dir("tiny-s"), folder / "r1")
    settings = json.loads((here / "tokenizer_config.json").read_text())
    (here / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return str(here)


def prepared(folder: Path, source: str, **changes: object) -> tuple[Plan, Store]:
    tree = {
        "run": {"name": "mine", "store": str(folder)},
        "problems": {"train": {"source": "tiny:train:20"}, "test": {"source": "tiny:test:20"}, "per_block": 10},
        "models": [{"name": "a", "source": source}],
        "sampling": {"samples_per_problem": 4, "samples_per_block": 4},
        "sft": None,
        "corpus": {"gold": False},
    }
    return pipeline.prepare(Config.model_validate(tree | changes))


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Plan, Store]:
    """The plan of a model that reasons, and a store with completions: see `texts`."""
    plan, store = prepared(tmp_path, model(tmp_path))
    mark_run(store)
    commit_problems(store, plan.train)
    [job] = plan.collected
    for shard in job.sampling.shards():
        rows = [row for problem in problems(plan, shard) for row in texts(problem)]
        counts = {"sampled": len(rows), "tokens": 30 * len(rows)}
        about = {"model": json.dumps(asdict(job.sampling.model)), "settings": json.dumps(asdict(job.sampling.settings))}
        about |= {"counts": json.dumps(counts), "ended_unix": "1.0", "seconds": "1.0"}
        commit_table(store, shard.key(), to_table(rows, Completion), about)
    return plan, store


def problems(plan: Plan, shard: Shard) -> tuple[Problem, ...]:
    return tuple(plan.train.problems[shard.problem_start : shard.problem_stop])


def texts(problem: Problem) -> Iterator[Completion]:
    """A cut draft with the right number, an answer after a draft, an answer without a draft, and a cut answer."""
    right = problem.solution
    drafts = [f"{right}\nWait, is it so?", f"#### 987</think>{right}", right, f"<<3+3=6>>6<think></think>{right}\nSo"]
    for index, (text, reason) in enumerate(zip(drafts, ("length", "stop", "stop", "length"), strict=True)):
        yield Completion(problem.problem_id, index, text, reason, 30, 9)


def statuses(store: Store, job: VerdictJob) -> list[set[Status]]:
    """The verdicts of each sample index."""
    rows = list(read_verdicts(store, job))
    return [{row.status for row in rows if row.sample_index == index} for index in range(4)]


def test_a_draft_that_is_cut_is_truncated_whatever_number_it_has(opened: tuple[Plan, Store]) -> None:
    plan, store = opened
    [job] = plan.collected
    work(Verifier(store, [job]), [job.shards()])
    assert statuses(store, job) == [{Status.TRUNCATED}, {Status.CORRECT}, {Status.CORRECT}, {Status.CORRECT}]
    work(Selector(store, plan.path_jobs), [plan.paths.shards()])
    paths = [row for shard in plan.paths.shards() for row in read_table(store, shard.key())[0].to_pylist()]
    assert paths
    assert not any("Wait" in path["text"] for path in paths)


def test_a_judge_reads_no_draft(opened: tuple[Plan, Store]) -> None:
    plan, store = opened
    [job] = plan.collected
    work(Verifier(store, [job]), [job.shards()])
    sampled = {field: getattr(job.sampling, field) for field in job.sampling.__dataclass_fields__}
    judge = JudgeSampling(**sampled, judged=job, statuses=("truncated",))
    asked = [reject for shard in judge.shards() for reject in rejects(store, judge, shard, {})]
    assert [reject.text for reject in asked] == [""] * plan.train.count


def test_verdicts_of_an_earlier_version_are_read_until_there_are_new_ones(opened: tuple[Plan, Store]) -> None:
    plan, store = opened
    [job] = plan.collected
    earlier = replace(job, opens_reasoning=False)
    assert job.opens_reasoning
    for graded, cut_draft in ((earlier, Status.CORRECT), (job, Status.TRUNCATED)):
        work(Verifier(store, [graded]), [graded.shards()])
        blocks = verified_blocks(store, "strict", [job.sampling.fingerprint]).blocks
        rows = [rows for block in blocks for rows in read_block(store, block, {}).values()]
        assert {row.status for samples in rows for row in samples if row.sample_index == 0} == {cut_draft}
        assert {row.opens_reasoning for samples in rows for row in samples} == {graded.opens_reasoning}


def test_a_new_grading_that_has_stopped_midway_is_not_mixed_with_the_complete_one_before_it(
    opened: tuple[Plan, Store],
) -> None:
    plan, store = opened
    [job] = plan.collected
    earlier = replace(job, opens_reasoning=False)
    work(Verifier(store, [earlier]), [earlier.shards()])
    work(Verifier(store, [job]), [job.shards()[:1]])
    verified = verified_blocks(store, "strict", [job.sampling.fingerprint])
    rows = [rows for block in verified.blocks for samples in read_block(store, block, {}).values() for rows in samples]
    assert len(rows) == plan.train.count * 4
    assert {row.status for row in rows if row.sample_index == 0} == {Status.CORRECT}
    assert not verified.note


def test_a_report_marks_no_equation_of_a_cut_draft(opened: tuple[Plan, Store]) -> None:
    plan, store = opened
    [job] = plan.collected
    work(Verifier(store, [job]), [job.shards()])
    blocks = verified_blocks(store, "strict", [job.sampling.fingerprint]).blocks
    gallery = Gallery(plan.train.problems, 4, None, Marker("strict", ("think",)))
    sampled = read_block(store, blocks[0], {})
    for problem in plan.train.problems[:10]:
        gallery.add(problem, sampled[problem.problem_id])
    drafts = [sample for example in gallery.examples for sample in example.rejected]
    assert drafts
    assert all(sample.marks and not sample.marks.readings and not sample.marks.claims for sample in drafts)


def test_a_report_counts_the_paths_of_the_corpus(opened: tuple[Plan, Store]) -> None:
    plan, store = opened
    work(Verifier(store, plan.collected), [job.shards() for job in plan.collected])
    work(Selector(store, plan.path_jobs), [plan.paths.shards()])
    build_corpus(plan.corpus, store, plan.train, plan.config.prompt.template)
    store.replace("config.yaml", plan.config.to_yaml().encode())
    summary = write_summary(store, plan, Stopwatch(), finished=False)
    paths = gather(store).paths
    assert paths
    assert summary.corpus
    assert paths.curves[""][-1] == (4, pytest.approx(summary.corpus.paths / plan.train.count))


def test_the_plan_knows_whose_chat_template_opens_reasoning(tmp_path: Path) -> None:
    source, plain = model(tmp_path, SWITCHED), "tiny:tiny-s"

    def openers(*models: dict[str, object], **changes: object) -> list[str]:
        named = [{"name": name, **entry} for name, entry in zip("ab", models, strict=False)]
        return sorted(prepared(tmp_path, source, models=named, **changes)[0].openers)

    assert openers({"source": source}) == ["a"]
    assert openers({"source": source, "prompt": CHAT | {"chat_kwargs": {"enable_thinking": False}}}) == []
    assert openers({"source": source}, prompt={"template": "{query}<think>\n"}) == []  # it shows that by itself
    assert openers({"source": source}, corpus={"reasoning_tags": ["plan"]}) == []
    assert openers({"source": plain}, {"source": source}) == ["b"]
    chat = {"source": source, "prompt": CHAT, "sample_from": "openai:teacher"}
    assert openers(chat) == ["a"]  # answers of the trained model; what is behind an endpoint writes the opening tag


def test_what_samples_and_what_is_trained_have_chat_templates_of_their_own(tmp_path: Path) -> None:
    source, other = model(tmp_path), model(tmp_path / "other", R1.replace("<think>", ""))
    teacher = {"name": "a", "source": other, "prompt": CHAT, "sample_from": source}
    plan, _ = prepared(tmp_path, source, models=[teacher])
    assert [job.opens_reasoning for job in plan.collected] == [True]
    assert {job.opens_reasoning for job in plan.evaluation_verdicts("base", "rft")} == {False}
    student, _ = prepared(tmp_path, source, models=[teacher | {"source": source, "sample_from": other}])
    assert [job.opens_reasoning for job in student.collected] == [False]
    assert {job.opens_reasoning for job in student.evaluation_verdicts("base", "rft")} == {True}


def test_verdicts_alone_have_another_name_and_a_plan_without_a_shard_keeps_it(tmp_path: Path) -> None:
    plan, _ = prepared(tmp_path, model(tmp_path))
    [job] = plan.collected
    closed = replace(job, opens_reasoning=False)
    assert closed.sampling.fingerprint == job.sampling.fingerprint
    assert closed.fingerprint != job.fingerprint
    stems = [shard.stem for shard in job.sampling.shards()][:1]
    assert [left.fingerprint for left in plan.past(stems).collected] == [job.fingerprint]
