"""The section `training`: how fine-tuning runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from rft_ray.config.models import Recipe
from rft_ray.config.section import LONGEST_MINUTES, Place, Section, Switch


class Training(Section):
    """How fine-tuning runs; none of it enters a model's identity."""

    workers: int = Field(1, ge=1)
    """Training processes; each uses one GPU where there are GPUs. They divide `batch_size`."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """ZeRO stage of DeepSpeed: 0 shards nothing, 3 shards the weights too."""
    micro_batch_size: int = Field(8, ge=1)
    """Examples per forward pass of one worker at most: the largest number up to this one that divides its share of
    `batch_size`. A packed row holds as many tokens as so many examples may have."""
    packing: Switch = "auto"
    """Lay examples end to end in rows, without padding and unseen by each other: the same steps and loss, faster.
    `auto` where the model allows it; `on` fails where it does not."""
    liger: Switch = "auto"
    """Liger's kernels and its cross-entropy without logits: the same loss in less memory. `auto`: on GPUs where the
    package liger-kernel is installed and the type of the model is tested; `on` fails elsewhere."""
    threads_per_worker: int = Field(2, ge=1)
    """CPU threads of one worker, where there is no GPU."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` uses GPUs if the cluster has some now. Use `gpu` where an autoscaler adds them on demand."""
    checkpoint_minutes: float = Field(20, gt=0, le=LONGEST_MINUTES)
    """Time between checkpoints, from which a broken training goes on. One that the store takes longer for postpones the
    next; training does not wait for it."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Also a checkpoint after every so many optimizer steps, for which training waits where the one before is not in
    the store yet; null: by `checkpoint_minutes` alone."""
    max_attempts: int = Field(3, ge=1)
    """How many times the training of a model is started before the run fails; waiting for resources does not count."""
    wait_minutes: float = Field(1440, gt=0, le=LONGEST_MINUTES)
    """How long a training waits until the cluster has GPUs (CPUs, where there are none) for all of its workers."""
    parallel_jobs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Models of a stage that are trained side by side, each by `workers` of its own. `auto`: as many as the free GPUs
    carry; one where there is no GPU."""
    scratch_folder: Place | None = None
    """Folder on each node for checkpoints and finished models on their way to the store: as large as both together.
    null: the system's temporary folder, which is often small or in memory."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the memory of the CPUs. It is updated by DeepSpeed's CPU Adam, compiled once a node
    where there is a C++ compiler, and by PyTorch's fused AdamW elsewhere."""
    activation_checkpointing: Switch = "auto"
    """Compute activations again in the backward pass instead of keeping them. `auto`: on a GPU that they do not fit."""

    def zero_stage_of(self, recipe: Recipe) -> int:
        """The ZeRO stage that DeepSpeed gets: stage 0 keeps no float32 copy of bfloat16 weights, and learns worse."""
        return max(self.zero_stage, 1) if recipe.dtype == "bfloat16" else self.zero_stage

    def micro_batch_of(self, recipe: Recipe) -> int:
        """Examples per forward pass of one worker: the largest divisor of its share of the batch up to the setting."""
        share = recipe.batch_size // self.workers
        return max(size for size in range(1, min(self.micro_batch_size, share) + 1) if share % size == 0)

    @field_validator("scratch_folder")
    @classmethod
    def _same_for_all_processes(cls, folder: str | None) -> str | None:
        if folder and not folder.startswith(("/", "~")):
            raise ValueError("must be the whole path of a folder on each node, from / or ~: workers run elsewhere")
        return folder
