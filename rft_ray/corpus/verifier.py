"""Completion shards -> verdict shards, graded by stateless verifier actors on Ray.

There is one verdict shard per (model, problem block, sample block), and the grading mode is part of its fingerprint: a
new mode grades the committed completions again, without sampling.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rft_ray import grading
from rft_ray.config.errors import RunError
from rft_ray.corpus.graded import read_completions
from rft_ray.data.problems import read_problems
from rft_ray.plan.jobs import VerdictJob
from rft_ray.records import SKIPPED, Completion, GradedCompletion, Problem, Status, to_table
from rft_ray.runtime.actor_pool import ShardReceipt, run_missing
from rft_ray.runtime.metrics import VerifierMetrics
from rft_ray.store import Store, commit_table
from rft_ray.store.shards import Shard, key_to_write
from rft_ray.store.tables import noted

CANARIES = (
    Problem("canary-integers", "", "3*4 = <<3*4=12>>12 pens.\n12+5 = <<12+5=17>>17\n#### 17", "17"),
    Problem("canary-decimals", "", "Half of 5 is 5/2 = <<5/2=2.5>>2.5\n2.5*4 = <<2.5*4=10>>10\n#### 10", "10"),
    Problem("canary-thousands", "", "1200*2 = <<1200*2=2400>>2400 in all.\n#### 2,400", "2400"),
)
"""Correct solutions that every verifier grades before each shard."""


class CanaryError(RunError, RuntimeError):
    """A verifier rejected a solution that is known to be correct."""


def verify(jobs: Sequence[VerdictJob], store: Store, actors: int) -> list[ShardReceipt]:
    """Grade the missing shards of these jobs. Returns one receipt per shard made. Raises StageError."""
    return run_missing("verify", Verifier, jobs, store=store, actors=actors)


class Verifier:
    """Grades one shard of completions; keeps no state between calls."""

    def __init__(self, store: Store, jobs: Sequence[VerdictJob]) -> None:
        self._store = store
        self._jobs = {job.fingerprint: job for job in jobs}
        self._metrics = VerifierMetrics()

    def __call__(self, shard: Shard) -> ShardReceipt:
        key = key_to_write(self._store, shard)
        if key is None:
            return ShardReceipt(shard.stem)
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
        return ShardReceipt(shard.stem, receipt.rows)


def check_canaries(job: VerdictJob) -> None:
    """Grade CANARIES in the process that grades samples. Raises CanaryError when one is not graded as correct.

    Without this check, a grader broken by a worker's environment could reject every sample unnoticed.
    """
    for problem in CANARIES:
        known_good = Completion(problem.problem_id, 0, problem.solution, "stop", 0, 0)
        row = grade_row(known_good, problem, job)
        if row.status is not Status.CORRECT:
            raise CanaryError(
                f"the verifier grades a solution known to be right as {row.status} ({row.detail}), so nothing was "
                f"graded: check the worker's environment. The solution: {problem.solution!r}"
            )


def grade_row(row: Completion, problem: Problem, job: VerdictJob) -> GradedCompletion:
    """Grade one completion. Equations are checked to collect paths, but not to evaluate, as in the paper."""
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
