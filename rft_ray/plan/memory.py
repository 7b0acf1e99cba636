"""Estimated memory of a training worker and of a sampling engine, on each GPU, and what would fit. Pure.

In: a model's shape, the card, and the settings. Out: bytes by what needs them. The terms follow the sources of
DeepSpeed 0.19 (runtime/zero), transformers 5 and vLLM 0.29; bytes of activations are those that PyTorch keeps for the
backward pass of one layer, as a test measures.

Limits: an estimate, to about 10 %. A micro-batch is taken to be full of examples of `max_tokens`, and attention to
keep no scores (SDPA or flash attention). Logits are those of all tokens: an upper bound for packed rows, where prompts
have none. Not counted: a tokenizer's or a kernel's own memory beyond `OVERHEAD`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from rft_ray.config import Config
from rft_ray.config.hardware import Card, card_of_type
from rft_ray.plan.model_shape import ModelShape

GIB = 2**30
OVERHEAD = int(1.5 * GIB)
"""CUDA's context, NCCL's channels and cuBLAS's workspaces."""
BUCKET, LIVE_PARAMETERS, SUB_GROUP = 500_000_000, 1_000_000_000, 1_000_000_000
"""DeepSpeed's defaults, in elements: `reduce_bucket_size`, `stage3_max_live_parameters`, `sub_group_size`."""
SMALL_MODEL_BYTES, SMALL_BUCKET = 100 * 2**20, 10**6
"""Bytes of stored weights below which DeepSpeed gets small buckets, and their size in elements."""
ADAM_BYTES = 12
"""A float32 weight and Adam's two moments."""
Checkpointing = Literal["auto", "on", "off"]


def planned_card(config: Config) -> Card | None:
    """The card that a run is planned for: `hardware.gpu`, else that of `engine.accelerator_type`; None for neither."""
    return config.hardware.card or card_of_type(config.engine.accelerator_type or "")


def engine_card(config: Config, card: Card) -> Card:
    """The card that engines run on in a run on `card`: that of `engine.accelerator_type`, where it is known."""
    return card_of_type(config.engine.accelerator_type or "", card) or card


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """What decides the memory of a training worker.

    Example: TrainingSettings(workers=8, zero_stage=3, micro_batch=4, tokens=512)
    """

    workers: int
    zero_stage: int
    micro_batch: int
    """Examples of one forward pass."""
    tokens: int
    """Tokens of one example, at most."""
    checkpointing: Checkpointing = "auto"
    offload: bool = False
    """The optimizer's state is in the host's memory."""
    weight_bytes: int = 2
    accumulation_bytes: int = 2
    """Bytes of an element of the summed gradients."""
    lora_rank: int = 0
    batch_size: int = 0
    """Examples of an optimizer step, which other numbers of workers must share evenly; 0: any number will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes of one training worker: on its GPU, except `host`."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """As trained: with or without checkpointing."""
    kept: int
    """What the activations take without checkpointing."""
    recomputed: int
    """What they take with it."""
    buffers: int
    """ZeRO's buckets and gathered weights."""
    logits: int
    step: int
    """The float32 gradients that the optimizer reads, after the backward pass."""
    checkpointing: bool
    host: int
    """In the host's memory: offloaded state."""

    @property
    def total(self) -> int:
        """The peak: at the end of the forward pass, or in the optimizer's step."""
        standing = self.weights + self.gradients + self.optimizer + self.buffers + OVERHEAD
        return standing + max(self.activations + self.logits, self.step)


def training_memory(shape: ModelShape, settings: TrainingSettings, card: Card | None) -> TrainingMemory:
    """The memory of one worker. `card`: by which `auto` decides on checkpointing; None, for CPUs: it is off."""
    if settings.checkpointing != "auto":
        return _training_memory(shape, settings, checkpointing=settings.checkpointing == "on")
    plain = _training_memory(shape, settings, checkpointing=False)
    if card is None or fits(plain, card):
        return plain
    return _training_memory(shape, settings, checkpointing=True)


def fits(memory: TrainingMemory, card: Card) -> bool:
    """Whether a training worker fits a card."""
    return memory.total <= card.memory_gib * GIB


