"""The study's charts: points with their fitted lines, and the paper's figures. In the style of `charts.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rft_ray.report.charts import Rows, Spec, shapes

INK, MUTED = "var(--ink)", "var(--muted)"


def fitted(
    width: int,
    points: Rows,
    lines: Rows,
    colours: Mapping[str, str],
    titles: tuple[str, str],
    *,
    log2_x: bool,
    differences: bool = False,
) -> Spec:
    """Points of several series, each with its line and the 95 % band of the line. Titles: of x and of y.

    Points: series, x, y, text. Lines: series, x, y, low, high. A band is clipped far from the points.
    """
    x = _x(titles[0], width, log2_x=log2_x)
    shown = (
        "replace(format(100 * datum.value, '+.3~g'), '-', '\u2212')"
        if differences
        else "format(100 * datum.value, '.3~g') + ' %'"
    )
    y = _field("y", "quantitative", title=titles[1], scale=_domain(points), axis={"tickCount": 5, "labelExpr": shown})
    names = [name for name in colours if any(row["series"] == name for row in points)]
    coloured = _colour(names, colours, width)
    band = {"type": "area", "opacity": 0.13, "clip": True, "aria": False}
    layers: list[Spec] = [
        {
            "data": {"values": lines},
            "mark": band,
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": coloured},
        },
        {
            "data": {"values": lines},
            "mark": {"type": "line", "strokeWidth": 2, "clip": True, "aria": False},
            "encoding": {"x": x, "y": y, "color": coloured},
        },
        {
            "data": {"values": points},
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
            "encoding": {
                "x": x,
                "y": y,
                "color": coloured,
                "shape": {**coloured, "scale": shapes(names)},
                "description": _field("text", "nominal"),
            },
        },
    ]
    return {"width": width, "height": 280 if width > 400 else 230, "layer": layers if lines else layers[2:]}


def paper_lines(
    width: int, rows: Rows, colours: Mapping[str, str], titles: tuple[str, str], *, log2_x: bool, join: bool, unit: str
) -> Spec:
    """The paper's figures: points, joined or with a least-squares line per series. Rows: series, x, y, text."""
    x = _x(titles[0], width, log2_x=log2_x)
    axis = {"tickCount": 5, "labelExpr": f"datum.label + '{unit}'"}
    y = _field("y", "quantitative", title=titles[1], scale={"zero": False}, axis=axis)
    names = [name for name in colours if any(row["series"] == name for row in rows)]
    coloured = _colour(names, colours, width)
    encoding = {"x": x, "y": y, "color": coloured}
    line: Spec = {"mark": {"type": "line", "strokeWidth": 1.6, "opacity": 0.75, "aria": False}, "encoding": encoding}
    if not join:
        line["transform"] = [{"regression": "y", "on": "x", "groupby": ["series"]}]
    point = {
        "mark": {"type": "point", "filled": True, "size": 56, "opacity": 0.9},
        "encoding": {
            **encoding,
            "shape": {**coloured, "scale": shapes(names)},
            "description": _field("text", "nominal"),
        },
    }
    return {"width": width, "height": 240 if width > 400 else 210, "data": {"values": rows}, "layer": [line, point]}


def _x(title: str, width: int, *, log2_x: bool) -> Spec:
    scale = {"type": "log", "base": 2, "nice": False} if log2_x else {"zero": False, "padding": 16}
    axis = {"grid": False, "tickCount": 6 if width > 400 else 4, "format": "~r"}
    return _field("x", "quantitative", title=title, scale=scale, axis=axis)


def _domain(points: Rows) -> dict[str, Any]:
    """The range of the points with a margin, so that a wide band does not flatten them."""
    ys = [float(row["y"]) for row in points]
    room = 0.35 * (max(ys) - min(ys)) or 0.05
    return {"domain": [min(ys) - room, max(ys) + room], "nice": False}


def _colour(names: list[str], colours: Mapping[str, str], width: int) -> Spec:
    longest = max(map(len, names))
    legend = {"columns": max(1, min(len(names), int(width // (36 + 7.2 * longest))))} if len(names) > 1 else None
    return _field(
        "series", "nominal", scale={"domain": names, "range": [colours[name] for name in names]}, legend=legend
    )


def _field(field: str, kind: str, **more: Any) -> Spec:
    return {"field": field, "type": kind, **more}
