"""Rejected completions -> questions to the judge, as the requests of one shard of its answers.

A shard of the judge's answers belongs to a verdict shard, and has one answer for each completion in it that the
verifier rejected with one of the configured verdicts, with the completion's problem and sample index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rft_ray.corpus.graded import read_graded
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.grading import judging
from rft_ray.plan.jobs import JudgeSampling, SamplingJob
from rft_ray.records import Opinion, Problem, Status
from rft_ray.sampling.engine import Request
from rft_ray.sampling.sampler import Asked
from rft_ray.store import Store
from rft_ray.store.shards import Shard


@dataclass(frozen=True, slots=True)
class Reject:
    """A completion that the judge is asked about.

    Example: Reject(problem, 17, "3+2 makes 5", Status.NO_ANSWER, "5f0c0a71b2e4")
    """

    problem: Problem
    sample_index: int
    text: str
    """Without its reasoning."""
    status: Status
    marker: str
    """Of its question (`grading/judging.py`)."""


def rejects(store: Store, job: JudgeSampling, shard: Shard, made_from: dict[str, str]) -> Iterator[Reject]:
    """The completions of a shard that the judge is asked about, in order; adds the tables they are from to `made_from`.

    Raises StoreError when completions or verdicts are missing, or do not belong together.
    """
    problems = {problem.problem_id: problem for problem in read_problems(store, shard.problems_fingerprint)}
    verdicts = replace(shard, stage="verdicts", fingerprint=job.judged.fingerprint)
    reasoning = job.judged.reasoning
    for row, verdict in read_graded(store, job.judged, verdicts, made_from):
        if verdict.status in job.statuses:
            problem, text = problems[row.problem_id], reasoning.removed(row.text, cut=row.finish_reason == "length")
            marker = judging.marker_of(problem, text)
            yield Reject(problem, row.sample_index, text, verdict.status, marker)


def ask_about_rejects(store: Store, job: SamplingJob, shard: Shard) -> Asked:
    """One request for each completion of the shard that the judge is asked about. `job`: a JudgeSampling."""
    assert isinstance(job, JudgeSampling)
    made_from: dict[str, str] = {}
    requests = []
    for reject in rejects(store, job, shard, made_from):
        text = judging.question(reject.problem, reject.text, reject.marker)
        prompt = prompts.build(job.settings.prompt, text)
        requests.append(Request(_scripted(reject), prompt, reject.sample_index, 1))
    return Asked(requests, made_from)


def _scripted(reject: Reject) -> Problem:
    """The problem of a request. Its solution is an opinion, right for about half of the questions, which the scripted
    engine answers; other engines see the prompt alone.
    """
    opinion = Opinion.RIGHT if int(reject.marker, 16) % 2 else Opinion.WRONG
    solution = f"A scripted opinion.\n{judging.verdict_line(reject.marker, opinion)}"
    return Problem(reject.problem.problem_id, reject.problem.question, solution, "")
