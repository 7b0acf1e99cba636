"""The later sections of a run's report: how it was made. Training curves, time, settings and fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from rft_ray.report import charts
from rft_ray.report.charts import draw
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import duration, model_colours, percent, setting_name, setting_order
from rft_ray.report.html import figure, folded, paragraph, render, section, table
from rft_ray.store.names import VERSIONS

POINTS = 240
"""Points of a training curve that are drawn."""


def training(facts: RunFacts) -> Markup:
    curves = [one for one in facts.trainings if len(one.get("training", {}).get("curve", [])) > 1]
    if not curves:
        return Markup()
    names = list(dict.fromkeys(one["model"] for one in facts.trainings))
    stages = setting_order(list(dict.fromkeys(one["stage"] for one in curves)))
    rows = [row for one in curves for row in _curve(one)]
    ends = "; ".join(_ends(one) for one in curves)
    return section(
        "training",
        "Training curves",
        paragraph("Loss on the responses at each optimizer step (thin), and its moving average."),
        figure(
            "loss-chart",
            "Training loss",
            f"Training loss, from the first to the last step: {ends}",
            draw("losses", charts.losses, rows, [setting_name(one) for one in stages], model_colours(names)),
            table(
                "Trainings",
                [
                    "Model and stage",
                    "examples",
                    "left out, too long",
                    "steps",
                    "tokens",
                    "time",
                    "tokens/s",
                    "last loss",
                ],
                [_training_row(one) for one in facts.trainings if "training" in one],
            ),
        ),
    )


def _curve(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Points of one training: its loss, and the mean over a window of a twentieth of its steps."""
    curve = one["training"]["curve"]
    half = max(1, len(curve) // 40)
    stride = max(1, len(curve) // POINTS)
    for at in sorted({*range(0, len(curve), stride), len(curve) - 1}):
        window = [entry[1] for entry in curve[max(0, at - half) : at + half + 1]]
        yield {
            "stage": setting_name(one["stage"]),
            "model": one["model"],
            "step": curve[at][0],
            "loss": curve[at][1],
            "mean": sum(window) / len(window),
            "text": _ends(one),
        }


def _ends(one: Mapping[str, Any]) -> str:
    curve = one["training"]["curve"]
    return f"{one['model']}, {setting_name(one['stage'])}: loss {curve[0][1]:.3f} to {curve[-1][1]:.3f}"


def _training_row(one: Mapping[str, Any]) -> list[object]:
    found = one["training"]
    return [
        f"{one['model']}, {setting_name(one['stage'])}",
        found["examples"],
        found["skipped_too_long"],
        found["steps"],
        found["tokens"],
        duration(found["seconds"]),
        f"{found['tokens_per_s']:,.0f}",
        f"{found['final_loss']:.3f}",
    ]


def time(facts: RunFacts) -> Markup:
    stages = facts.summary["stages"]
    total = facts.summary["seconds"]
    if not stages or not total:
        return Markup()
    rows = [
        {
            "stage": stage["name"],
            "seconds": stage["seconds"],
            "shown": f"{duration(stage['seconds'])}",
            "text": f"{stage['name']}: {duration(stage['seconds'])}, {percent(stage['seconds'] / total)} of the run",
        }
        for stage in stages
    ]
    trained = sum(one["training"]["seconds"] for one in facts.trainings if "training" in one)
    fitting = sum(stage["seconds"] for stage in stages if stage["name"] in ("sft", "rft"))
    split = ""
    if fitting > trained > 0:
        split = (
            f" Of the {duration(fitting)} of fine-tuning, optimizer steps took {duration(trained)}; the rest is "
            "starting workers, loading and committing models."
        )
    return section(
        "time",
        "Where the time went",
        paragraph(f"{duration(total)} of work in all, summed over resumed runs.{split}"),
        figure(
            "time-chart",
            "Time by stage",
            "; ".join(row["text"] for row in rows),
            draw("time", charts.seconds, rows),
            table(
                "Time by stage",
                ["Stage", "seconds", "share"],
                [[row["stage"], f"{row['seconds']:,.1f}", percent(row["seconds"] / total)] for row in rows],
            ),
        ),
        table(
            "Sampling speed",
            ["Model", "tokens sampled", "tokens/s while its shards were sampled"],
            [
                [model, account["tokens"], f"{account['tokens_per_s']:,.0f}"]
                for model, account in facts.summary["ledger"].items()
            ],
        ),
    )


def settings(facts: RunFacts) -> Markup:
    summary = facts.summary
    names: list[list[object]] = [["run", summary["fingerprint"]]]
    names += [[f"model {one['model']}, {setting_name(one['stage'])}", one["fingerprint"]] for one in summary["models"]]
    names += [[f"samples of {model}", name] for model, name in summary.get("samplers", {}).items()]
    if file := summary["corpus"].get("file"):
        names.append(["corpus", file.removeprefix("corpus/").removesuffix(".jsonl")])
    versions: dict[str, str] = {}
    for one in facts.trainings:
        versions |= one.get("training", {}).get("versions", {})
    return section(
        "settings",
        "Settings, versions, fingerprints",
        paragraph(
            "A fingerprint names a recipe: model files, data, prompt, sampling settings, seed and the version of the "
            "stage. Equal names, equal recipes."
        ),
        folded("Fingerprints", table("Fingerprints of this run", ["What", "Fingerprint"], names)),
        folded(
            "Versions",
            table(
                "Versions of stages, which enter the fingerprints, and of libraries that trained the models",
                ["What", "Version"],
                [*([f"stage {name}", str(number)] for name, number in VERSIONS.items()), *map(list, versions.items())],
            ),
        ),
        folded("Settings of the run", render("settings.html", config=facts.config_text))
        if facts.config_text
        else paragraph("This store holds no config.yaml: it was made by an older version.", "note"),
    )
