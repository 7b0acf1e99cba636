"""Distinct paths against the number of samples: a curve over k, and the expected gain of doubling k. Pure.

In: for each problem, how many of its n samples gave each distinct path. Out: the expected number of distinct paths
after m <= n samples, averaged over all choices of m of them (Hurlbert 1971), so the curve does not depend on the order
of the samples; and the expected number of new paths in n more samples: the estimator of Good and Toulmin (1956) with
the weights of Efron and Thisted (1976), which smooth its alternating sum.

Only sums over problems are kept, so memory does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from rft_ray.evaluation.metrics import Z95


@dataclass(frozen=True, slots=True)
class Doubling:
    """Expected new paths per problem if every model drew as many samples again, with a 95 % interval over problems.

    Example: Doubling(0.62, 0.55, 0.69)
    """

    gain: float
    low: float
    high: float


@dataclass(slots=True)
class Diversity:
    """Sums over the problems added so far.

    Example: Diversity((1, 2, 4, 8), models=2).add(8, [{"tiny-s": 3, "tiny-m": 1}, {"tiny-m": 1}])
    """

    ks: tuple[int, ...]
    """The points of the curve, in samples per problem and model."""
    models: int = 1
    """How many models' paths are pooled."""
    problems: int = 0
    sums: list[float] = field(default_factory=list)
    gain: float = 0.0
    gain_squared: float = 0.0

    def __post_init__(self) -> None:
        self.sums = self.sums or [0.0] * len(self.ks)

    def add(self, n: int, paths: Iterable[Mapping[str, int]]) -> None:
        """One problem with n samples of each model; `paths`: for each distinct path, model -> number of its samples."""
        self.problems += 1
        gain = 0.0
        for hits in paths:
            unseen = [_unseen(n, count, self.ks) for count in hits.values()]
            for at, shares in enumerate(zip(*unseen, strict=True)):
                self.sums[at] += 1.0 - math.prod(shares)
            gain += doubling_weight(sum(hits.values()), n * self.models)
        self.gain += gain
        self.gain_squared += gain * gain

    @property
    def curve(self) -> list[tuple[int, float]]:
        """(k, distinct paths per problem), gold not counted."""
        return [(k, total / max(self.problems, 1)) for k, total in zip(self.ks, self.sums, strict=True)]

    @property
    def doubling(self) -> Doubling:
        count = max(self.problems, 1)
        mean = self.gain / count
        variance = max(0.0, self.gain_squared / count - mean * mean)
        half = Z95 * math.sqrt(variance / count)
        return Doubling(*(max(0.0, value) for value in (mean, mean - half, mean + half)))  # no count is below 0


def grid(k: int, points: int = 14) -> tuple[int, ...]:
    """The integers 1 … k when they are few, else about `points` of them, evenly spaced in their logarithm."""
    if k <= points:
        return tuple(range(1, k + 1))
    return tuple(sorted({round(k ** (step / (points - 1))) for step in range(points)}))


@lru_cache(maxsize=65_536)
def _unseen(n: int, hits: int, ks: Sequence[int]) -> tuple[float, ...]:
    """Per k: the probability that k of n samples, drawn without replacement, miss a path that `hits` of them gave."""
    return tuple(math.comb(n - hits, min(k, n)) / math.comb(n, min(k, n)) for k in ks)


@lru_cache(maxsize=65_536)
def doubling_weight(hits: int, n: int) -> float:
    """The weight of a path with `hits` of n samples in the expected number of new paths in n more samples.

    (-1)^(hits+1) P(Bin(n, 1/2) >= hits): Good and Toulmin's term for doubling, smoothed.
    """
    n = min(n, 64)  # for larger n, the weights of the small counts that matter differ from 1 only after many digits
    tail = float(sum(math.comb(n, i) for i in range(hits, n + 1)) / (1 << n))
    return tail if hits % 2 else -tail
