"""Charts of many models: no two of them look alike."""

from __future__ import annotations

from typing import Any

import pytest

from rft_ray.report import charts, study_charts
from rft_ray.report.formatting import model_colours

NAMES = [f"model-{number}" for number in range(12)]
COLOURS = model_colours(NAMES)


def looks(encoding: dict[str, Any], *channels: str) -> set[tuple[str, ...]]:
    """How each series is drawn: its colour, and what else these channels give it."""
    return set(zip(*(map(str, encoding[channel]["scale"]["range"]) for channel in channels), strict=True))


def test_points_of_twelve_models_differ_in_colour_or_shape() -> None:
    rows = [{"name": name, "k": k, "paths": k / 2, "text": name} for name in NAMES for k in (1, 2)]
    ahead = [{**row, "k": 2, "low": 1.0, "high": 2.0} for row in rows]
    spec = charts.path_curves(charts.WIDE, rows, ahead, COLOURS, "paths")
    assert len(looks(spec["layer"][-1]["encoding"], "color", "shape")) == 12
    points = [{"series": name, "x": x, "y": x / 2, "text": name} for name in NAMES for x in (1.0, 2.0)]
    spec = study_charts.fitted(charts.WIDE, points, [], COLOURS, ("x", "y"), log2_x=True)
    assert len(looks(spec["layer"][-1]["encoding"], "color", "shape")) == 12


def losses(width: int) -> dict[str, Any]:
    rows = [
        {"stage": "SFT", "model": name, "step": step, "loss": 1 / step, "mean": 1 / step, "text": name}
        for name in NAMES
        for step in (1, 2)
    ]
    return charts.losses(width, rows, ["SFT"], COLOURS)


def test_lines_of_twelve_models_differ_in_colour_or_dashes() -> None:
    assert len(looks(losses(charts.WIDE)["spec"]["layer"][-1]["encoding"], "color", "strokeDash")) == 12


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_each_model_is_once_in_the_legend(width: str) -> None:
    svg = getattr(charts.draw("losses", losses), width)
    legend = svg.partition("role-legend")[2]
    assert [legend.count(f">{name}<") for name in NAMES] == [1] * 12
