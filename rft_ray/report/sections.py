"""The sections of a run's report: `RunFacts` -> `Markup`, one function each; empty when the run has no such data."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping

from markupsafe import Markup

from rft_ray.evaluation.summary_records import Account
from rft_ray.records import REJECTIONS, Status
from rft_ray.report import charts
from rft_ray.report.charts import draw
from rft_ray.report.facts import RunFacts, Samples
from rft_ray.report.formatting import STATUS_COLOURS, STATUSES, model_colours, percent, several, whole_percent
from rft_ray.report.html import figure, paragraph, section, table
from rft_ray.report.method import method_of
from rft_ray.report.second_opinion import second_opinion

UNION = "all models together"
BINS = 24


def verdicts(facts: RunFacts) -> Markup:
    ledger = facts.summary.ledger
    rows = [
        {
            "row": model,
            "part": STATUSES[status],
            "count": count,
            "text": f"{model}, {STATUSES[status]}: {count:,} ({percent(count / max(account.sampled, 1))})",
        }
        for model, account in ledger.items()
        for status, count in _counts(account).items()
    ]
    if not any(account.sampled for account in ledger.values()):
        return Markup()
    return section(
        "samples",
        "Verdicts of the samples",
        paragraph(
            f"A sample is accepted when {method_of(facts.config).accepted}. The counts add up: "
            "planned = sampled + skipped + missing, sampled = accepted + rejected + ungraded."
        ),
        *(
            [paragraph(f"In the figures below and the examples, {facts.partly_verified}.", "note")]
            if facts.partly_verified
            else []
        ),
        *_partly_read(ledger),
        figure(
            "verdict-chart",
            "Accepted and rejected samples of the training problems, by reason",
            "Share of samples by verdict: " + "; ".join(str(row["text"]) for row in rows if row["count"]),
            draw("verdicts", charts.shares, rows, STATUS_COLOURS),
            _ledger_table(ledger),
        ),
        second_opinion(facts),
    )


def _partly_read(ledger: Mapping[str, Account]) -> list[Markup]:
    """Says how many samples have equations that cannot all be read; nothing where there are none."""
    counts = {model: account.partly_read for model, account in ledger.items() if account.partly_read}
    if not counts:
        return []
    shown = ", ".join(f"{model} {count:,}" for model, count in counts.items())
    return [
        paragraph(
            f"Right answers with equations that cannot all be read: {shown}. They are accepted, or undecided where "
            "grading.unread is reject."
        )
    ]


def _counts(account: Account) -> dict[Status, int]:
    rejected = {status: account.rejected.get(status, 0) for status in REJECTIONS}
    return {Status.CORRECT: account.accepted, **rejected}


def _ledger_table(ledger: Mapping[str, Account]) -> Markup:
    head = ["Model", "planned", "skipped", "missing", "sampled", *(STATUSES[status] for status in Status), "ungraded"]
    rows: list[list[object]] = []
    for model, account in ledger.items():
        states = [account.planned, account.skipped, account.missing, account.sampled]
        rows.append([model, *states, *_counts(account).values(), account.ungraded])
    return table("Samples by verdict", head, rows)


def diversity(facts: RunFacts) -> Markup:
    paths = facts.paths
    if paths is None or not paths.curves[""][-1][1]:
        return Markup()
    models = [name for name in paths.curves if name]
    named = {name: name for name in models} | ({"": UNION} if len(models) > 1 else {})
    rows, ahead = _curve_rows(facts, named)
    colours = model_colours(models) | {UNION: "var(--ink)"}
    whole = paths.doubling[""]
    per_problem = paths.curves[""][-1][1]
    says = (
        f"With k = {paths.k} a problem has {per_problem:.2f} distinct correct paths on average, gold not counted. "
        f"Doubling k should add {whole.gain:.2f} more, 95\u00a0% interval {whole.low:.2f} to {whole.high:.2f}: "
        f"+{whole_percent(whole.gain / per_problem)}."
    )
    tried = ""
    if paths.check:
        tried = (
            f"A check on this run: from each model's first {paths.check.k} samples, the same estimate expects "
            f"{paths.check.expected:.2f} new paths from as many more samples; the run has {paths.check.observed:.2f}."
        )
    return section(
        "paths",
        "Distinct paths against k",
        paragraph(f"Two correct samples are the same path when they have {method_of(facts.config).same}. {says}"),
        figure(
            "path-chart",
            "Distinct correct paths per problem; dashed: expected if k is doubled",
            says,
            draw("paths", charts.path_curves, rows, ahead, colours, "distinct paths per problem"),
            table(
                "Distinct correct paths per problem by samples per problem and model",
                ["k", *named.values()],
                [
                    [str(k), *(f"{paths.curves[name][at][1]:.2f}" for name in named)]
                    for at, (k, _) in enumerate(paths.curves[""])
                ]
                + [[f"{2 * paths.k}, expected", *(f"{_ahead(facts, name):.2f}" for name in named)]],
            ),
        ),
        paragraph(
            f"{tried} The curve is the mean over all choices of k of the samples (rarefaction); the estimate is Good "
            "and Toulmin's with Efron and Thisted's weights.",
            "note",
        ),
    )


def _ahead(facts: RunFacts, name: str) -> float:
    assert facts.paths is not None
    return facts.paths.curves[name][-1][1] + facts.paths.doubling[name].gain


def _curve_rows(facts: RunFacts, named: Mapping[str, str]) -> tuple[charts.Rows, charts.Rows]:
    """The points of the curves; and for each curve its last point and the expected one at twice the k."""
    assert facts.paths is not None
    rows, ahead = [], []
    for name, shown in named.items():
        curve, doubling = facts.paths.curves[name], facts.paths.doubling[name]
        rows += [
            {"name": shown, "k": k, "paths": value, "text": f"{shown}, k = {k}: {value:.2f} paths a problem"}
            for k, value in curve
        ]
        k, end = curve[-1]
        low, high = end + doubling.low, end + doubling.high
        ahead += [
            {"name": shown, "k": k, "paths": end, "low": end, "high": end, "text": ""},
            {
                "name": shown,
                "k": 2 * k,
                "paths": end + doubling.gain,
                "low": low,
                "high": high,
                "text": f"{shown}, k = {2 * k}: {end + doubling.gain:.2f} expected, {low:.2f} to {high:.2f}",
            },
        ]
    return rows, ahead


def models(facts: RunFacts) -> Markup:
    complementarity = facts.summary.complementarity
    names = list(complementarity.by_model)
    if len(names) < 2 or not complementarity.union:
        return Markup()
    overlap = complementarity.overlap
    shares = {a: {b: overlap[a][b] / max(overlap[a][a], 1) for b in names} for a in names}
    rows = [
        {
            "row": a,
            "column": b,
            "share": shares[a][b],
            "shown": f"{overlap[a][a]:,}" if a == b else whole_percent(shares[a][b]) if overlap[a][a] else "\u2013",
            "text": f"Of the {overlap[a][a]:,} paths of {a}, {b} also sampled {overlap[a][b]:,}"
            if a != b
            else f"{a} sampled {overlap[a][a]:,} distinct paths",
        }
        for a, b in itertools.product(names, names)
    ]
    alone = sum(paths.exclusive for paths in complementarity.by_model.values())
    return section(
        "models",
        "Paths by model",
        paragraph(
            f"The union has {several(complementarity.union, 'distinct path')}; {alone:,} of them "
            f"({whole_percent(alone / complementarity.union)}) come from one model only."
        ),
        figure(
            "overlap-chart",
            "Share of the paths of a row's model …",
            "; ".join(str(row["text"]) for row in rows),
            draw("overlap", charts.overlap, rows, names),
            table(
                "Distinct paths by model",
                ["Model", "distinct", "from no other model", "share lost without it"],
                [
                    [name, paths.distinct, paths.exclusive, percent(paths.marginal_gain)]
                    for name, paths in complementarity.by_model.items()
                ],
            ),
        ),
    )


def difficulty(facts: RunFacts) -> Markup:
    if facts.paths is None:
        return Markup()
    k, seen = facts.paths.k, facts.problems_seen
    edges = _edges(k)
    labels = [_range(low, high) for low, high in edges]
    rows = [
        {
            "model": model,
            "bin": label,
            "part": "problems",
            "count": (count := sum(samples.right_of_k[right] for right in range(low, high + 1))),
            "text": f"{model}: {several(count, 'problem')} solved by {label} of {k} samples",
        }
        for model, samples in facts.samples.items()
        for label, (low, high) in zip(labels, edges, strict=True)
    ]
    never = {model: samples.right_of_k[0] for model, samples in facts.samples.items()}
    held = "nothing of them"
    if method_of(facts.config).gold:
        held = "only their gold solution" + (", where they have one" if facts.summary.problems.answer_only else "")
    return section(
        "difficulty",
        "Difficulty of the problems",
        paragraph(
            f"Of {several(seen, 'training problem')}, {facts.unsolved:,} "
            f"({whole_percent(facts.unsolved / max(seen, 1))}) have no correct path from any model"
            + (f": the corpus holds {held}." if facts.unsolved else "."),
        ),
        figure(
            "difficulty-chart",
            f"Problems by how many of a model's {k} samples were accepted",
            "Problems never solved: " + "; ".join(f"{model} {count:,}" for model, count in never.items()),
            draw(
                "difficulty",
                charts.histograms,
                rows,
                {"problems": "var(--accent)"},
                labels,
                f"accepted of {k}",
                "problems",
            ),
            table(
                f"Number of problems by accepted samples of {k}",
                ["Accepted", *facts.samples],
                [
                    [label, *(row["count"] for row in rows if row["bin"] == label)]  # in the order of the models
                    for label in labels
                ],
            ),
        ),
    )


def _edges(k: int) -> list[tuple[int, int]]:
    """0, then 1 … k in at most 12 ranges."""
    step = math.ceil(k / 12)
    return [(0, 0), *((low, min(low + step - 1, k)) for low in range(1, k + 1, step))]


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def lengths(facts: RunFacts) -> Markup:
    if facts.paths is None:
        return Markup()
    longest = max((n for samples in facts.samples.values() for by in samples.lengths.values() for n in by), default=0)
    width = max(1, math.ceil((longest + 1) / BINS / 5) * 5) if longest >= BINS else 1
    starts = list(range(0, longest + 1, width))
    parts = {"accepted": "var(--accent)", "rejected": "var(--quiet)", "cut, without an answer": "var(--rose)"}
    rows = [
        {
            "model": model,
            "bin": str(start),
            "part": part,
            "count": count,
            "text": f"{model}, {start} to {start + width - 1} tokens: {count:,} {part}",
        }
        for model, samples in facts.samples.items()
        for part, by_length in zip(parts, _by_outcome(samples), strict=True)
        for start, count in _binned(by_length, width).items()
    ]
    cut = "; ".join(
        f"{model} {samples.cut:,} of {_total(samples):,} ({percent(samples.cut / max(_total(samples), 1))})"
        for model, samples in facts.samples.items()
    )
    return section(
        "lengths",
        "Lengths and truncation",
        paragraph(f"Samples that reached the token limit: {cut}."),
        figure(
            "length-chart",
            "Samples by length in tokens",
            f"Lengths of samples. Cut at the token limit: {cut}",
            draw("lengths", charts.histograms, rows, parts, [str(start) for start in starts], "tokens", "samples"),
            table(
                "Length of samples in tokens",
                ["Model and verdict", "samples", "median", "90th percentile", "longest"],
                [
                    [f"{model}, {part}", sum(by.values()), *_quantiles(by)]
                    for model, samples in facts.samples.items()
                    for part, by in zip(parts, _by_outcome(samples), strict=True)
                    if by
                ],
            ),
        ),
    )


def _by_outcome(samples: Samples) -> tuple[Counter[int], Counter[int], Counter[int]]:
    """Lengths of accepted, rejected and truncated samples."""
    rejected: Counter[int] = Counter()
    for status, by_length in samples.lengths.items():
        if status not in (Status.CORRECT, Status.TRUNCATED):
            rejected.update(by_length)
    return samples.lengths[Status.CORRECT], rejected, samples.lengths[Status.TRUNCATED]


def _total(samples: Samples) -> int:
    return sum(sum(by.values()) for by in samples.lengths.values())


def _binned(by_length: Mapping[int, int], width: int) -> Counter[int]:
    bins: Counter[int] = Counter()
    for length, count in by_length.items():
        bins[length // width * width] += count
    return bins


def _quantiles(by_length: Mapping[int, int]) -> list[int]:
    """Median, 90th percentile and maximum of a histogram."""
    lengths = sorted(by_length)
    sums = list(itertools.accumulate(by_length[length] for length in lengths))
    return [lengths[next(at for at, s in enumerate(sums) if s >= share * sums[-1])] for share in (0.5, 0.9, 1.0)]
