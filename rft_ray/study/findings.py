"""The paper's findings, held against the study's fits and comparisons by rules that are the same for every run.

Asked of the paper's own tables, the rules for lines say `yes` throughout (a test holds it): that set their bounds.

In: fits, slopes and comparisons. Out: `Finding`s. A finding whose figures are missing is left out. Intervals are
95 %, not corrected for asking several questions: of twenty findings that do not hold, one would look as if it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rft_ray.study.result import CommonSlope, Comparison, Estimate, Finding, Fit, Holds

LINEAR_R2 = 0.75
"""From here on points are said to lie on a line: by the same fits the paper's own figures have 0.78 to 0.98."""
NO_WORSE = 0.02
"""A loss of accuracy that counts as none: two points."""


def findings(fits: Sequence[Fit], slopes: Sequence[CommonSlope], comparisons: Sequence[Comparison]) -> list[Finding]:
    """Every finding that there are figures for, by question."""
    made = [*_of_loss(fits), *_of_lines(fits, slopes), *_of_comparisons(comparisons)]
    return sorted(made, key=lambda finding: finding.question)


def by_interval(estimate: Estimate, *, at_least: float = 0.0) -> Holds:
    """`yes` where the whole interval lies above the bound, `no` where it lies below, else `unclear`."""
    return "yes" if estimate.low > at_least else "no" if estimate.high < at_least else "unclear"


def _of_loss(fits: Sequence[Fit]) -> Iterator[Finding]:
    """Lines over pre-training loss, one point per model."""
    found = {fit.name: fit for fit in fits if not fit.group}
    if fit := found.get("sft-loss"):
        falls = by_interval(_negated(fit.slope))
        holds = falls if falls != "yes" or fit.r2 >= LINEAR_R2 else "unclear"
        rule = f"yes: the slope's interval lies below 0 and R2 >= {LINEAR_R2}; no: it lies above 0; else unclear"
        yield Finding("loss", 1, "Accuracy falls about linearly with pre-training loss.", holds, _told(fit), rule)
    if fit := found.get("gain-loss"):
        rule = "yes: the gain's slope against loss lies above 0; no: below; else unclear"
        yield Finding("weaker", 1, "Weaker models gain more from RFT.", by_interval(fit.slope), _told(fit), rule)
    if fit := found.get("slope-loss"):
        rule = "yes: the slope of (gain per doubling) against loss lies above 0; no: below; else unclear"
        text = "Better models gain less from a doubling of the gold data."
        yield Finding("data-better", 2, text, by_interval(fit.slope), _told(fit), rule)


def _of_lines(fits: Sequence[Fit], slopes: Sequence[CommonSlope]) -> Iterator[Finding]:
    """Lines of several models: their common slope decides, or the only model's."""
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
            each = [f"{fit.group} {_told(fit)}" for fit in mine if common]
            here = "; ".join([_told(overall), *each])
            yield Finding(key, question, text, holds, here, f"yes: {rule}; no: it lies below 0; else unclear")


def _of_comparisons(comparisons: Sequence[Comparison]) -> Iterator[Finding]:
    """Paired differences: the mean over models, or the only model's."""
    asked = (
        ("gain", "rft-sft", 0.0, "RFT on pooled paths beats SFT."),
        ("steps", "rft-steps", 0.0, "RFT's gain is more than that of training longer: gold alone, as many steps."),
        (
            "dedup",
            "distinct-all",
            -NO_WORSE,
            "Distinct paths alone do as well as all correct ones, many times as many.",
        ),
        (
            "repeats",
            "distinct-thinned",
            0.0,
            "At equal size distinct paths beat repeated ones: not samples count, but paths.",
        ),
        ("choice", "distinct-random", 0.0, "Choosing by equation list beats a random choice of as many correct paths."),
        ("pooling", "union-best", 0.0, "Pooling models beats any one of them."),
    )
    for key, name, bound, text in asked:
        mine = [one for one in comparisons if one.name == name]
        overall = next((one for one in mine if not one.model), mine[0] if mine else None)
        if overall:
            rule = f"yes: the mean difference's interval lies above {100 * bound:g} points; no: below; else unclear"
            here = f"{overall.first} minus {overall.second}: {points(overall.difference)}"
            each = [f"{one.model} {points(one.difference)}" for one in mine if one.model and one is not overall]
            holds = by_interval(overall.difference, at_least=bound)
            yield Finding(key, overall.question, text, holds, "; ".join([here, *each]), rule)


def points(estimate: Estimate) -> str:
    """A difference of accuracies. Example: `+4.2 points [1.0, 7.4]`"""
    return f"{100 * estimate.value:+.1f} points [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _told(line: Fit | CommonSlope) -> str:
    per = "per doubling" if line.log2_x else "per 1.0 of loss"
    count = line.points if isinstance(line, CommonSlope) else len(line.points)
    return f"{points(line.slope)} {per}, R2 {line.r2:.2f}, n {count}"


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)
