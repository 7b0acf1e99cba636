"""The first section of a run's report: accuracy by stage and model, and the gain of RFT."""

from __future__ import annotations

from dataclasses import asdict

from markupsafe import Markup

from rft_ray.evaluation.metrics import Metric
from rft_ray.evaluation.summary_records import Evaluation
from rft_ray.report import charts
from rft_ray.report.charts import draw
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import (
    SETTING_COLOURS,
    interval,
    percent,
    points,
    setting_name,
    setting_order,
    several,
    signed,
)
from rft_ray.report.html import figure, paragraph, section, table


def accuracy(facts: RunFacts) -> Markup:
    evaluation = facts.summary.evaluation
    if not evaluation:
        return Markup()
    rows = [
        {
            "row": model,
            "group": setting_name(setting),
            "shown": f"{100 * metric.value:.1f}",
            "text": f"{model}, {setting_name(setting)}: {percent(metric.value)} {interval(metric)}",
            **metric.as_data(),
        }
        for model, by_setting in evaluation.items()
        for setting, metric in ((name, by_setting[name]["maj1@1"]) for name in setting_order(list(by_setting)))
    ]
    colours = SETTING_COLOURS | {str(row["group"]): "var(--s3)" for row in rows if row["group"] not in SETTING_COLOURS}
    count = facts.summary.problems.test
    return section(
        "accuracy",
        "Accuracy by stage and model",
        paragraph(
            f"Share of {several(count, 'unseen test problem')} that the model answers correctly with one greedy sample "
            "(maj1@1). Bars are 95\u00a0% Wilson intervals."
        ),
        figure(
            "accuracy-chart",
            f"Greedy accuracy on {several(count, 'test problem')}",
            "Accuracy: " + "; ".join(str(row["text"]) for row in rows),
            draw("accuracy", charts.intervals, rows, colours),
            _metrics_table(evaluation),
        ),
        _differences(facts),
    )


def _metrics_table(evaluation: Evaluation) -> Markup:
    every = [metrics for by_setting in evaluation.values() for metrics in by_setting.values()]
    names = list(dict.fromkeys(name for metrics in every for name in metrics))
    rows = [
        [f"{model}, {setting_name(setting)}", *(_metric(by_setting[setting].get(name)) for name in names)]
        for model, by_setting in evaluation.items()
        for setting in setting_order(list(by_setting))
    ]
    k = next((metrics["maj@k"].k for metrics in every if "maj@k" in metrics), "k")
    return table(
        "Accuracy in percent with 95\u00a0% intervals",
        ["Model and stage", *(name.replace("@k", f"@{k}") for name in names)],
        rows,
    )


def _metric(metric: Metric | None) -> str:
    return f"{100 * metric.value:.1f} {interval(metric)}" if metric else "–"


def _differences(facts: RunFacts) -> Markup:
    differences = [
        (model, name.removeprefix("rft_minus_"), difference)
        for model, by_name in facts.summary.paired.items()
        for name, difference in by_name.items()
    ]
    rows = [
        {
            "row": model,
            "group": "over " + setting_name(setting),
            "shown": signed(f"{100 * difference.value:+.1f}"),
            "text": f"{model}, RFT over {setting_name(setting)}: {points(difference)}",
            "setting": setting,
            **asdict(difference),
        }
        for model, setting, difference in differences
    ]
    if not rows:
        return Markup()
    colours = {
        "over " + setting_name(name): SETTING_COLOURS.get(setting_name(name), "var(--s3)")
        for name in setting_order(list(dict.fromkeys(setting for _, setting, _ in differences)))
    }
    if len(colours) == 1:
        colours = dict.fromkeys(colours, "var(--accent)")
    return figure(
        "gain-chart",
        "Gain of RFT on the same problems (percentage points)",
        "Gain of RFT: " + "; ".join(str(row["text"]) for row in rows),
        draw("gain", charts.intervals, rows, colours, differences=True),
        table(
            "Paired differences of greedy accuracy with 95\u00a0% intervals (Agresti and Min)",
            ["Comparison", "Difference"],
            [
                [f"{model}, RFT over {setting_name(setting)}", points(difference)]
                for model, setting, difference in differences
            ],
        ),
    )
