"""`RunFacts` -> the report's HTML: the result in one sentence, then the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rft_ray.evaluation.metrics import Difference
from rft_ray.evaluation.summary_records import Summary
from rft_ray.report import accuracy, example_section, run_details, sections
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import duration, listed, percent, points, setting_name, several, signed
from rft_ray.report.html import page, render
from rft_ray.report.method import method_of

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


@dataclass(frozen=True, slots=True)
class Effect:
    """What RFT changed for one model: its greedy accuracy before RFT and after it, and the paired difference.

    Example: Effect("tiny-s", "sft", 0.202, 0.324, Difference(0.122, 0.092, 0.152, 1000))
    """

    model: str
    over: str
    """The setting before RFT: `sft`, or `base` for a model that is not fine-tuned on gold."""
    before: float
    after: float
    difference: Difference


def run_page(facts: RunFacts) -> Markup:
    """The whole report as one HTML file."""
    sections = [(name, label, make(facts)) for name, label, make in SECTIONS]
    sentence, certainty = headline(facts.summary, facts.config)
    return page(
        "run.html",
        run=facts.summary.run,
        url=facts.url,
        headline=sentence,
        certainty=certainty,
        warning=unfinished(facts.summary),
        tiles=_tiles(facts),
        sections=[section for section in sections if section[2]],
    )


def headline(summary: Summary, config: Mapping[str, Any]) -> tuple[Markup, str]:
    """The result in one sentence, and how certain it is, as plain text. `config`: the run's, as a tree, or empty."""
    changes = _effects(summary)
    accounts = summary.ledger.values()
    gains = sorted(100 * change.difference.value for change in changes)
    sentence = render(
        "run_headline.html",
        samples=several(sum(account.sampled for account in accounts), "sample"),
        accepted=f"{sum(account.accepted for account in accounts):,}",
        paths=several(
            summary.corpus.paths if summary.corpus else 0, method_of(config).path.replace("path", "correct path")
        ),
        source=_source(summary, config),
        problems=several(summary.problems.test, "unseen problem"),
        verb=_verb(changes),
        changes=[
            {"model": change.model, "before": percent(change.before), "after": percent(change.after)}
            for change in changes
        ],
        gains=signed(f"{gains[0]:+.1f} to {gains[-1]:+.1f} points") if len(changes) > NAMED else "",
    )
    return sentence, _certainty(changes) if changes else ""


def _source(summary: Summary, config: Mapping[str, Any]) -> str:
    """Whose paths the models learned from; one without an accepted sample gave none."""
    if len(summary.ledger) == 1:
        [only] = summary.ledger
        specs = [spec for spec in config.get("models") or () if spec["name"] == only]
        other = next((place for spec in specs if (place := spec.get("sample_from")) not in (None, "sft", "base")), None)
        itself = not other and {entry.model for entry in summary.models if entry.stage == "rft"} == {only}
        return "from the model itself" if itself else f"from {other or only}"
    givers = [name for name, account in summary.ledger.items() if account.accepted]
    return f"from {givers[0]} alone" if len(givers) == 1 else f"from {len(givers) or len(summary.ledger)} models"


def _verb(changes: Sequence[Effect]) -> str:
    signs = {(change.difference.value > 0) - (change.difference.value < 0) for change in changes}
    return {1: "raised", -1: "lowered", 0: "did not change"}[signs.pop()] if len(signs) == 1 else "changed"


def _effects(summary: Summary) -> list[Effect]:
    return [
        Effect(model, over, by[over]["maj1@1"].value, by["rft"]["maj1@1"].value, difference)
        for model, by in summary.evaluation.items()
        for over in [next((setting for setting in ("sft", "base") if setting in by), "")]
        if "rft" in by and (difference := summary.paired.get(model, {}).get(f"rft_minus_{over}"))
    ]


def _certainty(changes: Sequence[Effect]) -> str:
    """The differences, and whether their intervals exclude zero."""
    shown = listed([f"{change.model} {points(change.difference)}" for change in changes[:NAMED]])
    shown += f", and {len(changes) - NAMED} more below" if len(changes) > NAMED else ""
    clear = [change.model for change in changes if change.difference.low > 0 or change.difference.high < 0]
    if len(clear) == len(changes):
        verdict = {1: "It is", 2: "Both are"}.get(len(changes), "All are") + " clear of zero."
    elif clear:
        verdict = f"Clear of zero for {listed(clear)} only."
    else:
        none = "None is" if len(changes) > 1 else "It is not"
        verdict = f"{none} clear of zero: this run alone shows no effect."
    over = listed([setting_name(setting) for setting in dict.fromkeys(change.over for change in changes)])
    return f"Against {over}, on the same problems, with 95\u00a0% intervals: {shown}. {verdict}"


def unfinished(summary: Summary) -> str:
    """What the run has not done yet; empty when it has finished."""
    accounts = summary.ledger.values()
    missing = sum(account.missing for account in accounts)
    held = sum(account.quarantined for account in accounts)
    reasons = f" ({held:,} of them quarantined; summary.json has the reasons)" if held else ""
    ungraded = sum(account.ungraded for account in accounts)
    absent = [
        text
        for text, count in (
            (f"{several(missing, 'planned sample')} missing{reasons}", missing),
            (f"{several(ungraded, 'sample')} not graded yet", ungraded),
            ("later stages have not run yet", not summary.finished),
        )
        if count
    ]
    if not absent:
        return ""
    return f"{listed(absent)[0].upper()}{listed(absent)[1:]}. The figures below cover what is committed."


def _tiles(facts: RunFacts) -> list[tuple[str, str, str]]:
    summary = facts.summary
    sampled = sum(account.sampled for account in summary.ledger.values())
    accepted = sum(account.accepted for account in summary.ledger.values())
    train = summary.problems.train
    paths = summary.corpus.paths if summary.corpus else 0
    k = f"k = {facts.paths.k} from {several(len(summary.ledger), 'model')}" if facts.paths else ""
    return [
        ("Training problems", f"{train:,}", f"{summary.problems.test:,} to test on"),
        ("Samples", f"{sampled:,}", k),
        ("Accepted", percent(accepted / max(sampled, 1)), f"{accepted:,} samples"),
        (f"{method_of(facts.config).path.capitalize()}s", f"{paths:,}", f"{paths / max(train, 1):.2f} a problem"),
        ("Time", duration(summary.seconds), "summed over stages"),
    ]
