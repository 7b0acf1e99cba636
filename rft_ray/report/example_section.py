"""The examples of a run's report: one foldable entry per problem, and a form that filters them."""

from __future__ import annotations

import re

from markupsafe import Markup

from rft_ray.records import REJECTIONS, Status
from rft_ray.report.examples import Example, Shown
from rft_ray.report.facts import RunFacts
from rft_ray.report.formatting import STATUSES, several
from rft_ray.report.html import marked, paragraph, quoted, render, section
from rft_ray.report.method import Method, method_of

SOLVED = {"never": "by no sample", "sometimes": "by some samples", "always": "by every sample"}
_ANSWER = re.compile(r"####\s*\S")
_EQUATION = re.compile(r"'?(.+?)'?: ")


def examples(facts: RunFacts) -> Markup:
    if not facts.examples:
        return Markup()
    reasons = {status for example in facts.examples for status in example.counts}
    count, seen = len(facts.examples), facts.problems_seen
    selection = f"all {seen:,} problems" if count == seen else f"a fixed sample of {count:,} of {seen:,} problems"
    return section(
        "examples",
        "Examples",
        paragraph(
            f"What the models wrote for {selection} of the training set: the gold solution, the paths that were kept, "
            "and some rejected samples, with what the grader read marked: equations that hold (✓), fail (✗), cannot be "
            "read or decided (?), or are taken back by the text (struck out), and final answers (boxed). A mark's rule "
            "is shown when pointed at. Long texts are cut."
        ),
        render(
            "examples.html",
            reasons=[status for status in REJECTIONS if status in reasons],
            statuses=STATUSES,
            solved=SOLVED,
            problems=[_problem(example, method_of(facts.config)) for example in facts.examples],
        ),
    )


def _problem(example: Example, method: Method) -> dict[str, object]:
    """What the template shows of one problem. `method`: the run's."""
    right, total = example.counts.get(Status.CORRECT, 0), sum(example.counts.values())
    reasons = [status for status in REJECTIONS if example.counts.get(status)]
    return {
        "question": example.question.text,
        "reasons": " ".join(reasons),
        "solved": "never" if not right else "always" if right == total else "sometimes",
        "right": right,
        "total": total,
        "width": f"{100 * right / max(total, 1):.0f}",
        "gold": marked(example.gold, example.gold_marks) if example.gold_marks else quoted(example.gold),
        "kept": [_kept(shown, method.same) for shown in example.kept],
        "kept_count": several(example.kept_in_all, method.path),
        "kept_more": example.kept_in_all - len(example.kept),
        "rejected": [_rejected(shown) for shown in example.rejected],
        "rejected_count": ", ".join(f"{STATUSES[status]} {example.counts[status]}" for status in reasons) or "none",
    }


def _kept(shown: Shown, same: str) -> dict[str, object]:
    others = shown.shared_by - 1
    sharing = f", and {several(others, 'more sample')} with {same}" if others > 0 else ""
    return {"model": shown.model, "index": shown.sample_index, "sharing": sharing, "text": _text(shown)}


def _rejected(shown: Shown) -> dict[str, object]:
    return {
        "model": shown.model,
        "index": shown.sample_index,
        "reason": STATUSES[shown.status],
        "detail": f": {shown.detail.text}" if shown.detail.text else "",
        "text": _text(shown),
    }


def _text(shown: Shown) -> Markup:
    """The text with the places marked that the grader read; with another verifier than gsm8k, the one that decided."""
    return marked(shown.text, shown.marks) if shown.marks else quoted(shown.text, deciding(shown))


def deciding(shown: Shown) -> str:
    """The part of a rejected text that decided the verdict, as written; empty when no part of it did."""
    text = shown.text.text
    if shown.status is Status.WRONG_ANSWER:
        return next((line for line in reversed(text.split("\n")) if _ANSWER.search(line)), "")
    if shown.status in (Status.BAD_EQUATION, Status.UNDECIDED) and (match := _EQUATION.match(shown.detail.text)):
        written = f"<<{match[1]}>>"
        return written if written in text else match[1] if match[1] in text else ""
    return ""
