"""One training job as a transformers.Trainer with DeepSpeed.

In: a `Task` (data, base model, plan, division). Out: a Trainer that trains on exactly the division's passes.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.plan.memory import SMALL_BUCKET, SMALL_MODEL_BYTES
from rft_ray.store import Store
from rft_ray.training import checkpoints, packed_attention, transformers_private
from rft_ray.training.batches import Example, Plan, padded, warmup_steps
from rft_ray.training.packing import Division
from rft_ray.training.scratch import scratch_folder

CURVE_POINTS = 500
"""Approximate upper limit of the logged points of the loss curve."""
CLIP_NORM = 1.0
ADAMW, FUSED, CPU_ADAM = "adamw_torch", "adamw_torch_fused", "deepspeed_cpu_adam"
"""The optimizers: PyTorch's AdamW, the same in one kernel, and DeepSpeed's for states in the host's memory."""


@dataclass(frozen=True)
class Group:
    """The worker group, as one worker sees it."""

    attempt: str
    store: Store
    settings: Training
    gpu: bool
    board: Any
    """Handle of a `ray_group.ProgressBoard` actor, or None."""
    rank: int
    local_rank: int
    world_size: int
    made_from: Mapping[str, str] = field(default_factory=dict)
    """Stem -> identity of the tables that the current job trains on."""
    node_rank: int = 0
    workers_of_node: int = 1
    """Workers of this group on this node."""
    patient: Any = None
    """Process group of all ranks for what takes longer than a collective of the training may (`agreement.py`)."""
    background: Any = None
    """The same for the thread that stores checkpoints: no group is used by two threads."""

    @property
    def layout(self) -> dict[str, int | str]:
        """What a checkpoint must share with this run: how DeepSpeed divides the state into files, and the data."""
        return {"workers": self.world_size, "zero_stage": self.settings.zero_stage, **self.made_from}

    @property
    def scratch(self) -> Path:
        """Folder of this attempt on this node, which its workers there share (`scratch.py`)."""
        name = hashlib.sha256(self.store.url.encode()).hexdigest()[:12]
        return scratch_folder(self.settings) / f"rft-train-{name}" / f"{self.attempt}-{self.node_rank}"


@dataclass(frozen=True)
class Task:
    """One job with its data and plan, ready to train."""

    job: TrainingJob
    base: Path
    tokenizer: Any
    examples: Sequence[Example]
    skipped: int
    plan: Plan
    division: Division
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass."""
    optimizer: str = ADAMW
    """ADAMW, FUSED or CPU_ADAM."""
    optimizer_reason: str = ""
    """Why it is not CPU_ADAM, where the optimizer's state is in the host's memory."""
    liger: bool = False
    """Whether the model runs with Liger kernels (`liger.py`)."""
    universal: bool = False
    """Whether the checkpoint to resume from is in DeepSpeed's universal form (`universal_form.py`)."""

    @cached_property
    def tokens_by_step(self) -> list[int]:
        """Cumulative number of training tokens after each step."""
        total, totals = 0, []
        for step in self.plan.steps:
            total += sum(len(self.examples[index].tokens) for index in step)
            totals.append(total)
        return totals


