"""The judge's opinions on rejected samples, as a part of the report's section on verdicts: `RunFacts` -> `Markup`."""

from __future__ import annotations

from markupsafe import Markup

from rft_ray.records import Status
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import STATUSES
from rft_ray.report.html import paragraph, table


def second_opinion(facts: RunFacts) -> Markup:
    """A table of the opinions by model and verdict; empty where no judge was asked."""
    rows: list[list[object]] = []
    for model, account in facts.summary.ledger.items():
        for status, opinions in account.judged.items():
            counts = (opinions.judged, opinions.agreed, opinions.disagreed, opinions.no_opinion)
            rows.append([f"{model}, {STATUSES[Status(status)]}", account.rejected.get(status, 0), *counts])
    if not rows:
        return Markup()
    accepted = (facts.config.get("corpus") or {}).get("judge") == "accept"
    says = (
        "Samples that it calls right (disagreed) are candidates for paths too, marked with the verdict in the corpus."
        if accepted
        else "They are kept apart: no path and no example of the corpus depends on them."
    )
    head = ["Model and verdict", "rejected", "judged", "agreed", "disagreed", "no opinion"]
    return Markup().join(
        (
            paragraph(f"A judge gave a second opinion on rejected samples; its opinions change no verdict. {says}"),
            table("Second opinion of the judge", head, rows),
        )
    )
