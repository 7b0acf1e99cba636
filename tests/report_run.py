"""Makes a run's store like one of the pipeline, without Ray: shards, corpus, evaluations, manifests, summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from rft_ray.config import Config
from rft_ray.config.hardware import Cost
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import Candidate, distinct_paths, found_by
from rft_ray.corpus.verifier import grade_row
from rft_ray.data import problems
from rft_ray.evaluation.stage import evaluate
from rft_ray.evaluation.summary import write_summary
from rft_ray.grading.verifiers import open_verifier
from rft_ray.plan.jobs import TrainingJob, VerdictJob
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.records import Completion, GradedCompletion, Problem, ReasoningPath, Status, to_table
from rft_ray.runtime.progress import Stopwatch
from rft_ray.store import Store, commit_table, mark_run, open_store
from rft_ray.store.models.committed import commit_model
from rft_ray.store.parquet import content_hash
from rft_ray.store.shards import Shard

K, TRAIN, TEST = 8, 60, 20
Write = Callable[[Problem, str, int], str]
"""(problem, model, sample index) -> the text that the model samples."""


def gold_or_wrong(problem: Problem, model: str, index: int) -> str:
    """Right and wrong texts in turn, except for the easiest problems; each model has a right path of its own."""
    if problem.problem_id < "2":
        return problem.solution
    turn = (sum(problem.problem_id.encode()) + index * (3 if model == "a" else 5)) % 7
    if turn < 2:
        return problem.solution
    if turn == 2:
        steps, number = problem.solution.partition("####")[0], ord(model)
        return f"{steps}1+{number}=<<1+{number}={1 + number}>>\n#### {problem.answer}"
    if turn == 3:
        return f"2+2 = <<2+2=5>>5\n#### {problem.answer}"
    return "no answer at all" if turn == 4 else f"#### {int(float(problem.answer)) + 1}"


def config(folder: Path, models: Sequence[str] = ("a", "b")) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "reported", "store": str(folder)},
            "problems": {
                "train": {"source": f"tiny:train:{TRAIN}"},
                "test": {"source": f"tiny:test:{TEST}"},
                "per_block": 20,
            },
            "models": [{"name": name, "source": f"tiny:{name}"} for name in models],
            "sampling": {"samples_per_problem": K, "samples_per_block": 4},
            "evaluation": {"samples_per_problem": 4, "samples_per_block": 4},
        }
    )


def make_run(
    folder: Path, write: Write = gold_or_wrong, models: Sequence[str] = ("a", "b"), *, usd_per_gpu_hour: float = 0.0
) -> tuple[Plan, Store]:
    """A finished run whose models sample the texts of `write`. `usd_per_gpu_hour`: on GPUs at this price."""
    gpu = usd_per_gpu_hour > 0
    settings = config(folder, models)
    if gpu:
        settings = settings.model_copy(update={"cost": Cost(usd_per_gpu_hour=usd_per_gpu_hour)})
    train, test = (problems.prepare(part, 0, 20) for part in (settings.problems.train, settings.problems.test))
    plan = make_plan(settings, train, test, {name: name * 16 for name in models})
    store = open_store(f"{folder}/reported")
    mark_run(store)
    store.replace("config.yaml", settings.to_yaml().encode())
    problems.commit_problems(store, train)
    problems.commit_problems(store, test)
    watch = Stopwatch()
    with watch.stage("sft"):
        for job in (*plan.sft, *plan.rft):
            _commit_model(store, job, folder, gpu=gpu)
    with watch.stage("sample"):
        for verdicts in [*plan.collected, *plan.evaluation_verdicts("sft", "rft")]:
            for shard in verdicts.shards():
                _commit_samples(store, verdicts, shard, write, gpu=gpu)
    with watch.stage("corpus"):
        for shard in plan.paths.shards():
            _commit_paths(store, plan, shard, write)
        build_corpus(plan.corpus, store, train, settings.prompt.template)
    for evaluation in plan.evaluations:
        evaluate(evaluation, store)
    write_summary(store, plan, watch, finished=True)
    return plan, store


def _completions(shard: Shard, job: VerdictJob, store: Store, write: Write) -> list[Completion]:
    sampling, name = job.sampling, job.sampling.model.name
    start = (shard.sample_block or 0) * sampling.settings.samples_per_block
    block = problems.read_problems(store, shard.problems_fingerprint)[shard.problem_start : shard.problem_stop]
    better = sampling.model.stage == "rft"  # RFT answers right where the problem's number says so
    rows = []
    for problem in block:
        for index in range(start, start + sampling.settings.samples_per_block):
            text = problem.solution if better and problem.problem_id < "a" else write(problem, name, index)
            stored = text.encode("utf-8", "replace").decode()  # as sampling stores it
            rows.append(Completion(problem.problem_id, index, stored, "stop", 30, min(len(stored) // 3, 256)))
    return rows


def _commit_samples(store: Store, job: VerdictJob, shard: Shard, write: Write, *, gpu: bool) -> None:
    by_id = {problem.problem_id: problem for problem in problems.read_problems(store, shard.problems_fingerprint)}
    rows = _completions(shard, job, store, write)
    table = to_table(rows, Completion)
    counts = {"sampled": len(rows), "skipped": 0, "tokens": sum(row.completion_tokens for row in rows)}
    times = {"seconds": "1.0", "ended_unix": "1000.0", "counts": json.dumps(counts)}
    origin = {"model": json.dumps(asdict(job.sampling.model)), "settings": json.dumps(asdict(job.sampling.settings))}
    if gpu:
        origin |= {"engine": json.dumps({"incarnation": "e"}), "environment": json.dumps({"gpus": "2", "card": "H200"})}
    place = Shard(**{**asdict(shard), "stage": "completions", "fingerprint": job.sampling.fingerprint})
    commit_table(store, place.key(), table, {**times, **origin})
    grader = open_verifier(job.rules, job.mode, collecting=job.purpose == "collect")
    graded = [grade_row(row, by_id[row.problem_id], grader, job.reasoning) for row in rows]
    statuses = [str(row.status) for row in graded]
    about = {
        "mode": job.mode,
        "purpose": job.purpose,
        "counts": json.dumps({status: statuses.count(status) for status in set(statuses)}),
        "completions": content_hash(table),
    }
    commit_table(store, shard.key(), to_table(graded, GradedCompletion), about)


def _commit_paths(store: Store, plan: Plan, shard: Shard, write: Write) -> None:
    kept: list[ReasoningPath] = []
    by_models: dict[str, int] = {}
    for problem in problems.read_problems(store, shard.problems_fingerprint)[shard.problem_start : shard.problem_stop]:
        candidates = []
        for job in plan.collected:
            grader = open_verifier(job.rules, job.mode)
            for index in range(K):
                text = write(problem, job.sampling.model.name, index).encode("utf-8", "replace").decode()
                row = Completion(problem.problem_id, index, text, "stop", 30, 0)
                if grade_row(row, problem, grader, job.reasoning).status is Status.CORRECT:
                    candidates.append(Candidate(job.sampling.model.name, index, text))
        kept += distinct_paths(problem, candidates, plan.paths)
        for group, count in found_by(candidates, plan.paths).items():
            by_models[group] = by_models.get(group, 0) + count
    counts = {"paths": {}, "found_by": by_models, "distinct_under": {}}
    commit_table(store, shard.key(), to_table(kept, ReasoningPath), {"counts": json.dumps(counts)})


def _commit_model(store: Store, job: TrainingJob, folder: Path, *, gpu: bool) -> None:
    files = folder / "files"
    files.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (files / name).write_text("{}")
    save_file({"weight": np.zeros(1, np.float32)}, files / "model.safetensors")
    training = {
        "examples": 60,
        "skipped_too_long": 0,
        "steps": 30,
        "tokens": 9000,
        "seconds": 0.001,
        "tokens_per_s": 900.0,
        "final_loss": 0.1,
        "resumed_at_step": 0,
        "checkpoints_passed_over": 0,
        "attempt": "0" * 12,
        "curve": [[step, 1 / step, 1e-3] for step in range(1, 31)],
        "versions": {"torch": "2.13.0"},
    }
    if gpu:
        training |= {"device": "gpu", "card": "H200", "parameters": 10**9, "settings": {"workers": 8}, "seconds": 900.0}
    metadata = {"model": job.model, "stage": job.stage, "base": job.base, "data": job.data_key, "seed": job.seed}
    metadata |= {"recipe": job.recipe.model_dump(mode="json"), "template": job.template, "training": training}
    commit_model(store, job.fingerprint, files, metadata)
