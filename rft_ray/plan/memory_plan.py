"""The memory of a run's trainings and engines as a table, and refusal of what cannot fit, before anything runs.

In: the jobs of a plan, the shapes of their models, and the card. Out: a table, and ConfigError with settings that would
fit. On CPUs: a line about the host's memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rft_ray.config import ENDPOINT, Config, ConfigError, Recipe, Training
from rft_ray.config.hardware import Card
from rft_ray.data import base_models
from rft_ray.plan.jobs import SamplingJob, TrainingJob
from rft_ray.plan.memory import (
    GIB,
    OVERHEAD,
    EngineMemory,
    EngineSettings,
    TrainingMemory,
    TrainingSettings,
    alternatives,
    engine_card,
    engine_memory,
    fewest_gpus,
    fits,
    training_memory,
)
from rft_ray.plan.model_shape import ModelShape, shape_of
from rft_ray.store.models.folder import read_json

_DTYPE_BYTES = {"auto": 2, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a weight in sampling: with `auto`, vLLM loads models in float32 in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The trainings and samplings of a run with the shapes of their models; a job whose model's shape is not known is
    left out, and named in `unknown`."""

    config: Config
    trainings: tuple[tuple[TrainingJob, ModelShape], ...]
    samplings: tuple[tuple[SamplingJob, ModelShape], ...]
    prompt_tokens: int
    """Of one prompt, about."""
    unknown: tuple[str, ...] = ()
    """Sources of models whose config.json does not state their shape."""


def needs(
    config: Config,
    trainings: Iterable[TrainingJob],
    samplings: Iterable[SamplingJob],
    shapes: Mapping[str, ModelShape | None],
    prompt_tokens: float,
) -> Needs:
    """The needs of these jobs, one for each stage and shape. `shapes`: source of a model -> its shape."""
    by_name = {model.name: model.source for model in config.models}
    trained = {(job.stage, job.base): job for job in trainings}
    sampled = {(job.model.source or by_name[job.model.name]): job for job in samplings if job.settings.engine == "vllm"}
    known = {source: shape for source, shape in shapes.items() if shape}
    return Needs(
        config=config,
        trainings=tuple((job, known[job.base]) for job in trained.values() if job.base in known),
        samplings=tuple((job, known[source]) for source, job in sampled.items() if source in known),
        prompt_tokens=round(prompt_tokens),
        unknown=tuple(sorted({*sampled, *(job.base for job in trained.values())} - set(known))),
    )


