"""Least-squares lines with 95 % t-intervals, and means of paired differences. Pure: NumPy and SciPy.

In: figures. Out: estimates with intervals. Limits: the intervals assume independent normal errors of equal variance, as
ordinary least squares does. A line needs at least three points with two different x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rft_ray.study.result import Estimate

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope * x. Example: Line(Estimate(2.0, 1.9, 2.1), Estimate(0.1, 0.0, 0.2), 0.998)"""

    slope: Estimate
    intercept: Estimate
    r2: float
    """Share of y's variance that the line explains; 0 when y is constant."""


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """The ordinary least-squares line through the points. Returns None for too few points."""
    return fit_common_slope([(xs, ys)])


def fit_common_slope(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Line | None:
    """One slope for several groups of (xs, ys) with an intercept per group. Returns None for too few points.

    The intercept returned is that of the mean level; R2 is the share of the variance within the groups.
    """
    levels = [(np.asarray(xs, float), np.asarray(ys, float)) for xs, ys in groups if len(xs)]
    degrees = sum(len(xs) for xs, _ in levels) - len(levels) - 1
    if degrees < 1 or all(np.ptp(xs) == 0 for xs, _ in levels):
        return None
    x, y = (np.concatenate([level[axis] for level in levels]) for axis in (0, 1))
    dx, dy = (np.concatenate([level[axis] - level[axis].mean() for level in levels]) for axis in (0, 1))
    # scipy.stats.linregress fits one level only, and its intervals are NaN where y is constant
    spread = float((dx**2).sum())
    slope = float((dx * dy).sum()) / spread
    residual, total = float(((dy - slope * dx) ** 2).sum()), float((dy**2).sum())
    t, variance = t_quantile(degrees), residual / degrees
    of_slope = t * math.sqrt(variance / spread)
    of_intercept = t * math.sqrt(variance * (1 / len(x) + float(x.mean()) ** 2 / spread))
    intercept = float(y.mean() - slope * x.mean())
    return Line(_around(slope, of_slope), _around(intercept, of_intercept), 1 - residual / total if total > 0 else 0.0)


def mean_difference(differences: Sequence[float]) -> Estimate:
    """The mean over problems of their differences, with its t-interval. Raises ValueError for fewer than two."""
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} differences have no interval: give two or more")
    error = float(stats.sem(differences))
    return _around(float(np.mean(differences)), t_quantile(len(differences) - 1) * error)


def _around(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def t_quantile(degrees: int, level: float = LEVEL) -> float:
    """The t whose interval -t..t holds a Student variable of `degrees` degrees of freedom with probability `level`."""
    return float(stats.t.ppf((1 + level) / 2, degrees))
