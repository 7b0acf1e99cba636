"""Verdicts on test problems -> committed per-problem records -> maj1@1, maj@k and pass@k with 95 % intervals.

Sampling and grading of test problems are the ordinary stages over another problem set; this module only counts. An
answer is right when it equals gold: verdicts made to evaluate do not check equations, as in the paper. maj@k is a vote
on canonical answers. Only right and wrong samples vote; truncated, answerless and undecided samples do not. pass@k is
the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from rft_ray.corpus.graded import read_verdicts
from rft_ray.data.problems import read_problems
from rft_ray.evaluation.metrics import EvaluationRecord, Metric, majority, metrics
from rft_ray.plan.jobs import EvaluationJob
from rft_ray.records import GradedCompletion, Status
from rft_ray.store import Store, commit_table, present, read_table
from rft_ray.store.tables import noted

RECORDS = pa.schema(
    [
        ("problem_id", pa.string()),
        ("greedy_status", pa.string()),
        ("greedy_answer", pa.string()),
        ("greedy_right", pa.bool_()),
        ("majority_answer", pa.string()),
        ("majority_right", pa.bool_()),
        ("samples_right", pa.int64()),
        ("samples", pa.int64()),
    ]
)
"""The columns of a committed table of `EvaluationRecord`."""


def evaluate(job: EvaluationJob, store: Store) -> dict[str, Metric]:
    """Metrics of one model from its committed verdicts. Commits the per-problem records unless they are committed.

    Raises StoreError when verdicts are missing.
    """
    if not present(store, job.key):
        made_from: dict[str, str] = {}
        greedy = read_verdicts(store, job.greedy, made_from=made_from)
        sampled = read_verdicts(store, job.samples, made_from=made_from) if job.samples else ()
        sampling = job.greedy.sampling
        problems = read_problems(store, sampling.problems_fingerprint)[: sampling.problems]
        records = problem_records([problem.problem_id for problem in problems], greedy, sampled, job.k)
        metadata = {"model": job.model.name, "setting": job.setting, "k": str(job.k), "n": str(len(records))}
        table = pa.Table.from_pylist([asdict(record) for record in records], schema=RECORDS)
        commit_table(store, job.key, table, metadata | noted(made_from))
    return metrics(read_records(job, store), job.k)


def read_records(job: EvaluationJob, store: Store) -> list[EvaluationRecord]:
    """The per-problem records of a committed evaluation."""
    rows = read_table(store, job.key)[0].to_pylist()
    return [EvaluationRecord(**{**row, "greedy_status": Status(row["greedy_status"])}) for row in rows]


def problem_records(
    problems: Sequence[str], greedy: Iterable[GradedCompletion], sampled: Iterable[GradedCompletion], k: int
) -> list[EvaluationRecord]:
    """One record per problem id.

    A skipped problem, whose prompt exceeds the context, counts as wrong in the greedy sample and in all k samples. Of
    the samples only counts are held in memory.
    """
    answers = {row.problem_id: row for row in greedy}
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    for row in sampled:
        tallies[row.problem_id].add(row)
    skipped = [GradedCompletion(problem, 0, Status.NO_ANSWER, None, "skipped") for problem in problems]
    return [_record(answers.get(row.problem_id, row), tallies[row.problem_id], k) for row in skipped]


@dataclass(slots=True)
class _Tally:
    """The samples of one problem."""

    votes: Counter[tuple[str | None, bool]] = field(default_factory=Counter)
    """(answer, is right) -> samples that vote for it."""
    right: int = 0

    def add(self, row: GradedCompletion) -> None:
        self.right += row.status is Status.CORRECT
        if row.answer is not None and row.status in (Status.CORRECT, Status.WRONG_ANSWER):
            self.votes[row.answer, row.status is Status.CORRECT] += 1


def _record(greedy: GradedCompletion, samples: _Tally, k: int) -> EvaluationRecord:
    winner = majority(samples.votes)
    return EvaluationRecord(
        problem_id=greedy.problem_id,
        greedy_status=greedy.status,
        greedy_answer=greedy.answer,
        greedy_right=greedy.status is Status.CORRECT,
        majority_answer=winner[0] if winner else None,
        majority_right=bool(winner and winner[1]),
        samples_right=samples.right,
        samples=k,
    )
