"""What each stage of a run used of its GPUs: hours, arithmetic, idle share and money, from the committed files.

In: manifests of models and metadata of shards, the seconds of the stages, and the price. Out: a `GpuUse` for each stage
that used GPUs. Arithmetic is 6 FLOPs per weight and trained token, 2 per weight and sampled token; prompts are not
counted, since a prompt of many samples is computed once.

Limits: of a training that was resumed the time of day is known of its last attempt only. Records of earlier versions
hold no time of day: such trainings of a stage are counted in as few worker groups as their seconds need, a lower bound
of the GPUs that worked at once. Adapters (LoRA) are counted as if all weights were trained. A model that the run does
not train has no known number of weights: its samples are left out of the utilization.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rft_ray.config.hardware import BY_NAME
from rft_ray.evaluation.summary_records import GpuUse
from rft_ray.plan.jobs import SamplingJob, TrainingJob
from rft_ray.plan.run_plan import BEFORE_RFT, CONTROLS, Plan
from rft_ray.runtime.progress import StageTime
from rft_ray.store import Store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.shards import shard_metadata
from rft_ray.training.results import TrainingRecord, training_record

TRAINED_FLOPS, SAMPLED_FLOPS = 6, 2
"""Per weight and token."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one training or one engine did. Example: Work(100.0, 120.0, 8, 2.1e17, 312e12)"""

    started: float
    ended: float
    """Seconds on any clock."""
    gpus: float
    busy: float
    """Seconds in which the GPUs computed."""
    flops: float = 0.0
    peak: float = 0.0
    """FLOP/s of one GPU; 0 where the card or the model's size is not known."""


def gpu_use(store: Store, plan: Plan, stages: Sequence[StageTime]) -> tuple[GpuUse, ...]:
    """The use of each stage that used GPUs, in the order of the stages. Reads the metadata of every shard."""
    records = _records(store, plan.trainings)
    sizes = {job.model: record.parameters for job, record in records if record.parameters}
    trained = {"sft": plan.sft, "rft": (*plan.rft, *plan.controls)}
    sampled: dict[str, list[SamplingJob]] = {
        "sample": [job.sampling for job in (*plan.collected, *plan.evaluation_verdicts(*BEFORE_RFT))],
        "judge": [job.sampling for job in plan.judged],
        "evaluate": [job.sampling for job in plan.evaluation_verdicts("rft", *CONTROLS)],
    }
    used = []
    for stage in stages:
        # by fingerprint: what two models of a config share is done once
        done = {job.fingerprint: record for job, record in records if job in trained.get(stage.name, ())}
        work = trainings([*done.values()], stage.seconds)
        jobs = {job.fingerprint: job for job in sampled.get(stage.name, [])}.values()
        work += list(
            engine_work((sizes.get(job.model.name, 0), metadata) for job in jobs for metadata in _on_gpus(store, job))
        )
        if work:
            used.append(use_of(stage.name, stage.seconds, work, plan.config.cost.usd_per_gpu_hour))
    return tuple(used)


def _records(store: Store, jobs: Iterable[TrainingJob]) -> list[tuple[TrainingJob, TrainingRecord]]:
    """The records of the committed models."""
    manifests = ((job, committed_model(store, job.fingerprint)) for job in jobs)
    records = ((job, training_record(manifest.metadata)) for job, manifest in manifests if manifest)
    return [(job, record) for job, record in records if record]


def _on_gpus(store: Store, job: SamplingJob) -> Iterator[Mapping[str, str]]:
    """Metadata of a job's shards; nothing where its first shard was not sampled on a GPU."""
    for metadata in shard_metadata(store, job.shards()):
        if "gpus" not in json.loads(metadata.get("environment", "{}")):
            return
        yield metadata


