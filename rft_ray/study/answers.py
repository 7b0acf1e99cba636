"""The study's points -> fits and comparisons, one function per question. Pure: no store, no Ray.

In: `Evidence`. Out: `Fit`, `CommonSlope` and `Comparison`; a fit with too few points is left out. The seeds of a point
are averaged. For a share of the gold data the better of its two schedules is used, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rft_ray.study.fits import fit_common_slope, fit_line, mean_difference
from rft_ray.study.points import Evidence
from rft_ray.study.result import CommonSlope, Comparison, Fit, Point, Selection

XY = tuple[float, float, str]


@dataclass(frozen=True)
class Series:
    """Points that differ only in their seeds. Example: Series((Point(…, seed=0), Point(…, seed=1)))"""

    points: tuple[Point, ...]

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return sum(point.accuracy.value for point in self.points) / len(self.points)

    @property
    def first(self) -> Point:
        return self.points[0]


def sft(evidence: Evidence, model: str, share: float = 1.0, schedule: str = "epochs") -> Series | None:
    """A model fine-tuned on a share of the gold data."""
    return _series(
        evidence,
        lambda p: (p.model, p.stage, p.share, p.schedule) == (model, "sft", share, schedule),
    )


def best_sft(evidence: Evidence, model: str, share: float) -> Series | None:
    """The better of the two schedules. All of the data has one: there `steps` is the control of RFT."""
    if share == 1:
        return sft(evidence, model)
    both = [sft(evidence, model, share, schedule) for schedule in ("epochs", "steps")]
    return max((series for series in both if series), key=lambda series: series.accuracy, default=None)


def rft(
    evidence: Evidence, model: str, samplers: Sequence[str], k: int | None = None, selection: Selection = "equations"
) -> Series | None:
    """A model fine-tuned on gold data and the paths of these samplers."""
    wanted = (model, "rft", tuple(samplers), k or evidence.k, selection)
    return _series(evidence, lambda p: (p.model, p.stage, p.samplers, p.k, p.selection) == wanted)


def union(evidence: Evidence, model: str) -> Series | None:
    """A model fine-tuned on gold data and the paths of all samplers."""
    return rft(evidence, model, evidence.samplers)


def _series(evidence: Evidence, wanted: Callable[[Point], bool]) -> Series | None:
    points = tuple(point for point in evidence.points if wanted(point))
    return Series(points) if points else None


# --- Fits -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lines:
    """Points by model, or under the empty name, with the names of their axes."""

    question: int
    name: str
    x: str
    y: str
    groups: Mapping[str, Sequence[XY]]
    log2_x: bool = False

    def coordinates(self, group: str) -> tuple[list[float], list[float]]:
        points = self.groups[group]
        return [math.log2(x) if self.log2_x else x for x, _, _ in points], [y for _, y, _ in points]

    def fits(self) -> Iterator[Fit]:
        """A line for each group that has enough points."""
        for group, points in self.groups.items():
            if line := fit_line(*self.coordinates(group)):
                at = (self.question, self.name, group, self.x, self.y, self.log2_x)
                yield Fit(*at, line.slope, line.intercept, line.r2, tuple(points))

    def common(self) -> CommonSlope | None:
        """The common slope of several groups; None for a single group or too few points."""
        line = fit_common_slope([self.coordinates(group) for group in self.groups]) if len(self.groups) > 1 else None
        count = sum(map(len, self.groups.values()))
        at = (self.question, self.name, self.log2_x)
        return CommonSlope(*at, line.slope, line.r2, len(self.groups), count) if line else None


def fits(evidence: Evidence) -> list[Fit]:
    """All fits, by question."""
    data = list(_against_data(evidence).fits())
    losses = _losses(evidence)
    slopes = sorted((losses[fit.group], fit.slope.value, fit.group) for fit in data if fit.group in losses)
    of_slopes = _Lines(2, "slope-loss", "pre-training loss", "SFT gain per doubling", {"": slopes})
    over_loss = [fit for lines in _against_loss(evidence) for fit in lines.fits()]
    over_paths = [fit for lines in _against_paths(evidence) for fit in lines.fits()]
    return [*over_loss, *data, *of_slopes.fits(), *over_paths]


def slopes(evidence: Evidence) -> list[CommonSlope]:
    """The common slopes of the fits that each model has, by question."""
    common = [lines.common() for lines in (_against_data(evidence), *_against_paths(evidence))]
    return [slope for slope in common if slope]


def _losses(evidence: Evidence) -> dict[str, float]:
    return {model.name: model.pretraining_loss for model in evidence.models if model.pretraining_loss is not None}


def _against_loss(evidence: Evidence) -> Iterator[_Lines]:
    """Question 1: one point per model."""
    before, after, gain = [], [], []
    for name, loss in _losses(evidence).items():
        a, b = sft(evidence, name), union(evidence, name)
        before += [(loss, a.accuracy, name)] if a else []
        after += [(loss, b.accuracy, name)] if b else []
        gain += [(loss, b.accuracy - a.accuracy, name)] if a and b else []
    x = "pre-training loss"
    yield _Lines(1, "sft-loss", x, "SFT accuracy", {"": sorted(before)})
    yield _Lines(1, "rft-loss", x, "RFT accuracy (union)", {"": sorted(after)})
    yield _Lines(1, "gain-loss", x, "RFT (union) minus SFT", {"": sorted(gain)})


def _against_data(evidence: Evidence) -> _Lines:
    """Question 2: one point per share of the gold data."""
    groups: dict[str, list[XY]] = {}
    for model in evidence.models:
        shares = sorted({p.share for p in evidence.points if p.model == model.name and p.stage == "sft"})
        best = [series for share in shares if (series := best_sft(evidence, model.name, share))]
        groups[model.name] = [(float(series.first.gold), series.accuracy, series.first.name) for series in best]
    return _Lines(2, "sft-data", "gold problems", "SFT accuracy", groups, log2_x=True)


def _against_paths(evidence: Evidence) -> Iterator[_Lines]:
    """Question 3: against k of a model's own samples, and against distinct paths of any sampler."""
    own: dict[str, list[XY]] = {}
    distinct: dict[str, list[XY]] = {}
    for name in evidence.headline:
        points = [p for p in evidence.points if p.model == name and p.stage == "rft" and p.selection == "equations"]
        trained = [
            series for key in dict.fromkeys((p.samplers, p.k) for p in points) if (series := rft(evidence, name, *key))
        ]
        on_own_paths = [series for series in trained if series.first.samplers == (name,)]
        own[name] = sorted((float(series.first.k), series.accuracy, series.first.name) for series in on_own_paths)
        distinct[name] = sorted(
            (1 + series.first.paths_per_problem, series.accuracy, series.first.name) for series in trained
        )
    yield _Lines(3, "rft-k", "samples per problem (own)", "RFT accuracy", own, log2_x=True)
    x = "examples per problem (gold and distinct paths)"
    yield _Lines(3, "rft-paths", x, "RFT accuracy", distinct, log2_x=True)


