"""The last sections of a run's report: training curves, time, settings, versions and fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rft_ray.evaluation.summary_records import Account, BadPlace, GpuUse
from rft_ray.report import charts
from rft_ray.report.charts import draw
from rft_ray.report.facts import RunFacts, Training
from rft_ray.report.formatting import duration, model_colours, percent, setting_name, setting_order
from rft_ray.report.html import figure, folded, paragraph, render, section, table
from rft_ray.store.names import VERSIONS

POINTS = 240
"""The most points drawn of one training curve."""
SHOWN_PLACES = 4
"""Hosts or GPUs that are named as unable to load a model."""


def training(facts: RunFacts) -> Markup:
    curves = [made for made in facts.trainings if len(made.record.curve) > 1]
    if not curves:
        return Markup()
    names = list(dict.fromkeys(made.model for made in facts.trainings))
    stages = setting_order(list(dict.fromkeys(made.stage for made in curves)))
    rows = [row for made in curves for row in _curve(made)]
    ends = "; ".join(_ends(made) for made in curves)
    return section(
        "training",
        "Training curves",
        paragraph("Loss on the responses at each optimizer step (thin), and its moving average."),
        figure(
            "loss-chart",
            "Training loss",
            f"Training loss, from the first to the last step: {ends}",
            draw("losses", charts.losses, rows, [setting_name(stage) for stage in stages], model_colours(names)),
            table(
                "Trainings",
                [
                    "Model and stage",
                    "examples",
                    "skipped, too long",
                    "steps",
                    "tokens",
                    "time",
                    "tokens/s",
                    "last loss",
                ],
                [_training_row(made) for made in facts.trainings],
            ),
        ),
    )


def _curve(made: Training) -> Iterator[dict[str, Any]]:
    """One training's loss at each drawn step, and its mean over a window of a twentieth of the steps."""
    curve = made.record.curve
    half = max(1, len(curve) // 40)
    stride = max(1, len(curve) // POINTS)
    for at in sorted({*range(0, len(curve), stride), len(curve) - 1}):
        window = [entry[1] for entry in curve[max(0, at - half) : at + half + 1]]
        yield {
            "stage": setting_name(made.stage),
            "model": made.model,
            "step": curve[at][0],
            "loss": curve[at][1],
            "mean": sum(window) / len(window),
            "text": _ends(made),
        }


def _ends(made: Training) -> str:
    curve = made.record.curve
    return f"{made.model}, {setting_name(made.stage)}: loss {curve[0][1]:.3f} to {curve[-1][1]:.3f}"


def _training_row(made: Training) -> list[object]:
    record = made.record
    return [
        f"{made.model}, {setting_name(made.stage)}",
        record.examples,
        record.skipped_too_long,
        record.steps,
        record.tokens,
        duration(record.seconds),
        f"{record.tokens_per_s:,.0f}",
        f"{record.final_loss:.3f}",
    ]


def time(facts: RunFacts) -> Markup:
    stages = facts.summary.stages
    total = facts.summary.seconds
    if not stages or not total:
        return Markup()
    rows = [
        {
            "stage": stage.name,
            "seconds": stage.seconds,
            "shown": duration(stage.seconds),
            "text": f"{stage.name}: {duration(stage.seconds)}, {percent(stage.seconds / total)} of the run",
        }
        for stage in stages
    ]
    trained = sum(made.record.seconds for made in facts.trainings)
    fitting = sum(stage.seconds for stage in stages if stage.name in ("sft", "rft"))
    split = ""
    if fitting > trained > 0:
        split = (
            f" Of the {duration(fitting)} of fine-tuning, optimizer steps took {duration(trained)}; the rest is "
            "for starting workers, loading models and committing them."
        )
    return section(
        "time",
        "Time by stage",
        paragraph(f"{duration(total)} of work, summed over all runs that resumed this one.{split}"),
        figure(
            "time-chart",
            "Time by stage",
            "; ".join(str(row["text"]) for row in rows),
            draw("time", charts.seconds, rows),
            table(
                "Time by stage",
                ["Stage", "seconds", "share"],
                [[stage.name, f"{stage.seconds:,.1f}", percent(stage.seconds / total)] for stage in stages],
            ),
        ),
        table(
            "Sampling speed",
            ["Model", "tokens sampled", "tokens/s while its shards were sampled"],
            [
                [model, account.tokens, f"{account.tokens_per_s:,.0f}"]
                for model, account in facts.summary.ledger.items()
            ],
        ),
        _loads(facts.summary.ledger),
        _gpus(facts.summary.gpu_use),
        _bad_places(facts.summary.bad_places),
        _charges(facts.summary.ledger),
    )


def _loads(ledger: Mapping[str, Account]) -> Markup:
    """How full the engines were; empty where no engine has such statistics."""
    rows: list[list[object]] = [
        [model, load.running, load.waiting, percent(load.kv_cache), load.preemptions]
        for model, account in ledger.items()
        if (load := account.load)
    ]
    if not rows:
        return Markup()
    columns = ["Model", "sequences at once", "waiting", "key-value cache in use", "preemptions of all engines"]
    return table("Load of the engines: the most that one had at a time", columns, rows)


def _gpus(used: Sequence[GpuUse]) -> Markup:
    """What each stage used of the GPUs; empty for a run on CPUs."""
    if not used:
        return Markup()
    priced = all(use.usd is not None for use in used)
    rows: list[list[object]] = [
        [
            use.stage,
            f"{use.gpus:g}",
            f"{use.gpu_hours:,.2f}",
            percent(use.idle),
            "not known" if use.mfu is None else percent(use.mfu),
            *([f"{use.usd:,.2f}"] if priced else []),
        ]
        for use in used
    ]
    hours, money = sum(use.gpu_hours for use in used), sum(use.usd or 0.0 for use in used)
    rows.append(["all", "", f"{hours:,.2f}", "", "", *([f"{money:,.2f}"] if priced else [])])
    return table(
        "Use of the GPUs (idle: no shard sampled, nothing trained; utilization: the model's arithmetic, as a share of "
        "what the card can do, in the other time)",
        ["Stage", "GPUs", "GPU-hours", "idle", "utilization", *(["US dollars"] if priced else [])],
        rows,
    )


def _bad_places(places: Sequence[BadPlace]) -> Markup:
    """The places that sampling did without; empty where there are none."""
    if not places:
        return Markup()
    shown = [f"{bad.place} could not load {', '.join(bad.models)}: {bad.reason}" for bad in places[:SHOWN_PLACES]]
    more = [f"and {len(places) - SHOWN_PLACES} more places"] if len(places) > SHOWN_PLACES else []
    return paragraph(f"Sampled elsewhere: {'; '.join([*shown, *more])}.", "note")


def _charges(ledger: Mapping[str, Account]) -> Markup:
    """What the endpoints of the run's models and of its judge charged; empty where no model is behind one."""
    charged = [(model, account.charged) for model, account in ledger.items()]
    charged += [(f"judge, on samples of {model}", account.judge_charged) for model, account in ledger.items()]
    rows: list[list[object]] = [
        [
            name,
            tokens.prompt_tokens,
            tokens.completion_tokens,
            "no price set" if tokens.cost is None else f"{tokens.cost:,.2f}",
        ]
        for name, tokens in charged
        if tokens
    ]
    if not rows:
        return Markup()
    return table("Tokens charged by endpoints", ["Model", "prompt tokens", "completion tokens", "cost"], rows)


def settings(facts: RunFacts) -> Markup:
    summary = facts.summary
    names: list[list[object]] = [["run", summary.fingerprint]]
    names += [[f"model {entry.model}, {setting_name(entry.stage)}", entry.fingerprint] for entry in summary.models]
    names += [[f"samples of {model}", name] for model, name in summary.samplers.items()]
    if summary.corpus and summary.corpus.file:
        names.append(["corpus", summary.corpus.file.removeprefix("corpus/").removesuffix(".jsonl")])
    if facts.module_sha256:
        names.append([f"module of the verifier {facts.config['grading']['verifier']}, SHA-256", facts.module_sha256])
    versions: dict[str, str] = {}
    for made in facts.trainings:
        versions |= made.record.versions
    return section(
        "settings",
        "Settings, versions, fingerprints",
        paragraph(
            "A fingerprint is a hash of a stage's inputs: model files, data, prompt, sampling settings, seed and the "
            "stage's version. Equal fingerprints mean equal inputs."
        ),
        folded("Fingerprints", table("Fingerprints of this run", ["What", "Fingerprint"], names)),
        folded(
            "Versions",
            table(
                "Versions of the stages (a part of the fingerprints), and of the libraries that trained the models",
                ["What", "Version"],
                [*([_stage(name), str(number)] for name, number in VERSIONS.items()), *map(list, versions.items())],
            ),
        ),
        folded("Settings of the run", render("settings.html", config=facts.config_text))
        if facts.config_text
        else paragraph("This store has no config.yaml: an older version of rft-ray wrote it.", "note"),
    )


def _stage(name: str) -> str:
    """What a version of `VERSIONS` is the version of."""
    known = {"strict_rules": "rules of strict grading", "shots": "choice of worked examples"}
    other = f"rules of the verifier {name.removesuffix('_rules')}" if name.endswith("_rules") else f"stage {name}"
    return known.get(name, other)
