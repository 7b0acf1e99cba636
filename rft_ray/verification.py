"""Completion -> verdict -> distinct reasoning paths: Ray Data over stateless verifier actors.

Verdicts are a stage per (model, problem block, sample block): a new grading mode re-reads old completions. Path
selection is a stage per problem block over all samples of all models in model order, because which
representative is kept depends on all of them (paper.md, "Representative" and "Union").
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from rft_ray import grading, paths, stages
from rft_ray.data.problems import read_problems
from rft_ray.metrics import VerifierMetrics
from rft_ray.paths.normal_forms import normalise
from rft_ray.plan.jobs import PathJob, SamplingJob, VerdictJob
from rft_ray.records import Completion, GradedCompletion, Problem, ReasoningPath, Status, from_table, to_table
from rft_ray.sampling import SKIPPED
from rft_ray.store import Store, StoreError, commit_table, open_store, read_table
from rft_ray.store.parquet import content_hash
from rft_ray.store.shards import Shard, committed_key, key_to_write, missing_shards
from rft_ray.store.tables import identity, noted

CANARIES = (
    Problem("canary-integers", "", "3*4 = <<3*4=12>>12 pens.\n12+5 = <<12+5=17>>17\n#### 17", "17"),
    Problem("canary-decimals", "", "Half of 5 is 5/2 = <<5/2=2.5>>2.5\n2.5*4 = <<2.5*4=10>>10\n#### 10", "10"),
    Problem("canary-thousands", "", "1200*2 = <<1200*2=2400>>2400 in all.\n#### 2,400", "2400"),
)
"""Solutions known to be right, which every verifier grades before it grades a shard."""


class CanaryError(RuntimeError):
    """A verifier that misjudges a solution known to be right."""


VERIFIER_ENV = {"OMP_NUM_THREADS": "1"}


def verify(jobs: Sequence[VerdictJob], store: Store, actors: int) -> list[dict[str, Any]]:
    """Grade what is missing of these jobs. Returns one receipt per shard made. Raises StageError."""
    shards = missing_shards(store, [shard for job in jobs for shard in job.shards()])
    return _run("verify", partial(Verifier, store.url, tuple(jobs)), shards, actors, "completions")


def select_paths(jobs: Sequence[PathJob], store: Store, actors: int) -> list[dict[str, Any]]:
    """Select the paths of these jobs in the problem blocks that miss them. One receipt per job and block made."""
    shards = missing_shards(store, [shard for job in jobs for shard in job.shards()])
    return _run("select paths", partial(Selector, store.url, tuple(jobs)), shards, actors, "paths")


def _run(label: str, make: Any, shards: list[Shard], actors: int, unit: str) -> list[dict[str, Any]]:
    if not shards:
        return []
    progress = stages.Progress(label, len(shards), "shards")
    receipts = []
    for receipt in stages.run_actors(label, make, shards, stages.Pool(1, actors, env=VERIFIER_ENV)):
        receipts.append(receipt)
        progress.advance(1)
    return receipts


class Verifier:
    """Grades one shard of completions; keeps nothing between calls."""

    def __init__(self, store_url: str, jobs: Sequence[VerdictJob]) -> None:
        self._store = open_store(store_url)
        self._jobs = {job.fingerprint: job for job in jobs}
        self._metrics = VerifierMetrics()

    def __call__(self, shard: Shard) -> dict[str, Any]:
        key = key_to_write(self._store, shard)
        if key is None:
            return {"key": shard.stem, "rows": 0, "committed_here": False}
        job = self._jobs[shard.fingerprint]
        problems = {p.problem_id: p for p in read_problems(self._store, shard.problems_fingerprint)}
        samples, content = read_completions(self._store, job.sampling, shard)
        check_canaries(job)
        rows = [grade_row(row, problems[row.problem_id], job) for row in samples if row.finish_reason != SKIPPED]
        counts = dict(Counter(str(row.status) for row in rows))
        metadata = {"mode": job.mode, "purpose": job.purpose, "counts": json.dumps(counts), "completions": content}
        metadata |= noted({replace(shard, stage="completions", fingerprint=job.sampling.fingerprint).stem: content})
        receipt = commit_table(self._store, key, to_table(rows, GradedCompletion), metadata)
        if receipt.committed_here:
            self._metrics.graded(counts)
        return stages.receipt_row(receipt, counts=counts)


def check_canaries(job: VerdictJob) -> None:
    """Grade solutions that are known to be right, in the process that grades samples. Raises CanaryError.

    A grader that a worker's environment breaks would otherwise reject everything, unnoticed.
    """
    for problem in CANARIES:
        known_good = Completion(problem.problem_id, 0, problem.solution, "stop", 0, 0)
        row = grade_row(known_good, problem, job)
        if row.status is not Status.CORRECT:
            raise CanaryError(
                f"the verifier says {row.status} ({row.detail}) of a solution known to be right; nothing was graded: "
                f"{problem.solution!r}"
            )


def grade_row(row: Completion, problem: Problem, job: VerdictJob) -> GradedCompletion:
    """The verdict on one completion, as a row. In evaluation only the answer counts, as in the paper."""
    collecting = job.purpose == "collect"
    verdict = grading.grade(
        row.text,
        problem.answer,
        job.mode,
        truncated=row.finish_reason == "length",
        tolerance=grading.COLLECTING if collecting else grading.EVALUATING,
        check_equations=collecting,
    )
    return GradedCompletion(row.problem_id, row.sample_index, verdict.status, verdict.answer, verdict.detail)


def read_completions(store: Store, job: SamplingJob, shard: Shard) -> tuple[list[Completion], str]:
    """The committed completions that a shard of a later stage stands on, and the hash of their content.

    Raises StoreError where they are missing.
    """
    table, _ = read_table(store, _committed(store, replace(shard, stage="completions", fingerprint=job.fingerprint)))
    return from_table(table, Completion), content_hash(table)


def read_graded(
    store: Store, job: VerdictJob, shard: Shard, made_from: dict[str, str] | None = None
) -> list[tuple[Completion, GradedCompletion]]:
    """Each sampled completion of a verdict shard with its verdict, in order; notes in `made_from` what was read.

    Raises StoreError where one is missing, or where the verdicts are of other completions than those that are there
    now: an engine never repeats itself, so a shard of completions that was made anew needs new verdicts.
    """
    key = _committed(store, shard)
    table, metadata = read_table(store, key)
    samples, content = read_completions(store, job.sampling, shard)
    if metadata["completions"] != content:
        raise StoreError(
            f"{store.url}/{key}: verdicts on other completions than those there are now: run "
            f"`python -m rft_ray.store verify --repair {store.url}`, then the same command again"
        )
    if made_from is not None:
        made_from[shard.stem] = identity(table)
        made_from[replace(shard, stage="completions", fingerprint=job.sampling.fingerprint).stem] = content
    sampled = [row for row in samples if row.finish_reason != SKIPPED]
    return list(zip(sampled, from_table(table, GradedCompletion), strict=True))


def read_verdicts(
    store: Store, job: VerdictJob, problem_block: int | None = None, made_from: dict[str, str] | None = None
) -> list[GradedCompletion]:
    """All committed verdicts of a job, or those of one problem block, in shard order. Raises StoreError."""
    shards = [shard for shard in job.shards() if problem_block in (None, shard.problem_block)]
    return [verdict for shard in shards for _, verdict in read_graded(store, job, shard, made_from)]


def _committed(store: Store, shard: Shard) -> str:
    key = committed_key(store, shard)
    if key is None:
        raise StoreError(f"{store.url}/{shard.stem}: not committed yet; run the stage {shard.stage!r} first")
    return key


class Candidate(NamedTuple):
    """A correct sample: what path selection must know of it.

    Example: Candidate("tiny-m", 17, "3+5 = <<3+5=8>>8\\n#### 8")
    """

    model: str
    sample_index: int
    text: str


class Selector:
    """Selects the correct paths of one job in one problem block; keeps nothing between calls."""

    def __init__(self, store_url: str, jobs: Sequence[PathJob]) -> None:
        self._store = open_store(store_url)
        self._jobs = {job.fingerprint: job for job in jobs}
        self._metrics = VerifierMetrics()

    def __call__(self, shard: Shard) -> dict[str, Any]:
        key = key_to_write(self._store, shard)
        if key is None:
            return {"key": shard.stem, "rows": 0, "committed_here": False}
        job = self._jobs[shard.fingerprint]
        problems = read_problems(self._store, shard.problems_fingerprint)[shard.problem_start : shard.problem_stop]
        made_from: dict[str, str] = {}
        correct = self._correct(job, shard.problem_block, made_from)
        kept: list[ReasoningPath] = []
        found: Counter[str] = Counter()
        forms: Counter[str] = Counter()
        for problem in problems:
            candidates = correct.get(problem.problem_id, [])
            kept += distinct_paths(problem, candidates, job)
            found.update(found_by(candidates, job))
            forms.update(paths.distinct_counts([one.text for one in candidates], job.mode))
        counts = {
            "paths": dict(Counter(path.model for path in kept)),
            "found_by": dict(found),
            "distinct_under": dict(forms),
        }
        metadata = {"counts": json.dumps(counts)} | noted(made_from)
        receipt = commit_table(self._store, key, to_table(kept, ReasoningPath), metadata)
        if receipt.committed_here:
            self._metrics.selected(len(kept))
        return stages.receipt_row(receipt, **counts)

    def _correct(self, job: PathJob, problem_block: int, made_from: dict[str, str]) -> dict[str, list[Candidate]]:
        """problem_id -> every correct sample: models in order, then samples in order.

        A text that many samples share is held once: memory follows the different texts, not models times k.
        """
        pooled: dict[str, list[Candidate]] = {}
        texts: dict[str, str] = {}
        for verdicts in job.verdicts:
            model = verdicts.sampling.model.name
            for shard in (s for s in verdicts.shards() if s.problem_block == problem_block):
                for row, verdict in read_graded(self._store, verdicts, shard, made_from):
                    if verdict.status is Status.CORRECT and (job.k is None or row.sample_index < job.k):
                        text = texts.setdefault(row.text, row.text)
                        pooled.setdefault(row.problem_id, []).append(Candidate(model, row.sample_index, text))
        return pooled


def distinct_paths(problem: Problem, candidates: Sequence[Candidate], job: PathJob) -> list[ReasoningPath]:
    """The representatives of one problem's correct samples, in the order of the reference's output list.

    Without deduplication: every correct sample, in pooled order. Drawn: as many of them as there are equation lists.
    """
    texts = [one.text for one in candidates]
    lists = [paths.equation_list(text, job.mode) for text in texts]
    shared = Counter(normalise(equations, job.normal_form) for equations in lists)
    chosen: Sequence[int] = range(len(texts))
    if job.dedup == "equations":
        chosen = paths.select_distinct(texts, job.mode, job.normal_form)
    elif job.dedup == "random":
        chosen = sorted(random.Random(problem.problem_id).sample(chosen, len(shared)))
    return [
        ReasoningPath(
            problem_id=problem.problem_id,
            question=problem.question,
            text=texts[i],
            equations=lists[i],
            model=candidates[i].model,
            sample_index=candidates[i].sample_index,
            shared_by=shared[normalise(lists[i], job.normal_form)],
            gold=False,
        )
        for i in chosen
    ]


def found_by(candidates: Sequence[Candidate], job: PathJob) -> Counter[str]:
    """How many distinct paths of one problem were found by just these models: `tiny-m`, `tiny-m+tiny-s`, …

    Everything about how models complement each other follows from these counts (`ledger.complementarity`).
    """
    finders: dict[tuple[str, ...], set[str]] = {}
    for one in candidates:
        form = normalise(paths.equation_list(one.text, job.mode), job.normal_form)
        finders.setdefault(form, set()).add(one.model)
    return Counter("+".join(sorted(models)) for models in finders.values())
