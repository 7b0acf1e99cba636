"""The examples of a run's report: problems that open, and a form that filters them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rft_ray.records import REJECTIONS, Status
from rft_ray.report.examples import Example, Shown
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import STATUSES, several
from rft_ray.report.html import escape, paragraph, quoted, section

SOLVED = {"never": "by no sample", "sometimes": "by some samples", "always": "by every sample"}
_ANSWER = re.compile(r"####\s*\S")
_EQUATION = re.compile(r"'?(.+?)'?: ")


def examples(facts: RunFacts) -> str:
    if not facts.examples:
        return ""
    found = {status for example in facts.examples for status in example.counts if status is not Status.CORRECT}
    count, seen = len(facts.examples), facts.problems_seen
    sample = f"all {seen:,} problems" if count == seen else f"a fixed sample of {count:,} of {seen:,} problems"
    return section(
        "examples",
        "Examples",
        paragraph(
            f"What the models wrote for {sample} of the training set: gold, the paths that were kept, and some that "
            "were rejected, with the text that decided. Long texts are cut."
        ),
        _form([status for status in REJECTIONS if status in found]),
        "".join(map(_problem, facts.examples)),
        '<button id="more" type="button" class="js-only" hidden>Show 20 more</button>',
    )


def _form(reasons: Sequence[Status]) -> str:
    reason = "".join(f'<option value="{one}">{escape(STATUSES[one])}</option>' for one in reasons)
    solved = "".join(f'<option value="{key}">{escape(text)}</option>' for key, text in SOLVED.items())
    return (
        '<form id="filters" class="filters js-only" role="search" aria-label="Filter the examples">'
        '<label>Find words<input type="search" name="words" autocomplete="off" spellcheck="false"></label>'
        f'<label>Rejected for<select name="reason"><option value="">any reason</option>{reason}</select></label>'
        f'<label>Solved<select name="solved"><option value="">or not</option>{solved}</select></label></form>'
        '<p id="shown" class="note js-only" role="status" aria-live="polite"></p>'
    )


def _problem(example: Example) -> str:
    right, total = example.counts.get(Status.CORRECT, 0), sum(example.counts.values())
    solved = "never" if not right else "always" if right == total else "sometimes"
    reasons = " ".join(status for status in REJECTIONS if example.counts.get(status))
    more = example.kept_in_all - len(example.kept)
    kept = "".join(map(_kept, example.kept)) or paragraph("None.", "note")
    rejected = "".join(map(_rejected, example.rejected)) or paragraph("None.", "note")
    return (
        f'<details class="problem" data-reasons="{reasons}" data-solved="{solved}">'
        f'<summary><span class="question" dir="auto">{escape(example.question.text)}</span>'
        f'<span class="tally"><b>{right}</b> of {total} right<i aria-hidden="true">'
        f'<s style="width:{100 * right / max(total, 1):.0f}%"></s></i></span></summary><div class="inside">'
        f"<h3>Gold</h3>{quoted(example.gold)}"
        f"<h3>Kept: {several(example.kept_in_all, 'distinct path')}</h3>{kept}"
        f"{paragraph(f'… and {more} more', 'note') if more else ''}"
        f"<h3>Rejected: {_reasons(example)}</h3>{rejected}</div></details>"
    )


def _reasons(example: Example) -> str:
    counted = [f"{STATUSES[one]} {example.counts[one]}" for one in REJECTIONS if example.counts.get(one)]
    return escape(", ".join(counted) or "none")


def _kept(shown: Shown) -> str:
    others = shown.shared_by - 1
    also = f", and {several(others, 'more sample')} with the same equations" if others > 0 else ""
    return (
        f'<div class="sample kept"><p>{escape(shown.model)}, sample {shown.sample_index}{also}</p>'
        f"{quoted(shown.text)}</div>"
    )


def _rejected(shown: Shown) -> str:
    detail = f": {escape(shown.detail.text)}" if shown.detail.text else ""
    return (
        f'<div class="sample rejected"><p><b>{escape(STATUSES[shown.status])}</b>{detail} '
        f"({escape(shown.model)}, sample {shown.sample_index})</p>{quoted(shown.text, deciding(shown))}</div>"
    )


def deciding(shown: Shown) -> str:
    """The part of a rejected text that decided, as it stands there; empty where no part did."""
    text = shown.text.text
    if shown.status is Status.WRONG_ANSWER:
        return next((line for line in reversed(text.split("\n")) if _ANSWER.search(line)), "")
    if shown.status in (Status.BAD_EQUATION, Status.UNDECIDED) and (match := _EQUATION.match(shown.detail.text)):
        written = f"<<{match[1]}>>"
        return written if written in text else match[1] if match[1] in text else ""
    return ""
