"""Committed files -> the points of the study with their costs, and the test problems that each answers correctly.

In: a StudyPlan and a store. Out: `Evidence`; points whose evaluation is not committed yet are left out, so an
unfinished study has answers too. Limit: a smaller k counts a share of a sample block's tokens, by number of samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rft_ray.corpus.builder import counts_of
from rft_ray.evaluation.metrics import EvaluationRecord, wilson
from rft_ray.evaluation.stage import read_records
from rft_ray.evaluation.summary import busy_seconds
from rft_ray.plan.jobs import VerdictJob
from rft_ray.store import Store, present
from rft_ray.store.models.committed import committed_model
from rft_ray.store.shards import shard_metadata
from rft_ray.study.plan import PlannedPoint, StudyPlan
from rft_ray.study.result import Estimate, Model, Point
from rft_ray.training.results import training_record

TRAIN_FLOPS, SAMPLE_FLOPS = 6, 2
"""FLOPs per parameter and token: forward and backward, and forward alone. Attention and embeddings are not separate."""


@dataclass(frozen=True)
class Evidence:
    """The data that all answers are computed from."""

    models: Sequence[Model]
    k: int
    train_problems: int
    points: Sequence[Point]
    right: Mapping[str, Mapping[str, bool]]
    """Name of a point -> problem id -> whether its greedy answer was right."""

    @property
    def headline(self) -> list[str]:
        return [model.name for model in self.models if model.headline]

    @property
    def samplers(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models if model.sampler)


@dataclass(frozen=True)
class SamplingCost:
    """The cost of one sampler's samples, by sample block."""

    tokens_by_block: tuple[int, ...]
    seconds: float
    """Time during which at least one of its shards was being sampled."""
    block: int
    problems: int

    def tokens(self, k: int) -> float:
        """Tokens of each problem's first k samples."""
        return sum(
            tokens * min(1.0, max(0.0, k / self.block - place)) for place, tokens in enumerate(self.tokens_by_block)
        )

    def seconds_of(self, k: int) -> float:
        total = sum(self.tokens_by_block)
        return self.seconds * self.tokens(k) / total if total else 0.0


def read_evidence(plan: StudyPlan, store: Store) -> Evidence:
    """The evidence of all points that are committed."""
    done = [point for point in plan.points if present(store, point.evaluation.key)]
    samplers = {name for point in done for name in point.spec.samplers}
    jobs = {job.sampling.model.name: job for job in plan.collected}
    costs = {name: sampling_cost(jobs[name], store) for name in sorted(samplers)}
    points, right = [], {}
    for point in done:
        records = read_records(point.evaluation, store)
        points.append(_point(plan, point, store, records, costs))
        right[point.spec.name] = {record.problem_id: record.greedy_right for record in records}
    return Evidence(plan.models, plan.k, plan.train.count, points, right)


def sampling_cost(job: VerdictJob, store: Store) -> SamplingCost:
    """The cost of a sampler's committed samples."""
    sampling = job.sampling
    blocks = [0] * (sampling.samples_per_problem // sampling.settings.samples_per_block)
    shards = list(sampling.shards())
    metadata = []
    for place in range(len(blocks)):
        mine = list(shard_metadata(store, [shard for shard in shards if shard.sample_block == place]))
        blocks[place] = sum(json.loads(metadata["counts"])["tokens"] for metadata in mine)
        metadata += mine
    return SamplingCost(tuple(blocks), busy_seconds(metadata), sampling.settings.samples_per_block, sampling.problems)


def _point(
    plan: StudyPlan,
    point: PlannedPoint,
    store: Store,
    records: Sequence[EvaluationRecord],
    costs: Mapping[str, SamplingCost],
) -> Point:
    spec, sizes = point.spec, {model.name: model.parameters for model in plan.models}
    manifest = committed_model(store, point.training.fingerprint)
    trained = training_record(manifest.metadata) if manifest else None
    tokens_trained = trained.tokens if trained else 0
    corpus = counts_of(point.corpus, store)
    tokens = {name: costs[name].tokens(spec.k) for name in spec.samplers}
    right = sum(record.greedy_right for record in records)
    accuracy = wilson(right, len(records))
    return Point(
        name=spec.name,
        model=spec.model,
        stage=spec.stage,
        selection=spec.selection,
        samplers=spec.samplers,
        k=spec.k,
        share=0.5**spec.halvings,
        schedule=spec.schedule,
        seed=spec.seed,
        gold=corpus.gold,
        paths=corpus.paths,
        paths_per_problem=corpus.paths / point.corpus.problems,
        steps=trained.steps if trained else 0,
        tokens=tokens_trained,
        training_seconds=trained.seconds if trained else 0.0,
        sampled=sum(spec.k * costs[name].problems for name in spec.samplers),
        sampling_tokens=round(sum(tokens.values())),
        sampling_seconds=sum(costs[name].seconds_of(spec.k) for name in spec.samplers),
        training_flops=float(TRAIN_FLOPS * sizes[spec.model] * tokens_trained),
        sampling_flops=sum(SAMPLE_FLOPS * sizes[name] * count for name, count in tokens.items()),
        right=right,
        problems=len(records),
        accuracy=Estimate(accuracy.value, accuracy.low, accuracy.high),
        training=point.training.fingerprint,
        evaluation=point.evaluation.key,
    )
