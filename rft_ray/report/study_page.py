"""`study.json` -> `study.html`: which of the paper's findings hold in this study, with the figures.

In: a `Study`. Out: one file, like the report of a run. A line's band is the 95 % interval of its mean, computed from
the study's intervals of slope and intercept, not from a second fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from markupsafe import Markup

from rft_ray.report import charts, study_charts
from rft_ray.report.charts import draw
from rft_ray.report.formatting import duration, model_colours, points, several
from rft_ray.report.html import figure, folded, page, paragraph, render, section, table
from rft_ray.study import paper
from rft_ray.study.result import CommonSlope, Comparison, Fit, Study, Table

QUESTIONS = {
    1: ("Loss", "Does accuracy fall with pre-training loss?"),
    2: ("Data", "What does doubling the gold data add?"),
    3: ("Paths", "What do k and distinct paths add?"),
    4: ("Pooling", "Does pooling beat the best single model, and whose paths help which model?"),
    5: ("Cost", "What does a point of accuracy cost?"),
}
TOGETHER = {"rft-loss": "sft-loss"}
"""Fits drawn in the chart of another fit."""
DIFFERENCES = ("gain-loss", "slope-loss")
HOLDS = {"yes": "holds", "no": "does not hold", "unclear": "unclear"}
LONG = 10
"""The most rows of a table that is shown open; a longer table is folded."""
STEPS = 40
"""Points of a drawn line."""


def study_page(study: Study) -> Markup:
    """The whole page as one HTML file."""
    sections = [("findings", "Findings", _findings(study))]
    sections += [(f"q{number}", short, _question(study, number, title)) for number, (short, title) in QUESTIONS.items()]
    sections.append(("points", "Points", _points(study)))
    sizes = sorted(model.parameters / 1e6 for model in study.models)
    lead = (
        f"{several(len(study.models), 'base model')} of {sizes[0]:.2g} to {sizes[-1]:.2g} million parameters; "
        f"{several(study.train_problems, 'training problem')}, k = {study.k}; "
        f"{several(len(study.points), 'model')} trained and evaluated on "
        f"{several(study.test_problems, 'unseen problem')}. Accuracy is greedy maj1@1; intervals are 95\u00a0%."
    )
    missing = several(study.planned - len(study.points), "planned point")
    return page(
        "study.html",
        run=study.run,
        headline=headline(study),
        lead=lead,
        warning="" if study.finished else f"{missing} missing; the figures below cover the points that are evaluated.",
        command=study.command,
        sections=[section for section in sections if section[2]],
    )


def headline(study: Study) -> Markup:
    """How many of the paper's findings hold, in one sentence."""
    count = {verdict: sum(finding.holds == verdict for finding in study.findings) for verdict in HOLDS}
    others = [f"{count['no']} do{'es' if count['no'] == 1 else ''} not"] if count["no"] else []
    others += [f"{count['unclear']} {'is' if count['unclear'] == 1 else 'are'} unclear"] if count["unclear"] else []
    return render(
        "study_headline.html",
        findings=several(len(study.findings), "finding") if study.findings else "",
        holding=f"{count['yes']} hold{'s' if count['yes'] == 1 else ''}",
        others=others,
        models=several(len(study.models), "model"),
        points=several(len(study.points), "point"),
    )


def _findings(study: Study) -> Markup:
    if not study.findings:
        return Markup()
    findings = render("findings.html", findings=study.findings, labels=HOLDS)
    return section("findings", "The paper's findings, here", findings)


def _question(study: Study, number: int, title: str) -> Markup:
    parts = [*_fit_figures(study, number), *_comparison_figures(study, number), *_paper_figures(number)]
    parts += [_table(part) for part in study.tables if part.question == number]
    notes = [paragraph(f"Not answered: {skip.reason}.", "note") for skip in study.skipped if skip.question == number]
    return section(f"q{number}", f"{number}. {title}", *notes, *parts) if parts or notes else Markup()


def _table(one: Table) -> Markup:
    note = paragraph(one.note, "note") if one.note else Markup()
    whole = table(one.title, one.columns, one.rows) + note
    return whole if len(one.rows) <= LONG else folded(one.title, whole)


# --- Fits -----------------------------------------------------------------------------------------