def _training_memory(shape: ModelShape, settings: TrainingSettings, *, checkpointing: bool) -> TrainingMemory:
    trained = shape.adapter_parameters(settings.lora_rank) if settings.lora_rank else shape.parameters
    weights = shape.parameters + (trained if settings.lora_rank else 0)
    size, workers, stage = settings.weight_bytes, settings.workers, settings.zero_stage
    state = ADAM_BYTES * _share(trained, workers if stage else 1) if stage else 8 * trained
    tokens = settings.micro_batch * settings.tokens
    kept, recomputed = _kept_bytes(shape, settings) * tokens, _recomputed_bytes(shape, settings) * tokens
    on_host = settings.offload and stage > 0
    return TrainingMemory(
        weights=size * (_share(weights, workers) if stage == 3 else weights),
        gradients=_gradients(trained, settings),
        optimizer=0 if on_host else state,
        activations=recomputed if checkpointing else kept,
        kept=kept,
        recomputed=recomputed,
        buffers=_buffers(weights, trained, settings),
        logits=tokens * shape.vocabulary * (14 if size == 2 else 16),
        step=_step(trained, settings),
        checkpointing=checkpointing,
        host=state + 4 * _share(trained, workers) if on_host else 0,
    )


def _share(elements: int, workers: int) -> int:
    return -(-elements // workers)


def _gradients(trained: int, settings: TrainingSettings) -> int:
    """Gradients as they are summed over the micro-batches of a step."""
    size, summed = settings.weight_bytes, settings.accumulation_bytes
    if settings.zero_stage == 0:
        return size * trained
    if settings.zero_stage == 1:  # whole gradients, and summed ones beside them where their type is another
        return size * trained + (summed * trained if summed != size else 0)
    return 0 if settings.offload else summed * _share(trained, settings.workers)


def _step(trained: int, settings: TrainingSettings) -> int:
    """Gradients in float32 for the optimizer: of all that the worker updates, or in stage 3 of one group at a time."""
    if settings.zero_stage == 0 or settings.offload:
        return 0
    own = _share(trained, settings.workers)
    return 4 * (min(own, SUB_GROUP) if settings.zero_stage == 3 else own)


def _buffers(weights: int, trained: int, settings: TrainingSettings) -> int:
    """ZeRO's buckets, and in stage 3 the weights that are gathered at a time."""
    if settings.zero_stage == 0:
        return 0
    bucket = SMALL_BUCKET if weights * settings.weight_bytes < SMALL_MODEL_BYTES else min(BUCKET, 2 * trained)
    elements = bucket
    if settings.zero_stage == 3:  # communication overlaps with arithmetic, in a second bucket
        elements += bucket + min(weights, LIVE_PARAMETERS)
    return settings.weight_bytes * elements


def _kept_bytes(shape: ModelShape, settings: TrainingSettings) -> int:
    """Bytes a token that the layers keep for the backward pass: norms, attention's inputs and output, the MLP's."""
    norms = (16 if settings.weight_bytes == 2 else 24) * shape.hidden
    attention = 2 * settings.weight_bytes * (shape.queries + shape.keys)
    adapters = settings.weight_bytes * 7 * settings.lora_rank
    return shape.layers * (norms + attention + 4 * settings.weight_bytes * shape.intermediate + adapters)


def _recomputed_bytes(shape: ModelShape, settings: TrainingSettings) -> int:
    """Bytes a token with checkpointing: each layer's input, and all of the layer that is computed again."""
    return shape.layers * settings.weight_bytes * shape.hidden + _kept_bytes(shape, settings) // shape.layers


# --- What would fit instead -----------------------------------------------------------------------


def alternatives(shape: ModelShape, settings: TrainingSettings, card: Card) -> list[TrainingSettings]:
    """Settings that fit the card: on the same GPUs, else with offload and on the fewest GPUs without it.

    Of several, those with the lowest ZeRO stage, then without checkpointing, then with the largest micro-batch.
    """
    same = _first_fitting(shape, card, _lighter(settings, (settings.workers,), offload=settings.offload))
    if same:
        return [same]
    offloaded = _first_fitting(shape, card, _lighter(settings, (settings.workers,), offload=True))
    more = _first_fitting(shape, card, _lighter(settings, MORE, offload=settings.offload))
    return [choice for choice in (offloaded, more) if choice]


MORE = (2, 4, 8, 16, 32, 64, 128)
"""Numbers of GPUs that are tried."""


def _first_fitting(shape: ModelShape, card: Card, choices: Iterator[TrainingSettings]) -> TrainingSettings | None:
    return next((choice for choice in choices if fits(training_memory(shape, choice, card), card)), None)


def _lighter(settings: TrainingSettings, workers: Sequence[int], *, offload: bool) -> Iterator[TrainingSettings]:
    """The settings with these numbers of workers, every higher ZeRO stage, checkpointing and smaller micro-batches."""
    counts = [n for n in workers if n >= settings.workers and settings.batch_size % n == 0]
    stages = range(max(1, settings.zero_stage), 4)
    micros = [size for size in range(settings.micro_batch, 0, -1) if settings.micro_batch % size == 0]
    for count, stage, checkpointing, micro in product(counts, stages, (settings.checkpointing, "on"), micros):
        if count * micro <= max(settings.batch_size, count):
            yield replace(
                settings,
                workers=count,
                zero_stage=stage,
                micro_batch=micro,
                checkpointing=checkpointing,
                offload=offload,
            )


# --- Sampling -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What decides the memory of an engine on each of its GPUs.

    Example: EngineSettings(gpus=1, utilization=0.9, sequences=256, context=2048, tokens=400, eager=False)
    """

    gpus: int
    """GPUs over which the weights are divided."""
    utilization: float
    """Share of each GPU's memory that the engine takes."""
    sequences: int
    """At once, at most."""
    context: int
    """Tokens of prompt and completion that one sequence may have; vLLM needs room for one such sequence."""
    tokens: int
    """Tokens of prompt and completion that a sequence of this run has at most, about."""
    eager: bool
    weight_bytes: int = 2
    """Of quantized weights 1, an upper bound; keys and values then have 2."""
    pipeline: int = 1
    """Groups of GPUs that hold the layers one after another."""
    batched_tokens: int = 0
    """Tokens of one forward pass at most; 0: vLLM's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Bytes of one engine on each of its GPUs."""

    weights: int
    activations: int
    graphs: int
    """CUDA graphs and compiled code."""
    kv_cache: int
    """What is left for keys and values; negative where the rest does not fit."""
    kv_per_sequence: int
    """Of a sequence of this run."""
    kv_per_context: int
    """Of a sequence as long as the context."""

    @property
    def sequences(self) -> int:
        """Sequences of this run that fit at once."""
        return max(0, self.kv_cache // self.kv_per_sequence)

    @property
    def fits(self) -> bool:
        """Whether one sequence as long as the context fits, without which vLLM does not start."""
        return self.kv_cache >= self.kv_per_context


BATCHED_TOKENS = 8192
"""Tokens of one forward pass at most, in vLLM's defaults for large cards."""
GRAPHS = int(1.5 * GIB)


def engine_memory(shape: ModelShape, settings: EngineSettings, card: Card) -> EngineMemory:
    """The memory of an engine on each of its GPUs."""
    size = settings.weight_bytes
    weights = _share(shape.parameters * size, settings.gpus)
    tokens = settings.batched_tokens or min(BATCHED_TOKENS, max(settings.context, 2048))
    widest = 2 * shape.hidden + _share(2 * shape.intermediate + shape.queries + 2 * shape.keys, settings.gpus)
    logits = settings.sequences * shape.vocabulary * 4 * 3  # float32, a copy that is sampled from, and sorted indices
    activations = tokens * widest * max(size, 2) + logits
    graphs = 0 if settings.eager else GRAPHS
    keys = shape.keys_on_each(settings.gpus // settings.pipeline)
    per_token = 2 * _share(shape.layers, settings.pipeline) * keys * max(size, 2)
    room = int(settings.utilization * card.memory_gib * GIB) - weights - activations - graphs - OVERHEAD // 2
    return EngineMemory(
        weights=weights,
        activations=activations,
        graphs=graphs,
        kv_cache=room,
        kv_per_sequence=per_token * settings.tokens,
        kv_per_context=per_token * settings.context,
    )


def fewest_gpus(shape: ModelShape, settings: EngineSettings, card: Card) -> int:
    """The smallest tensor parallelism with room for one sequence of the whole context; 0 where 64 GPUs are too few."""
    sizes = (n for n in (1, 2, 4, 8, 16, 32, 64) if shape.divides_by(n))
    choices = {n: replace(settings, gpus=n * settings.pipeline) for n in sizes}
    return next((n for n, choice in choices.items() if engine_memory(shape, choice, card).fits), 0)
