"""The estimated cost of what is left of a study before it runs: trainings, tokens, and a rough time per stage.

The time is an order of magnitude, at the rates of `rft_ray/plan/cost.py`. The numbers of paths are guesses too, since
the study's own are not known yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rft_ray.plan.cost import (
    ENGINE_START_S,
    WORKERS_START_S,
    Left,
    duration,
    expected_paths,
    mean_tokens,
    sampling_rate,
    training_rate,
)
from rft_ray.plan.jobs import SamplingJob
from rft_ray.study.plan import PlannedPoint, StudyPlan

PER_MODEL_S = 2.0
"""Time to load, commit and swap one model, in addition to the time for its tokens."""


def training_seconds(plan: StudyPlan, point: PlannedPoint, *, gpu: bool) -> float:
    """Estimated time of one training."""
    recipe, spec = point.training.recipe, point.spec
    gold = plan.train.solved / plan.train.count
    examples = point.corpus.problems * gold + paths_guess(plan, point)
    if spec.schedule == "steps":
        examples = plan.train.solved + (_paths(plan, plan.k, len(plan.collected)) if spec.control else 0.0)
    size = {model.name: model.parameters for model in plan.models}[spec.model]
    tokens = recipe.epochs * examples * sum(mean_tokens(plan.config, plan.train))
    return PER_MODEL_S + tokens / training_rate(6 * size, int(gpu))


def paths_guess(plan: StudyPlan, point: PlannedPoint) -> float:
    """Expected number of sampled paths in a corpus."""
    spec = point.spec
    return _paths(plan, spec.k, len(spec.samplers), every=spec.selection == "none")


def _paths(plan: StudyPlan, k: int, samplers: int, *, every: bool = False) -> float:
    return plan.train.count * expected_paths(plan.config.corpus, k, samplers, every=every)


def _sampling_seconds(plan: StudyPlan, samples: Mapping[str, int], *, gpu: bool) -> float:
    """`samples`: model name -> number of its completions. With none of them, no engine starts."""
    response, sizes = mean_tokens(plan.config, plan.train)[1], {model.name: model.parameters for model in plan.models}
    seconds = sum(count * response / sampling_rate(2 * sizes[name], int(gpu)) for name, count in samples.items())
    return seconds + ENGINE_START_S * any(samples.values())


def sampling_jobs(plan: StudyPlan) -> list[SamplingJob]:
    """Every sampling of a study: of the training problems, and of the test problems for each point."""
    points = [point for late in (False, True) for point in plan.of(late=late)]
    return [verdicts.sampling for verdicts in (*plan.collected, *(point.evaluation.greedy for point in points))]


def describe(plan: StudyPlan, *, gpu: bool, left: Left) -> str:
    """The cost of what is left of a study, as a table."""
    collected = {job.sampling.model.name: left.samples(job.sampling) for job in plan.collected}
    total, lines = 0.0, [f"{'stage':<24} {'models':>7} {'missing':>8} {'about':>9}"]
    for stage, late in (("sft", False), ("rft", True)):
        points = plan.of(late=late)
        if not points:
            continue
        seconds = _sampling_seconds(plan, collected, gpu=gpu) if late else 0.0
        if late:
            lines.append(_line("sample paths", len(collected), _count(collected), seconds))
        untrained = [point for point in points if point.training.fingerprint in left.models]
        trained = sum(training_seconds(plan, point, gpu=gpu) for point in untrained) + WORKERS_START_S * bool(untrained)
        lines.append(_line(f"train {stage}", len(points), len(untrained), trained))
        unasked = {point.spec.name: left.samples(point.evaluation.greedy.sampling) for point in points}
        evaluated = _evaluation_seconds(plan, points, unasked, gpu=gpu)
        lines.append(_line(f"evaluate {stage}", len(points), _count(unasked), evaluated))
        total += seconds + trained + evaluated
    where = "one GPU" if gpu else "two CPU cores"
    models = sum(len(plan.of(late=late)) for late in (False, True))
    lines.append(
        f"{len(plan.points)} points, {models} trainings and evaluations; left: about {duration(total)} on {where}"
    )
    return "\n".join(lines)


def _evaluation_seconds(
    plan: StudyPlan, points: Sequence[PlannedPoint], unasked: Mapping[str, int], *, gpu: bool
) -> float:
    """`unasked`: point -> number of its missing completions."""
    samples: Counter[str] = Counter()
    for point in points:
        samples[point.spec.model] += unasked[point.spec.name]
    return PER_MODEL_S * _count(unasked) + _sampling_seconds(plan, samples, gpu=gpu)


def _count(samples: Mapping[str, int]) -> int:
    """How many of these models still sample."""
    return sum(bool(count) for count in samples.values())


def _line(what: str, models: int, missing: int, seconds: float) -> str:
    return f"{what:<24} {models:>7,} {missing:>8,} {duration(seconds):>9}"