def _fit_figures(study: Study, number: int) -> Iterator[Markup]:
    """One chart for all fits of a name: one series per model, or per measured quantity."""
    fits = [fit for fit in study.fits if fit.question == number]
    for name in dict.fromkeys(TOGETHER.get(fit.name, fit.name) for fit in fits):
        yield _fit_figure(study, name, [fit for fit in fits if TOGETHER.get(fit.name, fit.name) == name])


def _fit_figure(study: Study, name: str, fits: Sequence[Fit]) -> Markup:
    series = [fit.group or fit.y for fit in fits]
    known = model_colours([model.name for model in study.models])
    colours = {label: known.get(label, f"var(--s{at % 8 + 1})") for at, label in enumerate(series)}
    differences = name in DIFFERENCES
    spots = [
        {"series": label, "x": x, "y": y, "text": f"{point}: {_share(y, differences)} at {x:,.4g}"}
        for label, fit in zip(series, fits, strict=True)
        for x, y, point in fit.points
    ]
    lines = [row for label, fit in zip(series, fits, strict=True) for row in band(label, fit)]
    y = fits[0].y if len({fit.y for fit in fits}) == 1 else "accuracy"
    common = [slope for slope in study.slopes if slope.name == name]
    slopes: list[tuple[str, Fit | CommonSlope]] = [*zip(series, fits, strict=True)]
    slopes += [("common slope", slope) for slope in common]
    says = "; ".join(f"{label} {_slope(fit, fits[0].x)}, R2 {fit.r2:.2f}" for label, fit in slopes)
    return figure(
        f"{name}-chart",
        f"{y[0].upper()}{y[1:]} against {fits[0].x}",
        f"Fitted slopes: {says}",
        draw(
            name,
            study_charts.fitted,
            spots,
            lines,
            colours,
            (fits[0].x, "percentage points" if differences else "accuracy"),
            log2_x=fits[0].log2_x,
            differences=differences,
        ),
        table(
            f"Least-squares fits of {y} against {'log2 of ' if fits[0].log2_x else ''}{fits[0].x}",
            ["Series", "slope", "R2", "points"],
            [[label, _slope(fit, fits[0].x), f"{fit.r2:.2f}", _count(fit)] for label, fit in slopes],
        ),
    )


def band(series: str, fit: Fit) -> Iterator[dict[str, float | str]]:
    """The line from the smallest to the largest x, with the 95 % interval of its mean.

    Half the interval at x is h sqrt(S) sqrt(1/n + (x - mean)^2 / S): h is half the slope's, S the sum of (x - mean)^2.
    """
    xs = [math.log2(x) if fit.log2_x else x for x, _, _ in fit.points]
    mean = sum(xs) / len(xs)
    spread = sum((x - mean) ** 2 for x in xs)
    half_slope = (fit.slope.high - fit.slope.low) / 2
    for step in range(STEPS + 1):
        x = min(xs) + (max(xs) - min(xs)) * step / STEPS
        y = fit.intercept.value + fit.slope.value * x
        half = half_slope * math.sqrt(spread) * math.sqrt(1 / len(xs) + (x - mean) ** 2 / spread)
        yield {"series": series, "x": 2**x if fit.log2_x else x, "y": y, "low": y - half, "high": y + half}


def _count(fit: Fit | CommonSlope) -> int:
    return fit.points if isinstance(fit, CommonSlope) else len(fit.points)


def _slope(fit: Fit | CommonSlope, x: str) -> str:
    per = " a doubling" if fit.log2_x else f" per unit of {x}"
    return points(fit.slope) + per


def _share(value: float, differences: bool) -> str:
    return f"{100 * value:+.1f} points".replace("-", "\u2212") if differences else f"{100 * value:.1f}\u00a0%"


# --- Comparisons ----------------------------------------------------------------------------------


def _comparison_figures(study: Study, number: int) -> Iterator[Markup]:
    """One chart for all comparisons of a question with the same first side; leaving out a sampler has its own chart."""
    comparisons = [comparison for comparison in study.comparisons if comparison.question == number]
    for first, without in dict.fromkeys((comparison.first, _leaves_out(comparison)) for comparison in comparisons):
        shared = [
            comparison for comparison in comparisons if (comparison.first, _leaves_out(comparison)) == (first, without)
        ]
        yield _comparison_figure(f"q{number}-{'without' if without else first.split()[0].lower()}", first, shared)


def _leaves_out(comparison: Comparison) -> bool:
    return comparison.second.startswith("without ")


def _against(comparison: Comparison) -> str:
    return f"over {'the union ' if _leaves_out(comparison) else ''}{comparison.second}"