def _arguments(group: Group, task: Task) -> Any:
    """TrainingArguments of a task. Create them before the model: under ZeRO 3 they make it load in partitions."""
    from transformers import TrainingArguments, set_seed

    recipe, steps = task.job.recipe, len(task.plan.steps)
    set_seed(task.job.seed)
    folder = checkpoints.work_folder(task.job.fingerprint, group.attempt)
    return TrainingArguments(
        output_dir=str(checkpoints.local_folder(group.store, folder, group.scratch)),
        per_device_train_batch_size=task.division.rows,
        gradient_accumulation_steps=task.division.per_step,
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=warmup_steps(steps, recipe),
        weight_decay=recipe.weight_decay,
        max_grad_norm=CLIP_NORM,
        optim=ADAMW if task.optimizer == CPU_ADAM else task.optimizer,
        bf16=recipe.dtype == "bfloat16",
        use_cpu=not group.gpu,
        use_liger_kernel=task.liger,
        activation_checkpointing=task.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        seed=task.job.seed,
        deepspeed=_deepspeed(group, task),
        logging_steps=max(1, steps // CURVE_POINTS),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `checkpoint_writer.Schedule` says when
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=group.gpu,
        average_tokens_across_devices=True,
    )


def offloads(settings: Training, recipe: Recipe) -> bool:
    """Whether the optimizer's state is in the host's memory by way of DeepSpeed, which needs a ZeRO stage."""
    return settings.offload_optimizer and settings.zero_stage_of(recipe) > 0


def _deepspeed(group: Group, task: Task) -> dict[str, Any]:
    """DeepSpeed's configuration. Small models get small buffers; larger ones get DeepSpeed's defaults."""
    weights = sum(path.stat().st_size for path in task.base.glob("*.safetensors"))
    stage = group.settings.zero_stage_of(task.job.recipe)
    zero: dict[str, Any] = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    if weights < SMALL_MODEL_BYTES:
        zero |= {"reduce_bucket_size": SMALL_BUCKET, "allgather_bucket_size": SMALL_BUCKET}
    if offloads(group.settings, task.job.recipe):
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": group.gpu}
    return {
        "train_micro_batch_size_per_gpu": task.division.rows,
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": CLIP_NORM,
        "bf16": {"enabled": task.job.recipe.dtype == "bfloat16"},
        **({"data_types": {"grad_accum_dtype": "fp32"}} if task.job.recipe.grad_accum_dtype == "float32" else {}),
        "zero_optimization": zero,
        **({"checkpoint": {"load_universal": True}} if task.universal else {}),
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def _model(task: Task) -> Any:
    """The base model in the recipe's dtype, with LoRA adapters when the recipe sets `lora_rank`."""
    import torch
    from transformers import AutoModelForCausalLM

    packed_attention.register()
    recipe = task.job.recipe
    attention = {"attn_implementation": task.division.attention} if task.division.attention else {}
    model = AutoModelForCausalLM.from_pretrained(task.base, dtype=getattr(torch, recipe.dtype), **attention)
    if not recipe.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapter)


def trained_names(task: Task) -> list[list[str]]:
    """Names of the parameters that a task trains, by parameter group, in the order of a Trainer's optimizer.

    Loads the model. Call it where no DeepSpeed configuration is set: under ZeRO 3 models load in partitions.
    """
    model = _model(task)
    decayed = transformers_private.names_with_weight_decay(model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = ([name for name in trained if (name in decayed) == decays] for decays in (True, False))
    return [group for group in groups if group]  # DeepSpeed drops an empty one: adapters have weight decay, all of them


def _cpu_adam(arguments: Any) -> tuple[type[Any], dict[str, Any]]:
    """DeepSpeed's Adam for CPUs with what PyTorch's AdamW gets from the TrainingArguments, as a Trainer takes it."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    betas = arguments.adam_beta1, arguments.adam_beta2
    return DeepSpeedCPUAdam, {"lr": arguments.learning_rate, "betas": betas, "eps": arguments.adam_epsilon}


def make_trainer(group: Group, task: Task, watch: Any) -> Any:
    """A transformers.Trainer that trains on the passes of the task's division."""
    from torch import tensor
    from torch.utils.data import DataLoader
    from transformers import PrinterCallback

    arguments = _arguments(group, task)
    filler = task.tokenizer.pad_token_id if task.tokenizer.pad_token_id is not None else task.tokenizer.eos_token_id

    def collate(batch: list[Example]) -> dict[str, Any]:
        if task.division.attention:
            return packed_attention.packed(batch, filler, task.division.attention)
        return {name: tensor(rows) for name, rows in padded(batch, filler).items()}

    base: Any = transformers_private.trainer_without_weights_in_checkpoints()

    class PlannedTrainer(base):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            """This rank's passes. The division has already sharded them, so this returns a plain DataLoader."""
            passes: Any = task.division.passes
            return DataLoader(task.examples, batch_sampler=passes, collate_fn=collate)  # type: ignore[arg-type]

    own = {"optimizer_cls_and_kwargs": _cpu_adam(arguments)} if task.optimizer == CPU_ADAM else {}
    trainer = PlannedTrainer(model=_model(task), args=arguments, train_dataset=task.examples, callbacks=[watch], **own)
    trainer.remove_callback(PrinterCallback)
    return trainer


def forget_deepspeed() -> None:
    """Clear the global state of a finished job before the next job in this process."""
    import torch

    transformers_private.forget_deepspeed_config()
    transformers_private.reset_accelerate()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
