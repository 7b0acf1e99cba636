"""Accuracy from per-problem records: maj1@1, maj@k, pass@k, Wilson intervals, and paired differences.

Pure functions of the records: no I/O, no Ray.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

Z95 = 1.959963984540054
"""Quantile 0.975 of the standard normal distribution, for 95 % intervals."""


def majority(answers: Sequence[tuple[str | None, bool]]) -> tuple[str | None, bool] | None:
    """The (answer, is right) with most votes; None without votes. Ties go to the first answer in order of text."""
    votes = Counter(answers)
    return min(votes, key=lambda answer: (-votes[answer], str(answer[0]), answer[1])) if votes else None


def metrics(records: Sequence[dict[str, Any]], k: int) -> dict[str, dict[str, float]]:
    """Accuracies in 0..1 with Wilson 95 % intervals over problems; n is the number of problems."""
    accuracies = {"maj1@1": wilson(sum(row["greedy_right"] for row in records), len(records))}
    if k:
        accuracies["maj@k"] = wilson(sum(row["majority_right"] for row in records), len(records)) | {"k": k}
        for name, draws in (("pass@k", k), ("pass@1", 1)):
            mean = sum(pass_at(draws, row["samples"], row["samples_right"]) for row in records)
            accuracies[name] = wilson(mean, len(records)) | {"k": draws}
    return accuracies


def pass_at(k: int, n: int, right: int) -> float:
    """Probability that k samples drawn without replacement from n include a right one. 0 <= right <= n, 1 <= k <= n."""
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def wilson(successes: float, n: int) -> dict[str, float]:
    """A share with its Wilson 95 % interval. For means of values in 0..1 the interval is conservative."""
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
    """Later minus earlier share on the problems of both, with the 95 % interval of Agresti and Min (2005) for pairs."""
    before = {row["problem_id"]: bool(row[column]) for row in earlier}
    pairs = [(bool(row[column]), before[row["problem_id"]]) for row in later if row["problem_id"] in before]
    n = len(pairs)
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    centre = (gained - lost) / (n + 2)  # Agresti and Min add half a pair to each of the four cells
    half = Z95 * math.sqrt((gained + lost + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    value = (gained - lost) / n if n else 0.0
    return {"value": value, "low": max(-1.0, centre - half), "high": min(1.0, centre + half), "n": n}


def describe(accuracies: dict[str, dict[str, float]]) -> str:
    """The metrics as one line for the terminal. Example: `maj1@1 36.2 % [31.0, 41.8]  maj@8 44.0 % [38.5, 49.7]`."""
    return "  ".join(
        f"{name.replace('@k', '@' + str(m.get('k', 'k')))} {100 * m['value']:.1f} % "
        f"[{100 * m['low']:.1f}, {100 * m['high']:.1f}]"
        for name, m in accuracies.items()
    )
