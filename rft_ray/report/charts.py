"""Figures -> Vega-Lite specifications -> SVG, for the page to inline.

Every chart is drawn twice, for a wide page and for a phone; the page's style shows one of them. Colours are CSS
variables (`var(--s1)`), so a chart follows the page into dark mode. Data is in the specification: nothing is fetched.
Each mark has a description for screen readers and for the page's tooltip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert

Spec = dict[str, Any]
Rows = list[dict[str, Any]]

WIDE, NARROW = 692, 318
"""Width of a chart in CSS pixels, without margins: on a desktop, and on a phone 360 pixels wide."""
VEGA_LITE = "6.1"
INK, MUTED, LINE, ACCENT = "var(--ink)", "var(--muted)", "var(--line)", "var(--accent)"
FONT = "system-ui, sans-serif"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross")
DASHES = ([1, 0], [7, 3], [2, 3])
"""What tells series apart besides their colours, some of which look alike to the colour-blind, and of which there are
eight: shapes of points in turn, dashes of lines for each four."""
CONFIG: Spec = {
    "background": None,
    "font": FONT,
    "padding": {"left": 3, "right": 8, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "gridColor": LINE,
        "labelColor": MUTED,
        "labelFontSize": 12,
        "labelPadding": 8,
        "titleColor": MUTED,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
    },
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "title": None,
        "labelColor": INK,
        "labelFontSize": 12.5,
        "symbolSize": 110,
        "symbolOpacity": 1,
        "symbolType": "circle",
        "padding": 0,
        "offset": 14,
        "columnPadding": 32,
    },
    "header": {"labelColor": INK, "labelFontSize": 13, "labelFontWeight": 600, "title": None, "labelPadding": 6},
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart: the same figure for a wide and for a narrow page.

    Example: Chart("<svg …", "<svg …")
    """

    wide: str
    narrow: str


def draw(name: str, make: Callable[..., Spec], *args: Any, **kwargs: Any) -> Chart:
    """`make(width, …)` drawn at both widths. `name` prefixes the ids in the SVG, which must be unique in the page."""
    return Chart(*(_svg(f"{name}-{width}", make(width, *args, **kwargs), width) for width in (WIDE, NARROW)))


def _svg(name: str, spec: Spec, width: int) -> str:
    autosize = {"type": "pad" if "facet" in spec else "fit-x", "contains": "padding"}
    whole = {"config": {**CONFIG, **_limits(width)}, "autosize": autosize, **spec}
    svg: str = vl_convert.vegalite_to_svg(whole, vl_version=VEGA_LITE, allowed_base_urls=[])
    ids = list(
        dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg))
    )  # the library's counter of ids runs through the whole process
    svg = re.sub(r'\b(id="|url\(#)([^")]+)', lambda match: f"{match[1]}{name}-{ids.index(match[2])}", svg)
    return svg.replace("<svg ", '<svg focusable="false" ', 1)


# --- The charts -----------------------------------------------------------------------------------