def training_settings(training: Training, recipe: Recipe, shape: ModelShape) -> TrainingSettings:
    """What decides the memory of a worker that trains a model of this shape."""
    packed = min(training.micro_batch_size, recipe.batch_size // training.workers)  # need not share a batch evenly
    size = 2 if recipe.dtype == "bfloat16" else 4
    return TrainingSettings(
        workers=training.workers,
        zero_stage=training.zero_stage_of(recipe),
        micro_batch=training.micro_batch_of(recipe) if training.packing == "off" else packed,
        tokens=min(recipe.max_tokens, shape.context or recipe.max_tokens),
        checkpointing=training.activation_checkpointing,
        offload=training.offload_optimizer,
        weight_bytes=size,
        accumulation_bytes=4 if recipe.grad_accum_dtype == "float32" else size,
        lora_rank=recipe.lora_rank,
        batch_size=recipe.batch_size,
    )


def engine_settings(needed: Needs, job: SamplingJob, shape: ModelShape) -> EngineSettings:
    """What decides the memory of an engine that samples a job."""
    engine, settings = needed.config.engine, job.settings
    context = min(filter(None, (settings.max_model_len, shape.context)), default=0)
    tokens = needed.prompt_tokens * (1 + settings.shots) + settings.max_new_tokens
    return EngineSettings(
        gpus=max(1, math.ceil(engine.gpus)),
        utilization=engine.gpu_memory_utilization * min(engine.gpus, 1),
        sequences=engine.max_num_seqs,
        context=context or tokens,
        tokens=min(tokens, context or tokens),
        eager=engine.enforce_eager is True,
        weight_bytes=1 if engine.quantization else _DTYPE_BYTES[engine.dtype],
        pipeline=engine.pipeline_parallel_size,
        batched_tokens=engine.max_num_batched_tokens or 0,
    )


def table(needed: Needs, card: Card) -> str:
    """The memory of every stage on each GPU of a kind, in GiB."""
    lines = [
        f"memory of each {card.name}, in GiB of {card.memory_gib:.1f} ({card.memory_gb} GB); activations: kept, and "
        "with checkpointing; * is what is used",
        f"{'train':<22} {'GPUs':>4} {'ZeRO':>4} {'micro':>5} {'weights':>8} {'grads':>7} {'optim.':>7} "
        f"{'activations':>15} {'buffers':>8} {'logits':>7} {'total':>7}",
    ]
    lines += [_training_line(needed, job, shape, card) for job, shape in needed.trainings]
    used = engine_card(needed.config, card)
    if needed.samplings and used != card:
        lines.append(f"engines are on {used.name}, in GiB of {used.memory_gib:.1f} ({used.memory_gb} GB)")
    if needed.samplings:
        lines.append(
            f"{'sample':<22} {'GPUs':>4} {'weights':>8} {'activations':>12} {'graphs':>7} {'KV cache':>9} "
            f"{'KV MiB/sequence':>16} {'sequences':>10}"
        )
    lines += [_engine_line(needed, job, shape, used) for job, shape in needed.samplings]
    lines += [f"memory of {source} is not known: its config.json does not state its shape" for source in needed.unknown]
    return "\n".join(lines)


def _training_line(needed: Needs, job: TrainingJob, shape: ModelShape, card: Card) -> str:
    settings = training_settings(needed.config.training, job.recipe, shape)
    memory = training_memory(shape, settings, card)
    kept, recomputed = _gib(memory.kept), _gib(memory.recomputed)
    shown = f"{kept} / {recomputed}*" if memory.checkpointing else f"{kept}* / {recomputed}"
    host = f", {_gib(memory.host * settings.workers)} GiB of the hosts" if memory.host else ""
    return (
        f"{job.stage + ' ' + job.model:<22} {settings.workers:>4} {settings.zero_stage:>4} {settings.micro_batch:>5} "
        f"{_gib(memory.weights):>8} {_gib(memory.gradients):>7} {_gib(memory.optimizer):>7} {shown:>15} "
        f"{_gib(memory.buffers):>8} {_gib(memory.logits):>7} {_gib(memory.total):>7} "
        f"{'fits' if fits(memory, card) else 'DOES NOT FIT'}{host}"
    )


def _engine_line(needed: Needs, job: SamplingJob, shape: ModelShape, card: Card) -> str:
    settings = engine_settings(needed, job, shape)
    memory = engine_memory(shape, settings, card)
    return (
        f"{job.model.name:<22} {settings.gpus:>4} {_gib(memory.weights):>8} {_gib(memory.activations):>12} "
        f"{_gib(memory.graphs):>7} {_gib(max(memory.kv_cache, 0)):>9} {memory.kv_per_sequence / 2**20:>16.1f} "
        f"{memory.sequences:>10,} {'fits' if memory.fits else 'DOES NOT FIT'}"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def check(needed: Needs, card: Card) -> None:
    """Raises ConfigError, with what would fit, where a training or an engine does not fit the card.

    With `hardware.on_misfit=continue` the same is printed as a note.
    """
    refusals = [*_training_refusals(needed, card), *_engine_refusals(needed, card)]
    if refusals and needed.config.hardware.on_misfit == "stop":
        raise ConfigError("; ".join(refusals))
    for refusal in refusals:
        print(f"note: {refusal}")


def shapes_of(sources: Iterable[str]) -> dict[str, ModelShape | None]:
    """Source -> shape of each model that is not behind an endpoint; no weights are downloaded from the hub.

    Raises ModelError, StoreError.
    """
    return {
        source: shape_of(read_json(base_models.metadata(source) / "config.json", source), base_models.size(source))
        for source in sorted(set(sources))
        if not source.startswith(ENDPOINT)
    }


def _training_refusals(needed: Needs, card: Card) -> Iterator[str]:
    if needed.config.training.device == "cpu":
        return
    for job, shape in needed.trainings:
        settings = training_settings(needed.config.training, job.recipe, shape)
        memory = training_memory(shape, settings, card)
        if fits(memory, card):
            continue
        proposals = [_proposal(shape, settings, choice) for choice in alternatives(shape, settings, card)]
        remedy = f"would fit: {', or '.join(proposals)}" if proposals else "no number of these GPUs up to 128 would do"
        yield (
            f"{job.stage} of {job.model} needs about {_gib(memory.total)} GiB on each of {settings.workers} "
            f"{card.name}, which has {card.memory_gib:.1f}: {remedy}"
        )


def _proposal(shape: ModelShape, settings: TrainingSettings, other: TrainingSettings) -> str:
    """The keys of the config that differ, with their other values."""
    keys = {
        "workers": ("training.workers", str(other.workers)),
        "zero_stage": ("training.zero_stage", str(other.zero_stage)),
        "micro_batch": ("training.micro_batch_size", str(other.micro_batch)),
        "checkpointing": ("training.activation_checkpointing", other.checkpointing),
        "offload": ("training.offload_optimizer", str(other.offload).lower()),
    }
    changed = [
        f"{key}={value}" for name, (key, value) in keys.items() if getattr(settings, name) != getattr(other, name)
    ]
    host = training_memory(shape, other, None).host * other.workers
    return " with ".join(changed) + (f" ({_gib(host)} GiB of the hosts' memory)" if host else "")


def _engine_refusals(needed: Needs, card: Card) -> Iterator[str]:
    if needed.config.engine.device == "cpu":
        return
    card = engine_card(needed.config, card)
    for job, shape in needed.samplings:
        settings = engine_settings(needed, job, shape)
        memory = engine_memory(shape, settings, card)
        if memory.fits:
            continue
        share = needed.config.engine.gpus_per_engine
        gpus = f"{settings.gpus} {card.name} have" if share is None else f"{share:g} of a {card.name} has"
        yield (
            f"sampling with {job.model.name}: {gpus} no room for keys and values of one "
            f"sequence of {settings.context:,} tokens ({_gib(memory.kv_per_context)} GiB on each) beside "
            f"{_gib(memory.weights)} GiB of weights: {_engine_remedy(shape, settings, memory, card, share=share)}"
        )


def _engine_remedy(
    shape: ModelShape, settings: EngineSettings, memory: EngineMemory, card: Card, *, share: float | None
) -> str:
    """`share`: the part of a GPU that the engine has; None: whole GPUs."""
    proposals = []
    if longest := max(0, memory.kv_cache) * settings.context // max(memory.kv_per_context, 1) // 64 * 64:
        proposals.append(f"sampling.max_model_len={longest} or less")
    whole = settings.utilization / (share or 1)
    larger = {part: replace(settings, utilization=whole * part) for part in (0.25, 0.5, 1) if part > (share or 1)}
    if part := next((part for part, choice in larger.items() if engine_memory(shape, choice, card).fits), None):
        proposals.append(f"engine.gpus_per_engine={part:g}")
    elif gpus := fewest_gpus(shape, replace(settings, utilization=whole), card):
        alone = " with engine.gpus_per_engine=null" if share else ""
        proposals.append(f"engine.tensor_parallel_size={gpus}{alone}")
    return f"would fit: {', or '.join(proposals)}" if proposals else "no number of these GPUs up to 64 would do"


PROCESS = GIB
"""Python, PyTorch and vLLM or DeepSpeed in one process."""


def host_line(needed: Needs) -> str:
    """The memory that training and sampling on CPUs need, in one line; empty where no model's shape is known."""
    config = needed.config
    trained = [
        (_on_host(training_memory(shape, settings, None), settings), job)
        for job, shape in needed.trainings
        for settings in [training_settings(config.training, job.recipe, shape)]
    ]
    parts = []
    if trained:
        size, job = max(trained, key=lambda entry: entry[0])
        parts.append(f"about {_gib(size)} GiB to train ({job.stage} of {job.model}, {config.training.workers} workers)")
    if needed.samplings:
        weights = max(shape.parameters * _DTYPE_BYTES[config.engine.dtype] for _, shape in needed.samplings)
        engine = weights + int(config.engine.kv_cache_gib * GIB) + PROCESS
        parts.append(f"about {_gib(engine)} GiB for each engine")
    return f"host memory: {', '.join(parts)}" if parts else ""


def _on_host(memory: TrainingMemory, settings: TrainingSettings) -> int:
    return settings.workers * (memory.total - OVERHEAD + PROCESS)