# --- Comparisons ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    first: Series | None
    second: Series | None


def comparisons(evidence: Evidence) -> list[Comparison]:
    """All comparisons, by question: each model's, then the mean over models."""
    names = evidence.headline
    made = [*_compare(evidence, 1, "rft-sft", "RFT on the union", "SFT", {
        name: _Pair(union(evidence, name), sft(evidence, name)) for name in names
    })]  # fmt: skip
    made += _compare(evidence, 1, "rft-steps", "RFT on the union", "SFT of as many steps", {
        name: _Pair(union(evidence, name), sft(evidence, name, schedule="steps")) for name in names
    })  # fmt: skip
    others: dict[str, tuple[Selection, str]] = {
        "distinct-all": ("none", "all correct paths"),
        "distinct-thinned": ("thinned", "as many correct paths in all"),
        "distinct-random": ("random", "as many correct paths of each problem"),
    }
    for key, (selection, label) in others.items():
        pairs = {
            name: _Pair(rft(evidence, name, [name]), rft(evidence, name, [name], selection=selection)) for name in names
        }
        made += _compare(evidence, 3, key, "distinct paths", label, pairs)
    return [*made, *_pooling(evidence)]


def _pooling(evidence: Evidence) -> Iterator[Comparison]:
    """Question 4. The best single sampler is chosen by test accuracy, which favours it over the union."""
    names, samplers = evidence.headline, evidence.samplers
    if len(samplers) < 2:
        return
    own = {name: _Pair(union(evidence, name), rft(evidence, name, [name])) for name in names if name in samplers}
    yield from _compare(evidence, 4, "union-own", "union", "own paths", own)
    best = {name: _Pair(union(evidence, name), best_single(evidence, name)) for name in names}
    yield from _compare(evidence, 4, "union-best", "union", "best single sampler", best)
    if len(samplers) < 3:
        return
    for left_out in samplers:
        rest = [sampler for sampler in samplers if sampler != left_out]
        pairs = {name: _Pair(union(evidence, name), rft(evidence, name, rest)) for name in names}
        yield from _compare(evidence, 4, "union-without", "union", f"without {left_out}", pairs)


def best_single(evidence: Evidence, model: str) -> Series | None:
    """The model fine-tuned on the paths of the sampler that gives it the highest accuracy."""
    singles = [rft(evidence, model, [sampler]) for sampler in evidence.samplers]
    return max((series for series in singles if series), key=lambda series: series.accuracy, default=None)


def _compare(
    evidence: Evidence, question: int, name: str, first: str, second: str, pairs: Mapping[str, _Pair]
) -> Iterator[Comparison]:
    """One comparison per model, and for several models the mean over models per test problem.

    None where fewer than two problems are shared: their mean has no interval.
    """
    by_model = {
        model: differences
        for model, pair in pairs.items()
        if pair.first and pair.second and len(differences := _paired(evidence, pair.first, pair.second)) > 1
    }
    for model, differences in by_model.items():
        of_model = mean_difference(list(differences.values()))
        yield Comparison(question, name, model, first, second, of_model, len(differences))
    if len(by_model) > 1:
        shared = set.intersection(*(set(of_problem) for of_problem in by_model.values()))
        mean = [
            sum(of_problem[problem] for of_problem in by_model.values()) / len(by_model) for problem in sorted(shared)
        ]
        yield Comparison(question, name, "", first, second, mean_difference(mean), len(mean))


def _paired(evidence: Evidence, first: Series, second: Series) -> dict[str, float]:
    """Problem id -> accuracy of the first minus accuracy of the second, over the seeds that both have."""
    seeds = {point.seed for point in first.points} & {point.seed for point in second.points}
    a, b = ([evidence.right[p.name] for p in series.points if p.seed in seeds] for series in (first, second))
    if not seeds:
        return {}
    problems = set.intersection(*(set(records) for records in (*a, *b)))
    return {
        problem: (sum(right[problem] for right in a) - sum(right[problem] for right in b)) / len(seeds)
        for problem in sorted(problems)
    }
