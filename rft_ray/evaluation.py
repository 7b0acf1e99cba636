"""Checkpoint x test problems -> maj1@1, maj@k and pass@k with 95 % intervals, per-problem records kept.

Evaluation is the same sampling and grading over another problem set; this module only counts. An answer counts as
right when it equals gold: verdicts made to evaluate do not look at equations, as the paper's do not. maj@k votes on
canonical answers; only samples that are right or wrong vote, not those cut, answerless or undecided. pass@k is the
unbiased estimator of Chen et al. 2021 (arXiv 2107.03374).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rft_ray.data.problems import read_problems
from rft_ray.plan.jobs import EvaluationJob
from rft_ray.records import GradedCompletion, Status
from rft_ray.store import Store, commit_table, present, read_table
from rft_ray.store.tables import noted
from rft_ray.verification import read_verdicts

Z95 = 1.959963984540054

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


def evaluate(job: EvaluationJob, store: Store) -> dict[str, dict[str, float]]:
    """Metrics of one model from its committed verdicts; the per-problem records are committed beside."""
    if not present(store, job.key):
        made_from: dict[str, str] = {}
        greedy = read_verdicts(store, job.greedy, made_from=made_from)
        sampled = read_verdicts(store, job.samples, made_from=made_from) if job.samples else []
        sampling = job.greedy.sampling
        problems = read_problems(store, sampling.problems_fingerprint)[: sampling.problems]
        rows = problem_records([problem.problem_id for problem in problems], greedy, sampled, job.k)
        metadata = {"model": job.model.name, "setting": job.setting, "k": str(job.k), "n": str(len(rows))}
        commit_table(store, job.key, pa.Table.from_pylist(rows, schema=RECORDS), metadata | noted(made_from))
    return metrics(read_records(job, store), job.k)


def read_records(job: EvaluationJob, store: Store) -> list[dict[str, Any]]:
    """The per-problem records of an evaluation, as dictionaries with the columns of RECORDS."""
    rows: list[dict[str, Any]] = read_table(store, job.key)[0].to_pylist()
    return rows


def problem_records(
    problems: Sequence[str], greedy: Sequence[GradedCompletion], sampled: Sequence[GradedCompletion], k: int
) -> list[dict[str, Any]]:
    """One record per problem id, with the columns of RECORDS.

    A problem that was skipped (its prompt exceeds the context) counts as answered wrong, k times.
    """
    groups: dict[str, list[GradedCompletion]] = {}
    for row in sampled:
        groups.setdefault(row.problem_id, []).append(row)
    answers = {row.problem_id: row for row in greedy}
    skipped = [GradedCompletion(problem, 0, Status.NO_ANSWER, None, "skipped") for problem in problems]
    return [_record(answers.get(row.problem_id, row), groups.get(row.problem_id, []), k) for row in skipped]


def _record(greedy: GradedCompletion, samples: Sequence[GradedCompletion], k: int) -> dict[str, Any]:
    winner = majority([(row.answer, row.status is Status.CORRECT) for row in samples if _votes(row)])
    return {
        "problem_id": greedy.problem_id,
        "greedy_status": str(greedy.status),
        "greedy_answer": greedy.answer,
        "greedy_right": greedy.status is Status.CORRECT,
        "majority_answer": winner[0] if winner else None,
        "majority_right": bool(winner and winner[1]),
        "samples_right": sum(row.status is Status.CORRECT for row in samples),
        "samples": k,
    }


def _votes(row: GradedCompletion) -> bool:
    return row.answer is not None and row.status in (Status.CORRECT, Status.WRONG_ANSWER)


def majority(answers: Sequence[tuple[str | None, bool]]) -> tuple[str | None, bool] | None:
    """The (answer, is right) with most votes; of several, the first in order of text, whatever the order of samples."""
    votes = Counter(answers)
    return min(votes, key=lambda one: (-votes[one], str(one[0]), one[1])) if votes else None


def metrics(records: Sequence[dict[str, Any]], k: int) -> dict[str, dict[str, float]]:
    """Accuracies in 0..1 with Wilson 95 % intervals over problems; n = number of problems."""
    found = {"maj1@1": wilson(sum(row["greedy_right"] for row in records), len(records))}
    if k:
        found["maj@k"] = wilson(sum(row["majority_right"] for row in records), len(records)) | {"k": k}
        for name, draws in (("pass@k", k), ("pass@1", 1)):
            mean = sum(pass_at(draws, row["samples"], row["samples_right"]) for row in records)
            found[name] = wilson(mean, len(records)) | {"k": draws}
    return found


def pass_at(k: int, n: int, right: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold a right one. 0 <= right <= n, 1 <= k <= n."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def wilson(successes: float, n: int) -> dict[str, float]:
    """Value and Wilson 95 % interval of a share. Also for means of values in 0..1, where it is conservative."""
    if n == 0:
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / scale
    return {"value": share, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": n}


def paired_difference(
    later: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]], column: str = "greedy_right"
) -> dict[str, float]:
    """Difference of two shares on the same problems, with the 95 % interval of Agresti and Min (2005) for pairs."""
    before = {row["problem_id"]: bool(row[column]) for row in earlier}
    pairs = [(bool(row[column]), before[row["problem_id"]]) for row in later if row["problem_id"] in before]
    n = len(pairs)
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    centre = (gained - lost) / (n + 2)  # half a pair more in each of the four cells
    half = Z95 * math.sqrt((gained + lost + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    value = (gained - lost) / n if n else 0.0
    return {"value": value, "low": max(-1.0, centre - half), "high": min(1.0, centre + half), "n": n}


def describe(found: dict[str, dict[str, float]]) -> str:
    """One line for the terminal. Example: `maj1@1 36.2 % [31.0, 41.8]  maj@8 44.0 % [38.5, 49.7]`."""
    return "  ".join(
        f"{name.replace('@k', '@' + str(m.get('k', 'k')))} {100 * m['value']:.1f} % "
        f"[{100 * m['low']:.1f}, {100 * m['high']:.1f}]"
        for name, m in found.items()
    )
