"""Fits: known lines, published t-values, and intervals that cover at their nominal rate."""

from random import Random

import pytest

from rft_ray.study.fits import fit_common_slope, fit_line, mean_difference, t_quantile


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (10, 2.2281), (499, 1.9647)],
)
def test_t_values_equal_published_ones(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=6e-5)


def test_other_levels_of_t() -> None:
    assert t_quantile(7, 0.99) == pytest.approx(3.4995, abs=6e-5)


def test_a_known_line_is_found_exactly() -> None:
    line = fit_line([1, 2, 4, 8], [3, 5, 9, 17])
    assert line is not None
    assert (line.slope.value, line.intercept.value, line.r2) == pytest.approx((2, 1, 1))
    assert line.slope.high - line.slope.low == pytest.approx(0, abs=1e-9)


def test_a_fit_equals_a_worked_example() -> None:
    """x 1..5, y 2 4 5 4 5: slope 0.6, intercept 2.2, R2 0.6, standard error of the slope sqrt(0.08)."""
    line = fit_line([1, 2, 3, 4, 5], [2, 4, 5, 4, 5])
    assert line is not None
    assert (line.slope.value, line.intercept.value, line.r2) == pytest.approx((0.6, 2.2, 0.6))
    assert line.slope.high == pytest.approx(0.6 + 3.18245 * 0.08**0.5, abs=1e-4)
    assert line.intercept.high == pytest.approx(2.2 + 3.18245 * 0.88**0.5, abs=1e-4)


@pytest.mark.parametrize("xs", [[], [1.0], [1.0, 2.0], [3.0, 3.0, 3.0]])
def test_too_few_points_give_no_fit(xs: list[float]) -> None:
    assert fit_line(xs, xs) is None


def test_a_constant_y_has_an_r2_of_0() -> None:
    line = fit_line([1, 2, 3], [5, 5, 5])
    assert line is not None
    assert (line.slope.value, line.r2) == (0, 0)


def test_intervals_cover_the_true_slope_and_intercept() -> None:
    random, slopes, intercepts, rounds = Random(0), 0, 0, 2000
    for _ in range(rounds):
        line = fit_line([1, 2, 3, 5, 9], [0.5 + 0.3 * x + random.gauss(0, 1) for x in (1, 2, 3, 5, 9)])
        assert line is not None
        slopes += line.slope.low <= 0.3 <= line.slope.high
        intercepts += line.intercept.low <= 0.5 <= line.intercept.high
    assert 0.935 <= slopes / rounds <= 0.965
    assert 0.935 <= intercepts / rounds <= 0.965


def test_groups_of_different_levels_share_a_slope() -> None:
    line = fit_common_slope([([1, 2, 3], [12, 14, 16]), ([4, 5, 6], [108, 110, 112])])
    assert line is not None
    assert (line.slope.value, line.r2) == pytest.approx((2, 1))
    alone = fit_line([1, 2, 3, 4, 5, 6], [12, 14, 16, 108, 110, 112])
    assert alone is not None
    assert alone.slope.value > 20


def test_the_common_slopes_interval_covers_it() -> None:
    random, covered = Random(2), 0
    for _ in range(1000):
        groups = [([1.0, 2.0, 4.0], [level + 0.3 * x + random.gauss(0, 1) for x in (1, 2, 4)]) for level in (0, 5, 9)]
        line = fit_common_slope(groups)
        assert line is not None
        covered += line.slope.low <= 0.3 <= line.slope.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_groups_without_a_spread_of_x_have_no_slope() -> None:
    assert fit_common_slope([([1, 1], [2, 3]), ([5, 5], [2, 3])]) is None
    assert fit_common_slope([]) is None
    assert fit_common_slope([([1, 2], [1, 2])]) is None


def test_the_interval_of_a_difference_covers_its_mean() -> None:
    random, covered = Random(1), 0
    for _ in range(1000):
        mean = mean_difference([random.choice((-1, 0, 0, 1, 1)) for _ in range(60)])
        covered += mean.low <= 0.2 <= mean.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_one_difference_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two or more"):
        mean_difference([1.0])
