"""Completion shards -> verdict shards, graded by stateless verifier actors on Ray.

There is one verdict shard per (model, problem block, sample block). The verifier and the grading mode are part of its
fingerprint: other rules grade the committed completions again, without sampling.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rft_ray.config.errors import RunError
from rft_ray.corpus.graded import read_completions
from rft_ray.data.problems import read_problems
from rft_ray.grading.reasoning import Reasoning
from rft_ray.grading.verifiers import Verifier as Grader
from rft_ray.grading.verifiers import open_verifier
from rft_ray.plan.jobs import VerdictJob
from rft_ray.records import SKIPPED, CheckedCompletion, Completion, GradedCompletion, Problem, Status, to_table
from rft_ray.runtime.actor_pool import ShardReceipt, run_missing
from rft_ray.runtime.metrics import VerifierMetrics
from rft_ray.store import Store, commit_table
from rft_ray.store.shards import Shard, key_to_write
from rft_ray.store.tables import noted


class CanaryError(RunError, RuntimeError):
    """A verifier rejected a solution that is known to be correct."""


def verify(jobs: Sequence[VerdictJob], store: Store, actors: int) -> list[ShardReceipt]:
    """Grade the missing shards of these jobs. Returns one receipt per shard made. Raises StageError."""
    return run_missing("verify", Verifier, jobs, store=store, actors=actors)


class Verifier:
    """Grades one shard of completions; keeps nothing of it between calls."""

    def __init__(self, store: Store, jobs: Sequence[VerdictJob]) -> None:
        self._store = store
        self._jobs = {job.fingerprint: job for job in jobs}
        self._graders: dict[str, Grader] = {}
        self._metrics = VerifierMetrics()

    def close(self) -> None:
        """End the processes of its verifiers."""
        for grader in self._graders.values():
            grader.close()

    def _grader(self, job: VerdictJob) -> Grader:
        """The verifier of a job. Equations are checked to collect paths, but not to evaluate, as in the paper."""
        name = f"{job.mode} {job.purpose} {job.rules.unread}" if job.rules.is_gsm8k else str(job.rules)
        if name not in self._graders:
            self._graders[name] = open_verifier(job.rules, job.mode, collecting=job.purpose == "collect")
        return self._graders[name]

    def __call__(self, shard: Shard) -> ShardReceipt:
        key = key_to_write(self._store, shard)
        if key is None:
            return ShardReceipt(shard.stem)
        job = self._jobs[shard.fingerprint]
        problems = {p.problem_id: p for p in read_problems(self._store, shard.problems_fingerprint)}
        samples, content = read_completions(self._store, job.sampling, shard)
        grader = self._grader(job)
        check_canaries(grader, tuple(problems.values())[shard.problem_start : shard.problem_stop])
        reasoning = job.reasoning
        kind = CheckedCompletion if job.mode == "strict" and job.rules.is_gsm8k else GradedCompletion
        rows = [
            grade_row(row, problems[row.problem_id], grader, reasoning, kind)
            for row in samples
            if row.finish_reason != SKIPPED
        ]
        counts = dict(Counter(str(row.status) for row in rows))
        metadata = {"mode": job.mode, "purpose": job.purpose, "counts": json.dumps(counts), "completions": content}
        if partly_read := sum(row.is_partly_read for row in rows):
            metadata["partly_read"] = str(partly_read)
        if job.opens_reasoning:
            metadata["opens_reasoning"] = "true"
        if not job.rules.is_gsm8k:
            metadata["verifier"] = json.dumps(job.rules.identity())
        metadata |= noted({replace(shard, stage="completions", fingerprint=job.sampling.fingerprint).stem: content})
        receipt = commit_table(self._store, key, to_table(rows, kind), metadata)
        if receipt.committed_here:
            self._metrics.graded(counts)
        return ShardReceipt(shard.stem, receipt.rows)


def check_canaries(grader: Grader, problems: Sequence[Problem]) -> None:
    """Grade completions that are known to be right. Raises CanaryError when one is not graded as correct.

    Without this check, a grader broken by a worker's environment could reject every sample unnoticed. It runs in the
    process that grades samples, before each shard. `problems`: of the shard; their gold may be such a completion.
    """
    for problem, text in grader.known_right(problems):
        verdict = grader.grade(problem, text, truncated=False)
        if verdict.status is not Status.CORRECT:
            raise CanaryError(
                f"the verifier grades a solution known to be right as {verdict.status} ({verdict.detail}), so nothing "
                f"was graded: check the worker's environment{_gold_of(problem)}. The solution: {text[:500]!r}"
            )


def _gold_of(problem: Problem) -> str:
    return f", and the gold of the problem {problem.question[:80]!r}" if problem.question else ""


def grade_row(
    row: Completion,
    problem: Problem,
    grader: Grader,
    reasoning: Reasoning,
    kind: type[GradedCompletion] = GradedCompletion,
) -> GradedCompletion:
    """Grade one completion, without its reasoning. `kind`: of its row; strict verdicts say how equations were read."""
    cut = row.finish_reason == "length"
    verdict = grader.grade(problem, reasoning.removed(row.text, cut=cut), truncated=cut)
    graded = (row.problem_id, row.sample_index, verdict.status, verdict.answer, verdict.detail)
    return kind(*graded, verdict.equations) if issubclass(kind, CheckedCompletion) else kind(*graded)
