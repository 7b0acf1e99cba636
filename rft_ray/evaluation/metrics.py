"""Accuracy from per-problem records: maj1@1, maj@k, pass@k, Wilson intervals, and paired differences.

Pure functions of the records: no I/O, no Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rft_ray.records import Status

Z95 = 1.959963984540054
"""Quantile 0.975 of the standard normal distribution, for 95 % intervals."""


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """The graded answers of one model to one test problem.

    Example: EvaluationRecord("5f0c…", Status.CORRECT, "5", True, "5", True, 3, 4)
    """

    problem_id: str
    greedy_status: Status
    greedy_answer: str | None
    greedy_right: bool
    majority_answer: str | None
    """The answer with most votes among the samples; None when no sample votes."""
    majority_right: bool
    samples_right: int
    samples: int
    """Samples of the problem; 0 when only the greedy answer is evaluated."""


@dataclass(frozen=True, slots=True)
class Metric:
    """An accuracy in 0..1 with its Wilson 95 % interval.

    Example: Metric(0.324, 0.296, 0.354, 1000)
    """

    value: float
    low: float
    high: float
    n: int
    """Number of problems."""
    k: int | None = None
    """Samples per problem; None for greedy answers."""

    def as_data(self) -> dict[str, float]:
        """The metric in JSON; without `k` for greedy answers."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Difference:
    """An accuracy minus another one on the same problems, with its 95 % interval.

    Example: Difference(0.122, 0.092, 0.152, 1000)
    """

    value: float
    low: float
    high: float
    n: int
    """Number of problems."""


def majority(answers: Iterable[tuple[str | None, bool]]) -> tuple[str | None, bool] | None:
    """The (answer, is right) with most votes; None without votes. Ties go to the first answer in order of text."""
    votes = Counter(answers)
    return min(votes, key=lambda answer: (-votes[answer], str(answer[0]), answer[1])) if votes else None


def metrics(records: Sequence[EvaluationRecord], k: int) -> dict[str, Metric]:
    """The metrics of one model by name: `maj1@1`, and `maj@k`, `pass@k` and `pass@1` when k is not 0."""
    accuracies = {"maj1@1": wilson(sum(record.greedy_right for record in records), len(records))}
    if k:
        voted = wilson(sum(record.majority_right for record in records), len(records))
        accuracies["maj@k"] = replace(voted, k=k)
        for name, draws in (("pass@k", k), ("pass@1", 1)):
            mean = sum(pass_at(draws, record.samples, record.samples_right) for record in records)
            accuracies[name] = replace(wilson(mean, len(records)), k=draws)
    return accuracies


def pass_at(k: int, n: int, right: int) -> float:
    """Probability that k samples drawn without replacement from n include a right one. 0 <= right <= n, 1 <= k <= n."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def wilson(successes: float, n: int) -> Metric:
    """A share with its Wilson 95 % interval. For means of values in 0..1 the interval is conservative."""
    if n == 0:
        return Metric(0.0, 0.0, 1.0, 0)
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / scale
    return Metric(share, max(0.0, centre - half), min(1.0, centre + half), n)


def paired_difference(later: Sequence[EvaluationRecord], earlier: Sequence[EvaluationRecord]) -> Difference:
    """Later minus earlier greedy accuracy on the problems of both.

    The 95 % interval is that of Agresti and Min (2005) for pairs.
    """
    before = {record.problem_id: record.greedy_right for record in earlier}
    pairs = [(record.greedy_right, before[record.problem_id]) for record in later if record.problem_id in before]
    n = len(pairs)
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    centre = (gained - lost) / (n + 2)  # Agresti and Min add half a pair to each of the four cells
    half = Z95 * math.sqrt((gained + lost + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    value = (gained - lost) / n if n else 0.0
    return Difference(value, max(-1.0, centre - half), min(1.0, centre + half), n)


def describe(accuracies: Mapping[str, Metric]) -> str:
    """The metrics as one line for the terminal. Example: `maj1@1 36.2 % [31.0, 41.8]  maj@8 44.0 % [38.5, 49.7]`."""
    return "  ".join(
        f"{name.replace('@k', f'@{metric.k}')} {100 * metric.value:.1f} % "
        f"[{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
        for name, metric in accuracies.items()
    )
