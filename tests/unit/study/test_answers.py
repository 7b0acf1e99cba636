"""From points to answers: points made with known effects give the expected fits, comparisons and findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from rft_ray.store.backends.local import LocalStore
from rft_ray.study import paper
from rft_ray.study.answers import best_sft, comparisons, fits, slopes
from rft_ray.study.findings import by_interval, findings
from rft_ray.study.points import Evidence, SamplingCost
from rft_ray.study.result import (
    Comparison,
    Estimate,
    Finding,
    Fit,
    Model,
    Point,
    Selection,
    Study,
    read_study,
    write_study,
)
from rft_ray.study.tables import markdown, tables

NAMES = ("a", "b", "c", "d")
LOSSES = dict(zip(NAMES, (0.5, 0.4, 0.3, 0.2), strict=True))
TESTS, TRAIN, K = 400, 800, 8
PAPER_PATHS_BY_K = {
    1: (1.17, 1.19, 1.15, 1.18),
    3: (1.44, 1.47, 1.41, 1.45),
    6: (1.74, 1.78, 1.69, 1.76),
    12: (2.20, 2.23, 2.11, 2.21),
    25: (2.93, 2.93, 2.88, 2.94),
    50: (3.94, 3.91, 3.90, 3.94),
    100: (5.25, 5.19, 5.26, 5.29),
}
"""k -> distinct paths per question of the first four models, in the paper."""
Truth = Callable[[str, Selection, Sequence[str], int, float], float]


def rising(model: str, selection: Selection, samplers: Sequence[str], k: int, share: float) -> float:
    """Accuracies for which every finding of the paper holds."""
    base = 0.85 - LOSSES[model] + (0.02 + 0.1 * LOSSES[model]) * math.log2(share)
    paths = {"gold": 0.0, "equations": 1.0, "none": 1.0, "random": 0.5, "thinned": 0.3}[selection]
    return base + paths * (0.02 + 0.1 * LOSSES[model]) * math.log2(1 + len(samplers) * k / 4)


def flat(model: str, selection: Selection, samplers: Sequence[str], k: int, share: float) -> float:
    """Accuracies without any effect."""
    return 0.4


def evidence(truth: Truth, names: Sequence[str] = NAMES, *, steps_lift: float = -0.1) -> Evidence:
    random, points, right = Random(0), [], {}
    difficulty = [(place + 0.5) / TESTS for place in range(TESTS)]

    def add(
        model: str, selection: Selection = "gold", samplers: tuple[str, ...] = (), k: int = 0, share: float = 1.0,
        schedule: str = "epochs", lift: float = 0.0,
    ) -> None:  # fmt: skip
        chance = truth(model, selection, samplers, k, share) + lift
        name = f"{model} {selection} {samplers} {k} {share} {schedule}"
        if name in right:
            return
        slack = [random.gauss(0, 0.02) for _ in range(TESTS)]
        right[name] = {
            str(i): hardness + off < chance for i, (hardness, off) in enumerate(zip(difficulty, slack, strict=True))
        }
        points.append(point(name, model, selection, samplers, k, share, schedule, sum(right[name].values())))

    for model in names:
        for share in (1.0, 0.5, 0.25, 0.125):
            add(model, share=share)
        add(model, share=0.5, schedule="steps", lift=steps_lift)
        add(model, schedule="steps", lift=0.01)
        for k in (1, 2, 4, K):
            add(model, "equations", (model,), k)
        for choice in ("none", "random", "thinned"):
            add(model, choice, (model,), K)  # type: ignore[arg-type]
        for sampler in names:
            add(model, "equations", (sampler,), K)
            add(model, "equations", tuple(other for other in names if other != sampler), K)
        add(model, "equations", tuple(names), K)
    models = [Model(name, "x", 1000, LOSSES[name], True, True) for name in names]
    return Evidence(models, K, TRAIN, points, right)


def point(
    name: str, model: str, selection: Selection, samplers: tuple[str, ...], k: int, share: float, schedule: str, n: int
) -> Point:
    paths, gold = len(samplers) * k * 100, int(TRAIN * share)
    return Point(
        name, model, "rft" if samplers else "sft", selection, samplers, k, share, schedule, 0, gold, paths,  # type: ignore[arg-type]
        paths / gold, 75, 10_000, 5.0, k * TRAIN, k * 1000, 2.0, 6e10, 2e9, n, TESTS, Estimate(n / TESTS, 0.0, 1.0),
        "f", "e",
    )  # fmt: skip


def answered(truth: Truth, names: Sequence[str] = NAMES) -> tuple[dict[str, Finding], list[Fit], list[Comparison]]:
    points = evidence(truth, names)
    lines, differences = fits(points), comparisons(points)
    return {finding.key: finding for finding in findings(lines, slopes(points), differences)}, lines, differences


def test_points_that_follow_the_paper_confirm_every_finding() -> None:
    judged, _, _ = answered(rising)
    assert {key: finding.holds for key, finding in judged.items() if finding.holds != "yes"} == {}
    assert set(judged) == {
        *("loss", "weaker", "data", "data-better", "k", "paths", "gain", "dedup", "repeats", "choice", "pooling"),
        "steps",
    }


def test_points_without_effects_show_no_effect() -> None:
    judged, _, _ = answered(flat)
    assert judged["dedup"].holds == "yes"  # distinct paths are no worse, so the finding holds
    assert {judged[key].holds for key in ("gain", "repeats", "choice", "data", "k", "paths", "pooling")} <= {
        "no",
        "unclear",
    }


def test_points_with_reversed_effects_refute_the_findings() -> None:
    def worse(model: str, selection: Selection, samplers: Sequence[str], k: int, share: float) -> float:
        return 1 - rising(model, selection, samplers, k, share)

    judged, _, _ = answered(worse)
    assert {judged[key].holds for key in ("loss", "gain", "repeats", "choice", "data", "k", "paths", "pooling")} == {
        "no"
    }


def test_fitted_slopes_are_those_that_made_the_points() -> None:
    _, lines, _ = answered(rising)
    by_data = {fit.group: fit for fit in lines if fit.name == "sft-data"}
    assert set(by_data) == set(NAMES)
    for name, fit in by_data.items():
        assert fit.slope.value == pytest.approx(0.02 + 0.1 * LOSSES[name], abs=0.02)
    [loss] = [fit for fit in lines if fit.name == "sft-loss"]
    assert loss.slope.value == pytest.approx(-1, abs=0.15)
    assert len(loss.points) == len(NAMES)


@pytest.mark.parametrize(("lift", "better"), [(-0.1, "epochs"), (0.1, "steps")])
def test_the_better_of_two_schedules_of_a_share_is_used(lift: float, better: str) -> None:
    best = best_sft(evidence(rising, steps_lift=lift), "a", 0.5)
    assert best is not None
    assert best.first.schedule == better


def test_differences_are_paired_and_the_mean_has_the_shorter_interval() -> None:
    _, _, differences = answered(rising)
    mine = [comparison for comparison in differences if comparison.name == "rft-sft"]
    overall = next(comparison for comparison in mine if not comparison.model)
    assert len(mine) == len(NAMES) + 1
    each = [comparison.difference for comparison in mine if comparison.model]
    assert overall.difference.value == pytest.approx(sum(comparison.value for comparison in each) / len(each))
    assert overall.difference.high - overall.difference.low < max(
        comparison.high - comparison.low for comparison in each
    )
    assert {comparison.problems for comparison in mine} == {TESTS}


def test_one_model_gives_no_fit_over_models_and_no_pooling() -> None:
    judged, lines, differences = answered(rising, ["a"])
    assert set(judged) == {"data", "k", "paths", "gain", "steps", "dedup", "repeats", "choice"}
    assert not [fit for fit in lines if not fit.group]
    assert {comparison.model for comparison in differences} == {"a"}


def test_an_unfinished_study_is_answered_from_its_evaluated_points() -> None:
    whole = evidence(rising)
    some = Evidence(whole.models, K, TRAIN, [p for p in whole.points if p.stage == "sft"], whole.right)
    assert {fit.name for fit in fits(some)} == {"sft-loss", "sft-data", "slope-loss"}
    assert comparisons(some) == []
    nothing = Evidence(whole.models, K, TRAIN, [], {})
    assert (fits(nothing), comparisons(nothing), findings([], [], [])) == ([], [], [])


@pytest.mark.parametrize(
    ("low", "high", "bound", "holds"),
    [(0.01, 0.05, 0, "yes"), (-0.05, -0.01, 0, "no"), (-0.01, 0.01, 0, "unclear"), (-0.01, 0.05, -0.02, "yes")],
)
def test_a_difference_is_judged_by_its_interval(low: float, high: float, bound: float, holds: str) -> None:
    assert by_interval(Estimate(0.0, low, high), at_least=bound) == holds


def test_a_smaller_k_costs_its_share_of_the_samples() -> None:
    cost = SamplingCost((100, 300), 8.0, 4, 10)
    assert (cost.tokens(2), cost.tokens(4), cost.tokens(6), cost.tokens(8)) == (50, 100, 250, 400)
    assert cost.seconds_of(6) == pytest.approx(5.0)


def test_the_page_has_every_table_finding_and_the_command(tmp_path_factory: pytest.TempPathFactory) -> None:
    known = evidence(rising)
    lines, differences = fits(known), comparisons(known)
    study = Study(
        "s", "f" * 16, "python jobs/scaling_study.py --config x", False, 99, TRAIN, TESTS, K, tuple(known.models),
        tuple(known.points), tuple(lines), tuple(slopes(known)), tuple(differences),
        tuple(tables(known, lines, differences)),
        tuple(findings(lines, slopes(known), differences)),
    )  # fmt: skip
    store = LocalStore(tmp_path_factory.mktemp("study"))
    write_study(store, study)
    assert read_study(store) == study
    page = markdown(study)
    assert study.command in page
    assert "Not finished" in page
    assert {table.question for table in study.tables} == {1, 2, 3, 4, 5}
    for table in study.tables:
        assert table.title in page
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert all(finding.here in page for finding in study.findings)


def test_the_papers_own_figures_confirm_its_findings() -> None:
    """The rules, applied to the paper's tables, give the paper's findings."""
    names = [model.name for model in paper.MODELS]
    models = [Model(m.name, "x", 1, m.pretraining_loss, True, True) for m in paper.MODELS]
    points = []

    def add(
        model: str, accuracy: float, share: float = 1.0, samplers: Sequence[str] = (), k: int = 0, paths: float = 0
    ) -> None:
        name, gold = f"{model} {share} {samplers} {k}", round(7473 * share)
        selection: Selection = "equations" if samplers else "gold"
        made = point(name, model, selection, tuple(samplers), k, share, "epochs", 0)
        at = Estimate(accuracy / 100, 0.0, 1.0)
        points.append(replace(made, accuracy=at, gold=gold, paths=round(paths * gold), paths_per_problem=paths))

    for share, row in paper.SFT_BY_SHARE.items():
        for model, accuracy in zip(names, row, strict=True):
            add(model, accuracy, share)
    for k, row in paper.RFT_BY_K.items():
        for model, accuracy, paths in zip(names, row, PAPER_PATHS_BY_K[k], strict=False):
            add(model, accuracy, samplers=[model], k=k, paths=paths)
    for model in paper.MODELS:
        add(model.name, model.rft_u33b, samplers=names, k=100, paths=13.65)
    figures = Evidence(models, 100, 7473, points, {})
    judged = findings(fits(figures), slopes(figures), [])
    assert {finding.key: finding.holds for finding in judged} == dict.fromkeys(
        ("loss", "weaker", "data", "data-better", "k", "paths"), "yes"
    )


def test_one_test_problem_gives_no_comparison_and_no_error() -> None:
    points = evidence(rising)
    right = {name: {"0": problems["0"]} for name, problems in points.right.items()}
    assert comparisons(replace(points, right=right)) == []