def _comparison_figure(name: str, first: str, comparisons: Sequence[Comparison]) -> Markup:
    colours = {name: f"var(--s{at % 8 + 1})" for at, name in enumerate(dict.fromkeys(map(_against, comparisons)))}
    first = "the union" if first == "union" else first
    rows = [
        {
            "row": comparison.model or "mean of models",
            "group": _against(comparison),
            "shown": f"{100 * comparison.difference.value:+.1f}".replace("-", "\u2212"),
            "text": f"{comparison.model or 'mean of models'}, {first} {_against(comparison)}: "
            f"{points(comparison.difference)}",
            **asdict(comparison.difference),
        }
        for comparison in comparisons
    ]
    return figure(
        f"{name}-chart",
        f"Gain of {first}, on the same problems (percentage points)",
        "; ".join(str(row["text"]) for row in rows),
        draw(name, charts.intervals, rows, colours, differences=True),
        table(
            "Differences of accuracy, paired by test problem, with 95\u00a0% intervals",
            ["Model", "Comparison", "Difference"],
            [
                [
                    comparison.model or "mean of models",
                    f"{first} {_against(comparison)}",
                    points(comparison.difference),
                ]
                for comparison in comparisons
            ],
        ),
    )


# --- The paper ------------------------------------------------------------------------------------


def _paper_figures(number: int) -> Iterator[Markup]:
    if number == 1:
        rows = [
            (name, model.pretraining_loss, value, model.name)
            for model in paper.MODELS
            if model.pretraining_loss is not None
            for name, value in (("SFT", model.sft), ("RFT, U13B", model.rft_u13b))
        ]
        yield _paper_figure(
            "loss", "accuracy against pre-training loss", rows, ("pre-training loss", "accuracy"), False
        )
    if number == 2:
        rows = [
            (model.name, 7473 * share, value, f"{share:g} of the data")
            for share, values in paper.SFT_BY_SHARE.items()
            for model, value in zip(paper.MODELS, values, strict=True)
        ]
        yield _paper_figure("data", "SFT accuracy against gold problems", rows, ("gold problems", "accuracy"), True)
    if number == 3:
        rows = [
            (model.name, float(k), value, f"k = {k}")
            for k, values in paper.RFT_BY_K.items()
            for model, value in zip(paper.MODELS, values, strict=False)
        ]
        yield _paper_figure("k", "RFT accuracy against k", rows, ("samples per problem (own)", "accuracy"), True)


def _paper_figure(
    key: str, what: str, rows: Sequence[tuple[str, float, float, str]], titles: tuple[str, str], join: bool
) -> Markup:
    names = list(dict.fromkeys(row[0] for row in rows))
    spots = [{"series": name, "x": x, "y": y, "text": f"{name}, {where}: {y:.1f}\u00a0%"} for name, x, y, where in rows]
    return figure(
        f"paper-{key}-chart",
        f"In the paper, on GSM8K: {what}",
        f"The paper's {what}: " + "; ".join(str(spot["text"]) for spot in spots),
        draw(
            f"paper-{key}",
            study_charts.paper_lines,
            spots,
            model_colours(names),
            titles,
            log2_x=join,
            join=join,
            unit=" %",
        ),
        table(
            f"The paper's {what} (percent)",
            ["Series", titles[0], titles[1], "point"],
            [[name, f"{x:,.4g}", f"{y:.1f}", where] for name, x, y, where in rows],
        ),
    )


def _points(study: Study) -> Markup:
    head = ["Point", "accuracy", "gold", "paths", "a problem", "steps", "training", "sampling", "model"]
    rows: list[list[object]] = [
        [
            point.name,
            f"{100 * point.accuracy.value:.1f} [{100 * point.accuracy.low:.1f}, {100 * point.accuracy.high:.1f}]",
            point.gold,
            point.paths,
            f"{point.paths_per_problem:.2f}",
            point.steps,
            duration(point.training_seconds),
            duration(point.sampling_seconds),
            point.training,
        ]
        for point in study.points
    ]
    times = [[stage.name, duration(stage.seconds)] for stage in study.stages]
    return section(
        "points",
        "All points",
        paragraph(f"Fingerprint of the study: {study.fingerprint}.", "note"),
        folded(
            f"{several(len(rows), 'model')} trained and evaluated", table("Trained and evaluated models", head, rows)
        ),
        table("Time by stage, over all runs of the study", ["Stage", "time"], times) if times else Markup(),
    )
