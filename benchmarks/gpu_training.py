"""One training of a 1.5B shape with random weights, as the training stage does it: speed, memory, checkpoint.

In: a place, and what of the settings is varied. Out: tokens of examples per second, the share of the cards' arithmetic
(6 FLOPs per weight and token), the peak of the GPU's memory beside what `plan/memory.py` expects, and the bytes of a
checkpoint with the seconds that its copy takes. The group is one process for each GPU, started here and not by Ray.

Limits: a dozen optimizer steps on random tokens, in lengths like GSM8K's.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import time
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import gpu_shapes
from benchmarks.gpu_steps import Note, Place

BATCH, STEPS, WARM_UP = 128, 12, 2
"""Examples of an optimizer step, steps at most, and those before the clock starts."""
MAX_TOKENS = 512
PROMPT, RESPONSE = (89, 25), (125, 55)
"""Tokens, mean and deviation, as GSM8K has them."""


@dataclass(frozen=True)
class Variant:
    """What is varied. Example: Variant(zero=3, micro=16)"""

    zero: int = 2
    micro: int = 4
    packing: bool = True
    checkpointing: bool = False
    """Whether activations are computed again."""
    accumulation: str = "auto"
    """`float32`: gradients are summed in it, else in bfloat16."""


def train(place: Place, note: Note, *, variant: Variant) -> None:
    """Train on every GPU, or on two CPU processes."""
    from torch.multiprocessing.spawn import spawn

    shape = gpu_shapes.ONE_AND_A_HALF if place.gpus else gpu_shapes.SMALL
    folder = gpu_shapes.folder(place, shape, weights=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = largest_divisor(BATCH, place.gpus or 2)
    note(parameters=shape.parameters, workers=workers)
    start: Any = spawn
    start(_rank, (workers, port, place, note, variant, shape, folder), nprocs=workers)


def largest_divisor(number: int, most: int) -> int:
    return next(size for size in range(most, 0, -1) if number % size == 0)


def random_examples(count: int, vocabulary: int) -> list[Any]:
    from rft_ray.training.batches import Example

    numbers = random.Random(0)

    def tokens(of: tuple[int, int]) -> int:
        return max(8, min(MAX_TOKENS // 2, round(numbers.gauss(*of))))

    sizes = [(tokens(PROMPT), tokens(RESPONSE)) for _ in range(count)]
    return [Example(array("I", numbers.choices(range(3, vocabulary), k=sum(size))), size[0]) for size in sizes]


def _rank(
    rank: int,
    workers: int,
    port: int,
    place: Place,
    note: Note,
    variant: Variant,
    shape: gpu_shapes.Shape,
    folder: Path,
) -> None:
    """One process of the group, from joining it to the copy of a checkpoint."""
    _join(rank, workers, port, place)
    import torch

    from rft_ray.store import open_store
    from rft_ray.training.agreement import number_from_rank_0, patient_group
    from rft_ray.training.trainer import Group, make_trainer

    task, settings = _task(place, variant, shape, folder, workers, rank)
    states = place.folder / "models" / "states"
    group = Group(
        "measured",
        open_store(str(states)),
        settings,
        bool(place.gpus),
        None,
        rank,
        rank,
        workers,
        workers_of_node=workers,
        patient=patient_group(),
        background=patient_group(),
    )
    task = _with_kernels(task, group, shape)
    clock = _clock(lambda late: bool(number_from_rank_0(group, int(late))), place)
    trainer = make_trainer(group, task, clock)
    trainer.train()
    done = trainer.state.global_step
    if done <= WARM_UP:
        raise RuntimeError(f"only {done} steps in the time given: nothing was measured")
    useful = task.tokens_by_step[done - 1] - task.tokens_by_step[WARM_UP - 1]
    rate = useful / (clock.ended - clock.began)
    card_peak = torch.cuda.max_memory_allocated() if place.gpus else 0
    size, copied_s = _copied(trainer, group, states)
    if rank == 0:
        shutil.rmtree(states, ignore_errors=True)
        note(
            attention=task.division.attention or "padded",
            optimizer=task.optimizer,
            liger=task.liger,
            useful_tokens=round(task.division.useful, 4),
            steps=done,
            tokens_per_s=round(rate),
            mfu=gpu_shapes.mfu(place, 6 * shape.parameters * rate, workers),
            loss=round(trainer.state.log_history[-1].get("train_loss", float("nan")), 4),
            peak_gib=round(card_peak / 2**30, 2) if place.gpus else None,
            planned_gib=_planned_gib(place, shape, task, settings),
            checkpoint_gb=round(size / 1e9, 3),
            bytes_a_weight=round(size / shape.parameters, 1),
            copied_s=round(copied_s, 2),
        )


def _join(rank: int, workers: int, port: int, place: Place) -> None:
    """Make this process a rank of the group, on a GPU of its own where there are GPUs."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if not place.gpus:
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it when it is imported
    import deepspeed
    import torch

    from rft_ray.training import transformers_private

    if place.gpus:
        torch.cuda.set_device(rank)
    else:
        transformers_private.switch_off_shm_comm()
        torch.set_num_threads(1)
    deepspeed.init_distributed("nccl" if place.gpus else "gloo", auto_mpi_discovery=False)


