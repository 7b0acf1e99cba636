"""Whether the paper's findings hold in the study's fits and comparisons, by rules that are the same for every run.

The bounds of the rules for lines are such that the paper's own tables give `yes` for all of them (tested).

In: fits, slopes and comparisons. Out: `Finding`s. A finding without figures is left out. Intervals are 95 %,
not corrected for multiple comparisons: of twenty findings without an effect, one is expected to look like an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rft_ray.study.result import CommonSlope, Comparison, Estimate, Finding, Fit, Holds

LINEAR_R2 = 0.75
"""The least R2 at which points count as a line; the same fits of the paper's figures have 0.78 to 0.98."""
NO_WORSE = 0.02
"""The largest loss of accuracy that counts as no loss: two points."""


def findings(fits: Sequence[Fit], slopes: Sequence[CommonSlope], comparisons: Sequence[Comparison]) -> list[Finding]:
    """Every finding that has figures, by question."""
    made = [*_of_loss(fits), *_of_lines(fits, slopes), *_of_comparisons(comparisons)]
    return sorted(made, key=lambda finding: finding.question)


def by_interval(estimate: Estimate, *, at_least: float = 0.0) -> Holds:
    """`yes` when the whole interval lies above the bound, `no` when it lies below, else `unclear`."""
    return "yes" if estimate.low > at_least else "no" if estimate.high < at_least else "unclear"


def _of_loss(fits: Sequence[Fit]) -> Iterator[Finding]:
    """Lines over pre-training loss, one point per model."""
    over_models = {fit.name: fit for fit in fits if not fit.group}
    if fit := over_models.get("sft-loss"):
        falls = by_interval(_negated(fit.slope))
        holds = falls if falls != "yes" or fit.r2 >= LINEAR_R2 else "unclear"
        rule = f"yes: the slope's interval lies below 0 and R2 >= {LINEAR_R2}; no: it lies above 0; else unclear"
        yield Finding("loss", 1, "Accuracy falls about linearly with pre-training loss.", holds, _figures(fit), rule)
    if fit := over_models.get("gain-loss"):
        rule = "yes: the gain's slope against loss lies above 0; no: below; else unclear"
        yield Finding("weaker", 1, "Weaker models gain more from RFT.", by_interval(fit.slope), _figures(fit), rule)
    if fit := over_models.get("slope-loss"):
        rule = "yes: the slope of (gain per doubling) against loss lies above 0; no: below; else unclear"
        text = "Better models gain less from a doubling of the gold data."
        yield Finding("data-better", 2, text, by_interval(fit.slope), _figures(fit), rule)


def _of_lines(fits: Sequence[Fit], slopes: Sequence[CommonSlope]) -> Iterator[Finding]:
    """Lines per model: decided by the common slope, or by the slope of the only model."""
    asked = (
        ("data", 2, "sft-data", LINEAR_R2, "SFT accuracy is log-linear in the amount of gold data."),
        ("k", 3, "rft-k", 0.0, "RFT accuracy rises with the number of samples per problem."),
        ("paths", 3, "rft-paths", LINEAR_R2, "RFT accuracy follows the number of distinct paths."),
    )
    for key, question, name, r2, text in asked:
        mine = [fit for fit in fits if fit.name == name]
        common = next((slope for slope in slopes if slope.name == name), None)
        overall = common or (mine[0] if mine else None)
        if overall:
            holds = by_interval(overall.slope)
            holds = holds if holds != "yes" or overall.r2 >= r2 else "unclear"
            rule = "the slope's interval, common to all models, lies above 0" + (f" and R2 >= {r2}" if r2 else "")
            each = [f"{fit.group} {_figures(fit)}" for fit in mine if common]
            here = "; ".join([_figures(overall), *each])
            yield Finding(key, question, text, holds, here, f"yes: {rule}; no: it lies below 0; else unclear")


def _of_comparisons(comparisons: Sequence[Comparison]) -> Iterator[Finding]:
    """Paired differences: decided by the mean over models, or by the only model's difference."""
    asked = (
        ("gain", "rft-sft", 0.0, "RFT on pooled paths beats SFT."),
        ("steps", "rft-steps", 0.0, "RFT gains more than training on gold alone for as many steps."),
        (
            "dedup",
            "distinct-all",
            -NO_WORSE,
            "Distinct paths alone do as well as all correct paths, which are many times as many.",
        ),
        (
            "repeats",
            "distinct-thinned",
            0.0,
            "At equal corpus size, distinct paths beat repeated paths.",
        ),
        ("choice", "distinct-random", 0.0, "Choosing by equation list beats a random choice of as many correct paths."),
        ("pooling", "union-best", 0.0, "Pooling models beats any single model."),
    )
    for key, name, bound, text in asked:
        mine = [comparison for comparison in comparisons if comparison.name == name]
        overall = next((comparison for comparison in mine if not comparison.model), mine[0] if mine else None)
        if overall:
            rule = f"yes: the mean difference's interval lies above {100 * bound:g} points; no: below; else unclear"
            here = f"{overall.first} minus {overall.second}: {points(overall.difference)}"
            each = [
                f"{comparison.model} {points(comparison.difference)}"
                for comparison in mine
                if comparison.model and comparison is not overall
            ]
            holds = by_interval(overall.difference, at_least=bound)
            yield Finding(key, overall.question, text, holds, "; ".join([here, *each]), rule)


def points(estimate: Estimate) -> str:
    """A difference of accuracies. Example: `+4.2 points [1.0, 7.4]`"""
    return f"{100 * estimate.value:+.1f} points [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _figures(line: Fit | CommonSlope) -> str:
    per = "per doubling" if line.log2_x else "per 1.0 of loss"
    count = line.points if isinstance(line, CommonSlope) else len(line.points)
    return f"{points(line.slope)} {per}, R2 {line.r2:.2f}, n {count}"


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)
