"""`RunFacts` -> the report's HTML: the result in one sentence, then the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rft_ray.report import accuracy, example_section, run_details, sections
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import duration, listed, percent, points, several, signed
from rft_ray.report.html import page, render

Effect = tuple[str, float, float, Mapping[str, float]]
"""A model evaluated after SFT and after RFT: its name, both accuracies, and the paired difference."""
NAMED = 3
"""The most models that the headline names; for more it gives the range of their gains."""
SECTIONS = (
    ("accuracy", "Accuracy", accuracy.accuracy),
    ("samples", "Samples", sections.verdicts),
    ("paths", "Paths", sections.diversity),
    ("models", "Models", sections.models),
    ("difficulty", "Difficulty", sections.difficulty),
    ("lengths", "Lengths", sections.lengths),
    ("examples", "Examples", example_section.examples),
    ("training", "Training", run_details.training),
    ("time", "Time", run_details.time),
    ("settings", "Settings", run_details.settings),
)


def run_page(facts: RunFacts) -> Markup:
    """The whole report as one HTML file."""
    sections = [(name, label, make(facts)) for name, label, make in SECTIONS]
    sentence, certainty = headline(facts.summary)
    return page(
        "run.html",
        run=facts.summary["run"],
        url=facts.url,
        headline=sentence,
        certainty=certainty,
        warning=unfinished(facts.summary),
        tiles=_tiles(facts),
        sections=[section for section in sections if section[2]],
    )


def headline(summary: Mapping[str, Any]) -> tuple[Markup, str]:
    """The result in one sentence, and how certain it is, as plain text."""
    changes = _effects(summary)
    accounts = summary["ledger"].values()
    gains = sorted(100 * effect["value"] for _, _, _, effect in changes)
    sentence = render(
        "run_headline.html",
        samples=several(sum(account["sampled"] for account in accounts), "sample"),
        accepted=f"{sum(account['accepted'] for account in accounts):,}",
        paths=several(summary["corpus"].get("paths", 0), "distinct correct path"),
        source="from the model itself" if len(accounts) == 1 else f"from {len(accounts)} models",
        problems=several(summary["problems"]["test"], "unseen problem"),
        verb=_verb(changes),
        changes=[
            {"model": name, "before": percent(before), "after": percent(after)} for name, before, after, _ in changes
        ],
        gains=signed(f"{gains[0]:+.1f} to {gains[-1]:+.1f} points") if len(changes) > NAMED else "",
    )
    return sentence, _certainty(changes) if changes else ""


def _verb(changes: Sequence[Effect]) -> str:
    signs = {(effect["value"] > 0) - (effect["value"] < 0) for _, _, _, effect in changes}
    return {1: "raised", -1: "lowered", 0: "did not change"}[signs.pop()] if len(signs) == 1 else "changed"


def _effects(summary: Mapping[str, Any]) -> list[Effect]:
    return [
        (name, by["sft"]["maj1@1"]["value"], by["rft"]["maj1@1"]["value"], summary["paired"][name]["rft_minus_sft"])
        for name, by in summary["evaluation"].items()
        if {"sft", "rft"} <= set(by) and "rft_minus_sft" in summary["paired"].get(name, {})
    ]


def _certainty(changes: Sequence[Effect]) -> str:
    """The differences, and whether their intervals exclude zero."""
    shown = listed([f"{name} {points(effect)}" for name, _, _, effect in changes[:NAMED]])
    shown += f", and {len(changes) - NAMED} more below" if len(changes) > NAMED else ""
    clear = [name for name, _, _, effect in changes if effect["low"] > 0 or effect["high"] < 0]
    if len(clear) == len(changes):
        verdict = {1: "It is", 2: "Both are"}.get(len(changes), "All are") + " clear of zero."
    elif clear:
        verdict = f"Clear of zero for {listed(clear)} only."
    else:
        none = "None is" if len(changes) > 1 else "It is not"
        verdict = f"{none} clear of zero: this run alone shows no effect."
    return f"Against SFT, on the same problems, with 95\u00a0% intervals: {shown}. {verdict}"


def unfinished(summary: Mapping[str, Any]) -> str:
    """What the run has not done yet; empty when it has finished."""
    missing = sum(account["missing"] for account in summary["ledger"].values())
    held = sum(account.get("quarantined", 0) for account in summary["ledger"].values())
    reasons = f" ({held:,} of them quarantined; summary.json has the reasons)" if held else ""
    ungraded = sum(account["ungraded"] for account in summary["ledger"].values())
    absent = [
        text
        for text, count in (
            (f"{several(missing, 'planned sample')} missing{reasons}", missing),
            (f"{several(ungraded, 'sample')} not graded yet", ungraded),
            ("later stages have not run yet", not summary["finished"]),
        )
        if count
    ]
    if not absent:
        return ""
    return f"{listed(absent)[0].upper()}{listed(absent)[1:]}. The figures below cover what is committed."


def _tiles(facts: RunFacts) -> list[tuple[str, str, str]]:
    summary = facts.summary
    sampled = sum(account["sampled"] for account in summary["ledger"].values())
    accepted = sum(account["accepted"] for account in summary["ledger"].values())
    train = summary["problems"]["train"]
    paths = summary["corpus"].get("paths", 0)
    k = f"k = {facts.paths.k} from {several(len(summary['ledger']), 'model')}" if facts.paths else ""
    return [
        ("Training problems", f"{train:,}", f"{summary['problems']['test']:,} to test on"),
        ("Samples", f"{sampled:,}", k),
        ("Accepted", percent(accepted / max(sampled, 1)), f"{accepted:,} samples"),
        ("Distinct paths", f"{paths:,}", f"{paths / max(train, 1):.2f} a problem"),
        ("Time", duration(summary["seconds"]), "summed over stages"),
    ]