def _with_kernels(task: Any, group: Any, shape: gpu_shapes.Shape) -> Any:
    """The task with the optimizer and the kernels that the training stage would choose."""
    from rft_ray.training import liger, optimizers

    optimizer, _ = optimizers.choose(group, task.job.recipe)
    chosen = replace(task, optimizer=optimizer, liger=liger.choose(group, shape.config["model_type"]))
    if chosen.liger:
        liger.prepare()
    return chosen


def _copied(trainer: Any, group: Any, states: Path) -> tuple[int, float]:
    """Bytes of a checkpoint, of all ranks together, and the seconds in which this rank copies its part."""
    from rft_ray.training import transformers_private
    from rft_ray.training.agreement import together
    from rft_ray.training.snapshots import Snapshots, bytes_of

    sizes, snapshots = [], Snapshots(group.world_size)

    def keep(state: Any, path: str) -> bool:
        sizes.append(bytes_of(state))
        return snapshots.keep(state, path)

    transformers_private.let_states_be_kept(trainer.deepspeed, keep)
    began = time.monotonic()
    trainer.deepspeed.save_checkpoint(str(states / "checkpoint"))
    copied_s = time.monotonic() - began
    return sum(together(group, "the copies could not be counted", lambda: sum(sizes))), copied_s


def _task(
    place: Place, variant: Variant, shape: gpu_shapes.Shape, folder: Path, workers: int, rank: int
) -> tuple[Any, Any]:
    """The task of `trainer.make_trainer`, and the section `training`."""
    from transformers import AutoConfig, AutoTokenizer

    from rft_ray.config import ALPACA, Recipe, Training
    from rft_ray.plan.jobs import TrainingJob
    from rft_ray.training import packed_attention
    from rft_ray.training.batches import plan
    from rft_ray.training.packing import divide
    from rft_ray.training.trainer import Task

    recipe = Recipe(epochs=1, batch_size=BATCH, max_tokens=MAX_TOKENS, grad_accum_dtype=variant.accumulation)
    settings = Training(
        workers=workers,
        zero_stage=variant.zero,
        micro_batch_size=variant.micro,
        packing="on" if variant.packing else "off",
        activation_checkpointing="on" if variant.checkpointing else "off",
    )
    examples = random_examples(BATCH * (STEPS if place.gpus else WARM_UP + 2), shape.config["vocab_size"])
    lengths = [len(example.tokens) for example in examples]
    config = AutoConfig.from_pretrained(folder)
    attention = packed_attention.choose(settings.packing, config, gpu=bool(place.gpus), dtype=recipe.dtype)
    batches = plan(lengths, recipe.epochs, recipe.batch_size, 0)
    division = divide(batches, lengths, settings, recipe, rank=rank, attention=attention)
    job = TrainingJob(shape.name, "sft", "0" * 16, str(folder), "", recipe, ALPACA, 0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Task(job, folder, tokenizer, examples, 0, batches, division, variant.checkpointing), settings


def _clock(agreed: Any, place: Place) -> Any:
    """A callback that times the steps after the warm-up, and ends the training when the step's time is over."""
    import torch
    from transformers import TrainerCallback

    deadline = time.monotonic() + float(os.environ["RFT_STEP_SECONDS"]) / 2  # half is left for the start and the copy

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if place.gpus:
                torch.cuda.synchronize()
            self.ended = time.monotonic()
            if state.global_step == WARM_UP:
                self.began = self.ended
            control.should_training_stop = agreed(self.ended > deadline and state.global_step > WARM_UP)

    return Clock()


def _planned_gib(place: Place, shape: gpu_shapes.Shape, task: Any, settings: Any) -> float | None:
    """What `plan/memory.py` expects of this training on a worker's card."""
    from rft_ray.plan.memory import training_memory
    from rft_ray.plan.memory_plan import training_settings
    from rft_ray.plan.model_shape import shape_of

    known = shape_of(shape.config, shape.parameters)
    if not place.gpus or known is None:
        return None
    return round(training_memory(known, training_settings(settings, task.job.recipe, known), None).total / 2**30, 2)