def intervals(width: int, rows: Rows, colours: Mapping[str, str], *, differences: bool = False) -> Spec:
    """Values with their intervals, one line for each group of each row; groups in the order of `colours`.

    Rows: row, group, value, low, high, shown, text. `differences`: an axis with signs, and a mark at 0.
    """
    groups = [name for name in colours if any(row["group"] == name for row in rows)]
    scale = {"domain": groups, "range": [colours[name] for name in groups]}
    legend = {"columns": _columns(groups, width - _names_width(width))} if len(groups) > 1 else None
    shared = {
        "y": _encode(
            "row",
            "nominal",
            sort=None,
            title=None,
            axis={"labelColor": INK, "labelFontSize": 13},
            scale={"paddingInner": 0.5 / (len(groups) + 0.5), "paddingOuter": 0.1},
        ),
        "yOffset": _encode("group", "nominal", sort=groups),
        "color": _encode("group", "nominal", scale=scale, legend=legend),
        "description": _encode("text", "nominal"),
    }
    axis = _points_axis(width) if differences else _percent_axis(width)
    x = _encode("value", title=None, axis=axis, scale={"zero": True, "nice": True, "padding": 12})
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 4, "opacity": 0.4, "strokeCap": "round", "aria": False},
            "encoding": {**shared, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {"mark": {"type": "point", "filled": True, "size": 120, "opacity": 1}, "encoding": {**shared, "x": x}},
        {
            "mark": {"type": "text", "dy": -13, "fontSize": 12.5, "fontWeight": 600, "aria": False},
            "encoding": {**shared, "x": x, "text": _encode("shown", "nominal"), "color": {"value": INK}},
        },
    ]
    zero: Spec = {"mark": {"type": "rule", "color": MUTED, "aria": False}, "encoding": {"x": {"datum": 0}}}
    return {
        "width": width,
        "height": {"step": 34 if len(groups) == 2 else 29, "for": "offset"} if len(groups) > 1 else {"step": 44},
        "data": {"values": rows},
        "layer": [zero, *layers] if differences else layers,
    }


def shares(width: int, rows: Rows, colours: Mapping[str, str]) -> Spec:
    """Stacked shares, one bar per row; parts in the order of `colours`. Rows: row, part, count, text."""
    parts = [name for name in colours if any(row["part"] == name and row["count"] for row in rows)]
    rows = [{**row, "order": parts.index(row["part"])} for row in rows if row["part"] in parts]
    scale = {"domain": parts, "range": [colours[name] for name in parts]}
    return {
        "width": width,
        "height": {"step": 46},
        "data": {"values": rows},
        "mark": {"type": "bar", "stroke": "var(--paper)", "strokeWidth": 1, "height": {"band": 0.62}},
        "encoding": {
            "y": _encode("row", "nominal", sort=None, title=None, axis={"labelColor": INK, "labelFontSize": 13}),
            "x": _encode("count", stack="normalize", title=None, axis=_percent_axis(width)),
            "color": _encode(
                "part", "nominal", scale=scale, legend={"columns": _columns(parts, width - _names_width(width))}
            ),
            "order": _encode("order"),
            "description": _encode("text", "nominal"),
        },
    }


def path_curves(width: int, rows: Rows, ahead: Rows, colours: Mapping[str, str], y_title: str) -> Spec:
    """Distinct paths against k, and the expected number at twice the k, dashed with its interval.

    Rows: name, k, paths, text. Ahead: the same for k and 2k, with low and high.
    """
    names = [name for name in colours if any(row["name"] == name for row in rows)]
    scale = {"domain": names, "range": [colours[name] for name in names]}
    legend = {"columns": _columns(names, width)}
    colour = _encode("name", "nominal", scale=scale, legend=legend)
    top = max(row["k"] for row in ahead)
    x = _encode(
        "k",
        title="samples per problem and model (k)",
        scale={"type": "log", "base": 2, "domain": [1, top], "nice": False},
        axis={"values": [2**n for n in range(12) if 2**n <= top], "format": "d", "grid": False},
    )
    y = _encode("paths", title=y_title, scale={"zero": True}, axis={"tickCount": 5})
    line = {"x": x, "y": y, "color": colour}
    return {
        "width": width,
        "height": 300 if width > 400 else 240,
        "layer": [
            {
                "data": {"values": ahead},
                "mark": {"type": "area", "opacity": 0.14, "aria": False},
                "encoding": {**line, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "data": {"values": ahead},
                "mark": {"type": "line", "strokeDash": [5, 4], "strokeWidth": 2, "aria": False},
                "encoding": line,
            },
            {"data": {"values": rows}, "mark": {"type": "line", "strokeWidth": 2.5, "aria": False}, "encoding": line},
            {
                "data": {"values": [*rows, *(row for row in ahead if row["k"] == top)]},
                "mark": {"type": "point", "filled": True, "size": 46, "opacity": 1},
                "encoding": {
                    **line,
                    "shape": _encode("name", "nominal", scale=shapes(names), legend=legend),
                    "description": _encode("text", "nominal"),
                },
            },
        ],
    }


def overlap(width: int, rows: Rows, names: Sequence[str]) -> Spec:
    """A square of shares: of the row model's paths, the column's. Rows: row, column, share, shown, text."""
    labels = min(_names_width(width), 7.4 * max(map(len, names)))
    side = min((width - labels - 24) / len(names), 108)
    x = _encode(
        "column",
        "nominal",
        sort=list(names),
        title="… that this model sampled too",
        axis={
            "orient": "top",
            "labelAngle": 0 if side > 90 else -40,
            "labelColor": INK,
            "labelLimit": min(110, 2 * side),
        },
    )
    y = _encode("row", "nominal", sort=list(names), title=None, axis={"labelColor": INK, "labelFontSize": 13})
    square = {"x": x, "y": y}
    return {
        "width": side * len(names) + labels + 24,
        "height": min(side, 64) * len(names),
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 2, "cornerRadius": 4, "fill": ACCENT},
                "encoding": {
                    **square,
                    "fillOpacity": _encode("share", scale={"domain": [0, 1], "range": [0.04, 0.55]}, legend=None),
                    "description": _encode("text", "nominal"),
                },
            },
            {
                "mark": {"type": "text", "fontSize": min(13, side / 3.6), "color": INK, "aria": False},
                "encoding": {**square, "text": _encode("shown", "nominal")},
            },
        ],
    }