def trainings(records: Sequence[TrainingRecord], seconds: float) -> list[Work]:
    """What the trainings of a stage that took `seconds` did, each at its time, where the records have one."""
    dated = [work for record in records if record.ended_unix and (work := training_work(record))]
    return dated + in_groups((training_work(record) for record in records if not record.ended_unix), seconds)


def training_work(record: TrainingRecord) -> Work | None:
    """What a training did; None where it ran on CPUs."""
    if record.device != "gpu":
        return None
    card = BY_NAME.get(record.card)
    known = card is not None and record.parameters > 0
    return Work(
        started=record.began_unix,
        ended=record.ended_unix or record.seconds,
        gpus=int(record.settings.get("workers", 1)),
        busy=record.seconds,
        flops=float(TRAINED_FLOPS * record.parameters * record.tokens),
        peak=card.tflops * 1e12 if card and known else 0.0,
    )


def in_groups(works: Iterable[Work | None], seconds: float) -> list[Work]:
    """The trainings of a stage that took `seconds`, placed in the fewest worker groups that can have done them.

    In each group one follows another; the next one goes to the group that is free first.
    """
    trained = [work for work in works if work]
    busy = sum(work.busy * work.gpus for work in trained)
    room = seconds * max((work.gpus for work in trained), default=0.0)
    needed = math.ceil(busy / room - 0.01) if room else 1  # records and stages are rounded
    if seconds < max((work.busy for work in trained), default=0.0):  # of a stage that found its trainings done
        needed = 1
    free = [0.0] * max(1, min(needed, len(trained)))
    placed: list[Work] = []
    for work in trained:
        begin = free[0]
        placed.append(replace(work, started=begin, ended=begin + work.ended - work.started))
        heapq.heapreplace(free, placed[-1].ended)
    return placed


def engine_work(shards: Iterable[tuple[int, Mapping[str, str]]]) -> Iterator[Work]:
    """What each engine did. `shards`: weights of the model, 0 where unknown, and metadata of a shard."""
    engines: dict[str, list[tuple[int, Mapping[str, str]]]] = defaultdict(list)
    for size, metadata in shards:
        engines[json.loads(metadata["engine"])["incarnation"]].append((size, metadata))
    for made in engines.values():
        spans = [(float(m["ended_unix"]) - float(m["seconds"]), float(m["ended_unix"])) for _, m in made]
        environment = json.loads(made[0][1]["environment"])
        card = BY_NAME.get(environment.get("card", ""))
        known = card is not None and all(size for size, _ in made)
        yield Work(
            started=min(start for start, _ in spans),
            ended=max(end for _, end in spans),
            gpus=float(environment["gpus"]),
            busy=union_seconds(spans),
            flops=float(sum(SAMPLED_FLOPS * size * json.loads(m["counts"])["tokens"] for size, m in made)),
            peak=card.tflops * 1e12 if card and known else 0.0,
        )


def use_of(stage: str, seconds: float, work: Sequence[Work], usd_per_gpu_hour: float | None) -> GpuUse:
    """The use of one stage that took `seconds`. A stage holds as many GPUs as worked at once, from begin to end."""
    gpus = most_at_once(work)
    busy = sum(done.busy * done.gpus for done in work)
    held = max(seconds * gpus, busy)
    possible = sum(done.busy * done.gpus * done.peak for done in work)
    flops = sum(done.flops for done in work if done.peak)
    return GpuUse(
        stage=stage,
        gpus=gpus,
        gpu_hours=round(held / 3600, 4),
        idle=round(1 - busy / held, 4) if held else 0.0,
        mfu=round(flops / possible, 4) if possible else None,
        usd=None if usd_per_gpu_hour is None else round(held / 3600 * usd_per_gpu_hour, 2),
    )


def most_at_once(work: Iterable[Work]) -> float:
    """GPUs that worked at once, at most. What ends when another begins is not at once with it."""
    changes = sorted(
        (at, change) for done in work for at, change in ((done.started, done.gpus), (done.ended, -done.gpus))
    )
    now = most = 0.0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def union_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
