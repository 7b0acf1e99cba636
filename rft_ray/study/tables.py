"""The study's points, fits and findings as tables of text, and the whole study as Markdown. Pure.

In: `Evidence` and fits. Out: `study.Table`s, every cell ready to print; `markdown(study)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rft_ray.study import paper
from rft_ray.study.answers import Series, best_sft, rft, sft, union
from rft_ray.study.findings import points
from rft_ray.study.points import Evidence
from rft_ray.study.result import Comparison, Fit, Selection, Study, Table

NOTHING = "-"
CHOICES: tuple[Selection, ...] = ("equations", "random", "thinned", "none")


def tables(evidence: Evidence, fits: Sequence[Fit], comparisons: Sequence[Comparison]) -> list[Table]:
    """All tables that have rows, by question."""
    made = [
        _by_loss(evidence, comparisons),
        _by_data(evidence, fits),
        _by_k(evidence),
        _by_choice(evidence),
        _matrix(evidence),
        _leave_one_out(comparisons),
        _cost(evidence),
        *_of_paper(),
    ]
    return [table for table in made if table.rows]


def _by_loss(evidence: Evidence, comparisons: Sequence[Comparison]) -> Table:
    gains = {gain.model: gain.difference for gain in comparisons if gain.name == "rft-sft"}
    rows = []
    for model in evidence.models:
        before, after = sft(evidence, model.name), union(evidence, model.name)
        loss = NOTHING if model.pretraining_loss is None else f"{model.pretraining_loss:.4f}"
        gain = points(gains[model.name]) if model.name in gains else NOTHING
        if before:
            longer = _percent(sft(evidence, model.name, schedule="steps"))
            rows.append((model.name, f"{model.parameters:,}", loss, _accuracy(before), longer, _accuracy(after), gain))
    columns = (
        "model",
        "parameters",
        "pre-training loss",
        "SFT",
        "SFT with as many steps as RFT",
        "RFT (union)",
        "gain over SFT",
    )
    note = (
        "maj1@1 on the test problems. The interval is 95 %, of one seed; with several seeds the accuracy is their mean."
    )
    return Table(1, "Accuracy against pre-training loss", columns, tuple(rows), note)


def _by_data(evidence: Evidence, fits: Sequence[Fit]) -> Table:
    shares = sorted({point.share for point in evidence.points if point.stage == "sft"}, reverse=True)
    slopes = {fit.group: fit for fit in fits if fit.name == "sft-data"}
    rows = []
    for model in evidence.models:
        best = [best_sft(evidence, model.name, share) for share in shares]
        slope = points(slopes[model.name].slope) if model.name in slopes else NOTHING
        r2 = f"{slopes[model.name].r2:.2f}" if model.name in slopes else NOTHING
        if len(shares) > 1 and any(best):
            rows.append((model.name, *(_share_cell(series) for series in best), slope, r2))
    columns = ("model", *(f"1/{round(1 / share)}" if share < 1 else "all" for share in shares), "per doubling", "R2")
    note = "The better of the recipe's epochs and (*) as many optimizer steps as on all gold problems, as in the paper."
    return Table(2, "SFT accuracy against the share of the gold data", columns, tuple(rows), note)


def _share_cell(best: Series | None) -> str:
    return _percent(best) + ("*" if best and best.first.schedule == "steps" else "")


def _by_k(evidence: Evidence) -> Table:
    ladder = sorted({point.k for point in evidence.points if point.stage == "rft"})
    rows = []
    for k in ladder:
        cells = [rft(evidence, name, [name], k) for name in evidence.headline]
        if any(cells):
            rows.append((str(k), *(_with_paths(series) for series in cells)))
    columns = ("k", *evidence.headline)
    note = "Accuracy (distinct paths per problem, gold not counted); each model trained on its own distinct paths."
    return Table(3, "RFT accuracy against samples per problem", columns, tuple(rows), note)


def _by_choice(evidence: Evidence) -> Table:
    rows = []
    for name in evidence.headline:
        cells = [rft(evidence, name, [name], selection=choice) for choice in CHOICES]
        if any(cells[1:]):
            rows.append((name, *(_with_paths(series) for series in cells)))
    columns = ("model", "distinct", "random, as many of each problem", "random, as many in all", "all correct")
    note = f"Own paths at k = {evidence.k}: accuracy (paths per problem)."
    return Table(3, "Which correct paths are kept", columns, tuple(rows), note)


def _matrix(evidence: Evidence) -> Table:
    rows = []
    for name in evidence.headline:
        cells = [rft(evidence, name, [sampler]) for sampler in evidence.samplers]
        if any(cells) and len(evidence.samplers) > 1:
            rows.append((name, *(_with_paths(series) for series in cells), _with_paths(union(evidence, name))))
    columns = ("trained model", *(f"paths of {name}" for name in evidence.samplers), "union")
    return Table(4, "Whose paths help which model", columns, tuple(rows), "Accuracy (paths per problem).")


def _leave_one_out(comparisons: Sequence[Comparison]) -> Table:
    union_comparisons = [
        comparison for comparison in comparisons if comparison.name in ("union-own", "union-best", "union-without")
    ]
    rows = tuple(
        (comparison.model or "mean", comparison.second, points(comparison.difference))
        for comparison in union_comparisons
    )
    note = "The best single sampler is chosen on the same test problems, which favours it over the union."
    return Table(4, "The union against a part of it", ("trained model", "against", "union is better by"), rows, note)


def _cost(evidence: Evidence) -> Table:
    rows = []
    for model in evidence.models:
        before, after = sft(evidence, model.name), union(evidence, model.name)
        if before and after:
            rows.append((model.name, *_costs(before, after)))
    columns = (
        *("model", "SFT FLOPs", "sampling FLOPs", "RFT FLOPs", "sampling s", "RFT s", "gain"),
        *("FLOPs per point", "s per point"),
    )
    note = (
        "RFT on the union. 6 FLOPs per parameter and trained token, 2 per sampled token; seconds on the machine of "
        "the run. Sampling is that of the whole union; the last two columns are (sampling + RFT) per point of "
        "accuracy gained."
    )
    return Table(5, "What a point costs", columns, tuple(rows), note)


def _costs(before: Series, after: Series) -> tuple[str, ...]:
    a, b = before.first, after.first
    gain = 100 * (after.accuracy - before.accuracy)
    flops, seconds = b.sampling_flops + b.training_flops, b.sampling_seconds + b.training_seconds
    return (
        *(f"{value:.1e}" for value in (a.training_flops, b.sampling_flops, b.training_flops)),
        *(f"{value:,.0f}" for value in (b.sampling_seconds, b.training_seconds)),
        f"{gain:+.1f}",
        f"{flops / gain:.1e}" if gain > 0 else NOTHING,
        f"{seconds / gain:,.0f}" if gain > 0 else NOTHING,
    )


def _of_paper() -> Iterator[Table]:
    rows = tuple(
        (
            *(cost.size, f"{cost.sft_hours:g}", f"{cost.sampling_hours:,g}", f"{cost.rft_hours:,g}"),
            f"{cost.rft_u33b - cost.sft:+.1f}",
            f"{(cost.sampling_hours + cost.rft_hours) / (cost.rft_u33b - cost.sft):,.1f}",
        )
        for cost in paper.COSTS
    )
    columns = ("LLaMA", "SFT h", "sampling h (own, k=100)", "RFT h (U33B)", "gain", "h per point")
    note = "Hours of one A100-80GB; the last column counts a model's own sampling, not that of the whole union."
    yield Table(5, "The paper's cost (arXiv 2308.01825)", columns, rows, note)


def _percent(series: Series | None) -> str:
    return f"{100 * series.accuracy:.1f}" if series else NOTHING


def _accuracy(series: Series | None) -> str:
    if series is None:
        return NOTHING
    interval = series.first.accuracy
    seeds = f" ({len(series.points)} seeds)" if len(series.points) > 1 else ""
    return f"{_percent(series)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]{seeds}"


def _with_paths(series: Series | None) -> str:
    return f"{_percent(series)} ({series.first.paths_per_problem:.2f})" if series else NOTHING


# --- Markdown -------------------------------------------------------------------------------------


def markdown(study: Study) -> str:
    """The study as a Markdown page: findings, tables, fits, and the command that made it."""
    return "\n".join(_lines(study)) + "\n"


def _lines(study: Study) -> Iterator[str]:
    done = "" if study.finished else f" Not finished: {len(study.points)} of {study.planned} points are evaluated."
    yield from ("# The scaling study", "", f"Made by `{study.command}`.{done}", "")
    yield f"{len(study.models)} base models, {study.train_problems} training problems, k = {study.k},"
    yield f"{study.test_problems} test problems, {len(study.points)} trained and evaluated models. Accuracy is greedy"
    yield from ("maj1@1 in percent; intervals are 95 %; differences are paired by problem.", "", "## Findings", "")
    findings = [(finding.paper, finding.holds, finding.here) for finding in study.findings]
    yield from _grid(("the paper's finding", "here", "figures"), findings)
    yield from (
        "",
        "The rule that decides each finding, the same for every run (its bounds are such that the paper's own figures "
        "pass):",
        "",
    )
    yield from (f"- {finding.paper} {finding.rule}." for finding in study.findings)
    for table in study.tables:
        yield from ("", f"## {table.title}", "", *_grid(table.columns, table.rows))
        yield from ("", table.note) if table.note else ()
    yield from ("", "## Fits", "")
    rows = [(fit.name, fit.group or "over models", fit.x, *_fit_cells(fit)) for fit in study.fits]
    rows += [
        (
            slope.name,
            "common slope",
            "",
            f"{points(slope.slope)} per doubling",
            "",
            f"{slope.r2:.2f}",
            str(slope.points),
        )
        for slope in study.slopes
    ]
    yield from _grid(("fit", "model", "x", "slope", "intercept", "R2", "n"), rows)
    if study.skipped:
        yield from (
            "",
            "## Not answered",
            "",
            *(f"- Question {skip.question}: {skip.reason}." for skip in study.skipped),
        )


def _fit_cells(fit: Fit) -> tuple[str, str, str, str]:
    slope = points(fit.slope) + (" per doubling" if fit.log2_x else "")
    return slope, points(fit.intercept), f"{fit.r2:.2f}", str(len(fit.points))


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "-|" * len(columns)
    yield from (f"| {' | '.join(row)} |" for row in rows)