def histograms(
    width: int, rows: Rows, colours: Mapping[str, str], order: Sequence[str], x_title: str, y_title: str
) -> Spec:
    """Small histograms, one per model. Rows: model, bin, order, part, count, text; parts in the order of `colours`."""
    models = _names(rows, "model")
    parts = [name for name in colours if any(row["part"] == name and row["count"] for row in rows)]
    rows = [{**row, "stack": parts.index(row["part"])} for row in rows if row["part"] in parts]
    columns = 2 if width > 400 and len(models) > 1 else 1
    inner = (width - 58 - 22 * (columns - 1)) / columns
    every = math.ceil((10 + 7 * max(map(len, order))) * len(order) / inner)  # labels so far apart do not touch
    return {
        "data": {"values": rows},
        "facet": _encode("model", "nominal", sort=models, header={"labelAnchor": "start"}),
        "columns": columns,
        "spacing": 22,
        "resolve": {"axis": {"x": "independent"}},  # a shared axis would stand in the last row, below an empty place
        "spec": {
            "width": inner,
            "height": 150,
            "mark": {"type": "bar", "cornerRadiusEnd": 1, "width": {"band": 0.86}},
            "encoding": {
                "x": _encode(
                    "bin",
                    "ordinal",
                    sort=list(order),
                    title=x_title,
                    scale={"domain": list(order)},
                    axis={"labelAngle": 0, "values": list(order)[::every], "grid": False},
                ),
                "y": _encode("count", title=y_title, axis={"tickCount": 4, "format": ",d"}),
                "order": _encode("stack"),
                "color": _encode(
                    "part",
                    "nominal",
                    scale={"domain": parts, "range": [colours[name] for name in parts]},
                    legend={"columns": _columns(parts, width)} if len(parts) > 1 else None,
                ),
                "description": _encode("text", "nominal"),
            },
        },
    }


