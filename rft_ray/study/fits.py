"""Least-squares lines with 95 % t-intervals, and differences paired by problem. Pure Python and NumPy.

In: figures. Out: estimates with intervals. Limits: intervals of a line take errors to be normal, equal and independent,
as ordinary least squares does; at least three points with two different x are needed.
Formulas: any textbook of regression; the t distribution by Abramowitz and Stegun 26.7.3-4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rft_ray.study.result import Estimate

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope * x. Example: Line(Estimate(2.0, 1.9, 2.1), Estimate(0.1, 0.0, 0.2), 0.998)"""

    slope: Estimate
    intercept: Estimate
    r2: float
    """Share of y's variance that the line explains; 0 where y does not vary."""


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """The ordinary least-squares line through the points; None where there are too few of them."""
    return fit_common_slope([(xs, ys)])


def fit_common_slope(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Line | None:
    """One slope for several groups of (xs, ys), each of which has a level of its own; None for too few points.

    The intercept is that of the mean level; R2 is of what varies within the groups.
    """
    groups = [(xs, ys) for xs, ys in groups if len(xs)]
    if not groups:
        return None
    x, y = (np.concatenate([np.asarray(group[i], float) for group in groups]) for i in (0, 1))
    dx, dy = (np.concatenate([np.asarray(group[i], float) - np.mean(group[i]) for group in groups]) for i in (0, 1))
    n, degrees, spread = len(x), len(x) - len(groups) - 1, float((dx**2).sum())
    if degrees < 1 or spread == 0:
        return None
    slope = float((dx * dy).sum()) / spread
    left, total = float(((dy - slope * dx) ** 2).sum()), float((dy**2).sum())
    t, variance = t_quantile(degrees), left / degrees
    of_slope = t * math.sqrt(variance / spread)
    of_intercept = t * math.sqrt(variance * (1 / n + float(x.mean()) ** 2 / spread))
    intercept = float(y.mean() - slope * x.mean())
    return Line(_around(slope, of_slope), _around(intercept, of_intercept), 1 - left / total if total > 0 else 0.0)


def mean_difference(differences: Sequence[float]) -> Estimate:
    """Mean of one difference per problem, with the t-interval over problems. At least two are needed.

    Raises ValueError for fewer.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} differences have no interval: give two or more")
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return _around(float(values.mean()), t_quantile(len(values) - 1) * error)


def _around(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def t_quantile(degrees: int, level: float = LEVEL) -> float:
    """The t that a Student variable of so many degrees of freedom stays within, by size, with probability `level`."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < level else (low, middle)
    return high


def t_within(t: float, degrees: int) -> float:
    """Probability that a Student variable of `degrees` >= 1 degrees of freedom lies within -t..t, for t >= 0."""
    angle = math.atan(t / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for j in range(2 + odd, degrees + 1, 2):
        total += term
        term *= square * (j - 1) / j
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
