"""`RunFacts` -> the report's HTML: what happened in one sentence, then the sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rft_ray.report import gallery, sections, workings
from rft_ray.report.facts import RunFacts
from rft_ray.report.html import document, escape
from rft_ray.report.words import duration, listed, percent, points, several

NAMED = 3
"""Models that the headline names; of more, it gives the range."""
SECTIONS = (
    ("accuracy", "Accuracy", sections.accuracy),
    ("samples", "Samples", sections.verdicts),
    ("paths", "Distinct paths", sections.diversity),
    ("models", "Models", sections.models),
    ("difficulty", "Difficulty", sections.difficulty),
    ("lengths", "Lengths", sections.lengths),
    ("examples", "Examples", gallery.examples),
    ("training", "Training", workings.training),
    ("time", "Time", workings.time),
    ("settings", "Settings", workings.settings),
)


def run_page(facts: RunFacts) -> str:
    """The whole report as one HTML file."""
    made = [(name, label, make(facts)) for name, label, make in SECTIONS]
    run = facts.summary["run"]
    footer = f"Made by rft-ray from what the run has committed, and rebuilt by <code>jobs/report.py --run {escape(facts.url)}</code>."
    return document(f"{run}: rejection-sampling fine-tuning", header(facts), [one for one in made if one[2]], footer)


def header(facts: RunFacts) -> str:
    head, lead = headline(facts.summary)
    warning = unfinished(facts.summary)
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in _tiles(facts)
    )
    return (
        f'<header><p class="eyebrow">rft-ray <span>report of the run {escape(facts.summary["run"])}</span></p>'
        f"<h1>{head}</h1>"
        + (f'<p class="lead">{escape(lead)}</p>' if lead else "")
        + (f'<p class="warning" role="note"><strong>Not finished.</strong> {escape(warning)}</p>' if warning else "")
        + f'<dl class="tiles">{tiles}</dl></header>'
    )


def headline(summary: Mapping[str, Any]) -> tuple[str, str]:
    """What happened: one sentence as HTML, and how sure it is, as plain text."""
    effects = _effects(summary)
    paths, test = summary["corpus"].get("paths", 0), summary["problems"]["test"]
    several_models = len(summary["ledger"]) > 1
    whose = f"of {several(len(summary['ledger']), 'model')}" if several_models else "of its own"
    corpus = f"Fine-tuning on {several(paths, 'distinct correct path')} {whose}"
    if not effects:
        sampled = sum(account["sampled"] for account in summary["ledger"].values())
        accepted = sum(account["accepted"] for account in summary["ledger"].values())
        return (
            f"{sampled:,} samples gave <b>{several(paths, 'distinct correct path')}</b>, from {accepted:,} correct ones. "
            "No model has been evaluated before and after RFT yet.",
            "",
        )
    verb = "raised" if all(effect["value"] > 0 for _, _, _, effect in effects) else "changed"
    if len(effects) <= NAMED:
        shown = listed([f"{escape(name)} from {percent(before)} to <b>{percent(after)}</b>" for name, before, after, _ in effects])
        lead = "; ".join(f"{name} {points(effect)}" for name, _, _, effect in effects)
    else:
        gains = sorted(effect["value"] for _, _, _, effect in effects)
        shown = f"of {len(effects)} models by <b>{100 * gains[0]:+.1f} to {100 * gains[-1]:+.1f} points</b>".replace("-", "−")
        lead = f"Paired differences with 95 % intervals stand below"
    return f"{corpus} {verb} accuracy on {several(test, 'unseen problem')}: {shown}.", f"{lead}. {_certainty(effects)}"


def _effects(summary: Mapping[str, Any]) -> list[tuple[str, float, float, Mapping[str, float]]]:
    """Per model evaluated after SFT and after RFT: name, both accuracies, and the paired difference."""
    return [
        (name, by["sft"]["maj1@1"]["value"], by["rft"]["maj1@1"]["value"], summary["paired"][name]["rft_minus_sft"])
        for name, by in summary["evaluation"].items()
        if {"sft", "rft"} <= set(by) and "rft_minus_sft" in summary["paired"].get(name, {})
    ]


def _certainty(effects: list[tuple[str, float, float, Mapping[str, float]]]) -> str:
    """Whether the differences are clear of zero. Says no more than the intervals do."""
    clear = [name for name, _, _, effect in effects if effect["low"] > 0 or effect["high"] < 0]
    what = "On the same problems against SFT, 95 % intervals"
    if len(clear) == len(effects):
        return f"{what}: " + ("clear of zero." if len(effects) == 1 else "all clear of zero.")
    if not clear:
        return f"{what}: none is clear of zero, so this run alone shows no effect."
    return f"{what}: clear of zero for {listed(clear)} only."


def unfinished(summary: Mapping[str, Any]) -> str:
    """What is missing of the run; empty where nothing is."""
    missing = sum(account["missing"] for account in summary["ledger"].values())
    ungraded = sum(account["ungraded"] for account in summary["ledger"].values())
    absent = [
        text
        for text, count in (
            (f"{several(missing, 'planned sample')} missing", missing),
            (f"{several(ungraded, 'sample')} not graded yet", ungraded),
            ("stages are still to come", not summary["finished"]),
        )
        if count
    ]
    return f"{listed(absent)[0].upper()}{listed(absent)[1:]}. The figures below are of what is committed." if absent else ""


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
