"""Accuracy from per-problem records: maj1@1, maj@k, pass@k, Wilson intervals, and paired differences. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

Z95 = 1.959963984540054


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
