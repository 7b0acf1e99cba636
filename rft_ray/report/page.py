"""`RunFacts` -> the report's HTML: what happened in one sentence, then the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft_ray.report import accuracy, example_section, run_details, sections
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import duration, listed, percent, points, several, signed
from rft_ray.report.html import document, escape

Effect = tuple[str, float, float, Mapping[str, float]]
"""A model evaluated after SFT and after RFT: its name, both accuracies, and the paired difference."""
NAMED = 3
"""Models that the headline names; of more, it gives the range."""
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


def run_page(facts: RunFacts) -> str:
    """The whole report as one HTML file."""
    made = [(name, label, make(facts)) for name, label, make in SECTIONS]
    run = facts.summary["run"]
    again = f"<code>python jobs/report.py --run {escape(facts.url)}</code>"
    footer = f"Made by rft-ray from what the run has committed; made again by {again}."
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
    changes = _effects(summary)
    paths = several(summary["corpus"].get("paths", 0), "distinct correct path")
    if not changes:
        accounts = summary["ledger"].values()
        sampled, accepted = (sum(one[name] for one in accounts) for name in ("sampled", "accepted"))
        text = f"{several(sampled, 'sample')}, {accepted:,} of them accepted, gave <b>{paths}</b>"
        return f"{text}. No model has been evaluated both after SFT and after RFT yet.", ""
    count = len(summary["ledger"])
    whose = "of its own" if count == 1 else f"of {count} models"
    test = several(summary["problems"]["test"], "unseen problem")
    text = f"Fine-tuning on {paths} {whose} {_verb(changes)} accuracy on {test}{_shown(changes)}."
    return text, _certainty(changes)


def _verb(changes: Sequence[Effect]) -> str:
    signs = {(effect["value"] > 0) - (effect["value"] < 0) for _, _, _, effect in changes}
    return {1: "raised", -1: "lowered", 0: "did not change"}[signs.pop()] if len(signs) == 1 else "changed"


def _shown(changes: Sequence[Effect]) -> str:
    if len(changes) <= NAMED:
        one_by_one = [
            f"{escape(name)} from {percent(before)} to <b>{percent(after)}</b>" for name, before, after, _ in changes
        ]
        return f": {listed(one_by_one)}"
    gains = sorted(100 * effect["value"] for _, _, _, effect in changes)
    return f", for {len(changes)} models by <b>{signed(f'{gains[0]:+.1f} to {gains[-1]:+.1f} points')}</b>"


def _effects(summary: Mapping[str, Any]) -> list[Effect]:
    return [
        (name, by["sft"]["maj1@1"]["value"], by["rft"]["maj1@1"]["value"], summary["paired"][name]["rft_minus_sft"])
        for name, by in summary["evaluation"].items()
        if {"sft", "rft"} <= set(by) and "rft_minus_sft" in summary["paired"].get(name, {})
    ]


def _certainty(changes: Sequence[Effect]) -> str:
    """The differences, and whether they are clear of zero. Says no more than the intervals do."""
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
    """What is missing of the run; empty where nothing is."""
    missing = sum(account["missing"] for account in summary["ledger"].values())
    held = sum(account.get("quarantined", 0) for account in summary["ledger"].values())
    reasons = f" ({held:,} of them quarantined: summary.json says why)" if held else ""
    ungraded = sum(account["ungraded"] for account in summary["ledger"].values())
    absent = [
        text
        for text, count in (
            (f"{several(missing, 'planned sample')} missing{reasons}", missing),
            (f"{several(ungraded, 'sample')} not graded yet", ungraded),
            ("stages are still to come", not summary["finished"]),
        )
        if count
    ]
    if not absent:
        return ""
    return f"{listed(absent)[0].upper()}{listed(absent)[1:]}. The figures below are of what is committed."


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