def losses(width: int, rows: Rows, stages: Sequence[str], colours: Mapping[str, str]) -> Spec:
    """Training loss against the step, one small chart per stage. Rows: stage, model, step, loss, mean, text."""
    names = [name for name in colours if any(row["model"] == name for row in rows)]
    columns = 2 if width > 400 and len(stages) > 1 else 1
    legend = {"columns": _columns(names, width), "symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 3}
    colour = _encode(
        "model",
        "nominal",
        scale={"domain": names, "range": [colours[name] for name in names]},
        legend=legend,
    )
    dashes = {"domain": names, "range": [DASHES[at // 4 % len(DASHES)] for at in range(len(names))]}
    dash = _encode("model", "nominal", scale=dashes, legend=legend)
    x = _encode("step", title="optimizer step", axis={"grid": False, "tickCount": 4}, scale={"nice": False})
    y = _encode("loss", title="loss", scale={"zero": False}, axis={"tickCount": 5})
    return {
        "data": {"values": rows},
        "facet": _encode("stage", "nominal", sort=list(stages), header={"labelAnchor": "start"}),
        "columns": columns,
        "spacing": 22,
        "resolve": {"scale": {"x": "independent"}},
        "spec": {
            "width": (width - 58 - 22 * (columns - 1)) / columns,
            "height": 190,
            "layer": [
                {
                    "mark": {"type": "line", "opacity": 0.28, "strokeWidth": 1, "aria": False},
                    "encoding": {"x": x, "y": y, "color": colour},
                },
                {
                    "mark": {"type": "line", "strokeWidth": 2.2, "interpolate": "monotone"},
                    "encoding": {
                        "x": x,
                        "y": {**y, "field": "mean"},
                        "color": colour,
                        "strokeDash": dash,
                        "description": _encode("text", "nominal"),
                    },
                },
            ],
        },
    }


def seconds(width: int, rows: Rows) -> Spec:
    """Seconds per stage, one bar each. Rows: stage, seconds, shown, text."""
    y = _encode("stage", "nominal", sort=None, title=None, axis={"labelColor": INK, "labelFontSize": 13})
    longest = max(row["seconds"] for row in rows)
    x = _encode("seconds", title=None, axis=None, scale={"domain": [0, longest * (1.16 if width > 400 else 1.6)]})
    return {
        "width": width,
        "height": {"step": 30},
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "bar", "color": ACCENT, "cornerRadiusEnd": 2, "height": {"band": 0.6}},
                "encoding": {"x": x, "y": y, "description": _encode("text", "nominal")},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 7, "fontSize": 12.5, "color": MUTED, "aria": False},
                "encoding": {"x": x, "y": y, "text": _encode("shown", "nominal")},
            },
        ],
    }


def _limits(width: int) -> Spec:
    """The longest labels of names, in pixels."""
    header: Spec = {**CONFIG["header"], "labelLimit": 0.42 * width if width > 400 else 0.8 * width}
    return {
        "axisY": {"labelLimit": _names_width(width)},
        "legend": {**CONFIG["legend"], "labelLimit": 0.6 * width},
        "header": header,
    }


# --- Parts of specifications ----------------------------------------------------------------------


def shapes(names: Sequence[str]) -> Spec:
    """The scale of the shapes of these series, in their order."""
    return {"domain": list(names), "range": [SHAPES[at % len(SHAPES)] for at in range(len(names))]}


def _encode(field: str, kind: str = "quantitative", **more: Any) -> Spec:
    return {"field": field, "type": kind, **more}


def _percent_axis(width: int) -> Spec:
    return {"tickCount": 6 if width > 400 else 3, "labelExpr": "format(100 * datum.value, '.0f') + ' %'"}


def _points_axis(width: int) -> Spec:
    text = "datum.value == 0 ? '0' : replace(format(100 * datum.value, '+.0f'), '-', '−')"
    return {"tickCount": 6 if width > 400 else 4, "labelExpr": text}


def _names(rows: Iterable[Mapping[str, Any]], field: str) -> list[str]:
    return list(dict.fromkeys(str(row[field]) for row in rows))


def _names_width(width: int) -> int:
    """The widest labels of an axis of names, in pixels."""
    return 130 if width > 400 else 96


def _columns(names: Sequence[str], width: float) -> int:
    """As many columns of a legend as fit."""
    longest = max((len(name) for name in names), default=1)
    return max(1, min(len(names), int(width // (52 + 7.2 * longest))))
