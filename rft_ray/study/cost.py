"""The estimated cost of a study before it runs: trainings, tokens, and a rough time per stage.

The time is an order of magnitude, at the rates below (two CPU cores: measured on the tiny family, LOG.md; a GPU: from
the paper's hours). The numbers of paths are the paper's at the same k, since the study's own are not known yet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rft_ray.plan.cost import (
    CPU_FLOPS,
    ENGINE_START_S,
    GPU_SAMPLE_FLOPS,
    GPU_TRAIN_FLOPS,
    WORKERS_START_S,
    duration,
    mean_tokens,
)
from rft_ray.study.plan import PlannedPoint, StudyPlan

TRAIN_TOKENS_PER_S, SAMPLE_TOKENS_PER_S = 15_000.0, 5_000.0
"""On two CPU cores, for a model so small that arithmetic is not the limit."""
GPU_TRAIN_TOKENS_PER_S, GPU_SAMPLE_TOKENS_PER_S = 100_000.0, 30_000.0
PER_MODEL_S = 2.0
"""Time to load, commit and swap one model, in addition to the time for its tokens."""
ACCEPTED = 0.4
"""Assumed share of samples that are correct."""


def training_seconds(plan: StudyPlan, point: PlannedPoint, *, gpu: bool) -> float:
    """Estimated time of one training."""
    recipe, spec = point.training.recipe, point.spec
    gold = plan.train.solved / plan.train.count
    examples = point.corpus.problems * gold + paths_guess(plan, point)
    if spec.schedule == "steps":
        examples = float(plan.train.solved) + (
            _distinct_guess(plan, plan.k, len(plan.collected)) if spec.control else 0
        )
    size = {model.name: model.parameters for model in plan.models}[spec.model]
    fastest, flops = (GPU_TRAIN_TOKENS_PER_S, GPU_TRAIN_FLOPS) if gpu else (TRAIN_TOKENS_PER_S, CPU_FLOPS)
    return PER_MODEL_S + recipe.epochs * examples * sum(mean_tokens(plan.config, plan.train)) / min(
        fastest, flops / (6 * size)
    )


def paths_guess(plan: StudyPlan, point: PlannedPoint) -> float:
    """Expected number of sampled paths in a corpus."""
    spec = point.spec
    if spec.selection == "none":
        return plan.train.count * ACCEPTED * spec.k * len(spec.samplers)
    return _distinct_guess(plan, spec.k, len(spec.samplers))


def _distinct_guess(plan: StudyPlan, k: int, samplers: int) -> float:
    """The paper's 1.17 distinct paths per problem at k=1, which grow with the cube root of k."""
    return plan.train.count * min(k, 1.17 * math.pow(k, 0.33)) * samplers


def _sampling_seconds(plan: StudyPlan, samples: dict[str, int], *, gpu: bool) -> float:
    """`samples`: model name -> number of its completions."""
    fastest, flops = (GPU_SAMPLE_TOKENS_PER_S, GPU_SAMPLE_FLOPS) if gpu else (SAMPLE_TOKENS_PER_S, CPU_FLOPS)
    response, sizes = mean_tokens(plan.config, plan.train)[1], {model.name: model.parameters for model in plan.models}
    return sum(count * response / min(fastest, flops / (2 * sizes[name])) for name, count in samples.items())


def describe(plan: StudyPlan, *, gpu: bool, missing: dict[bool, Sequence[PlannedPoint]]) -> str:
    """The estimate as a table. `missing`: late -> the points of `plan.of(late=late)` that are not trained yet."""
    collected = {job.sampling.model.name: job.sampling.planned for job in plan.collected}
    total, lines = 0.0, [f"{'stage':<24} {'models':>7} {'missing':>8} {'about':>9}"]
    for stage, late in (("sft", False), ("rft", True)):
        points = plan.of(late=late)
        if not points:
            continue
        if late:
            seconds = ENGINE_START_S + _sampling_seconds(plan, collected, gpu=gpu)
            total += seconds
            lines.append(_line("sample paths", len(collected), "", seconds))
        seconds = WORKERS_START_S + sum(training_seconds(plan, point, gpu=gpu) for point in points)
        lines.append(_line(f"train {stage}", len(points), str(len(missing[late])), seconds))
        evaluated = Counter(point.spec.model for point in points)
        samples = {name: count * plan.test.count for name, count in evaluated.items()}
        asked = ENGINE_START_S + PER_MODEL_S * len(points) + _sampling_seconds(plan, samples, gpu=gpu)
        lines.append(_line(f"evaluate {stage}", len(points), "", asked))
        total += seconds + asked
    where = "one GPU" if gpu else "two CPU cores"
    trained = sum(len(plan.of(late=late)) for late in (False, True))
    lines.append(f"{len(plan.points)} points, {trained} trainings and evaluations: about {duration(total)} on {where}")
    return "\n".join(lines)


def _line(what: str, models: int, missing: str, seconds: float) -> str:
    return f"{what:<24} {models:>7,} {missing:>8} {duration(seconds):>9}"
