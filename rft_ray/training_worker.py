"""One Ray Train worker: transformers.Trainer with DeepSpeed, job after job, each committed by rank 0.

In: the config that `training._run_group` passes. Out: committed models, checkpoints, metrics and progress. Every
decision that could differ between workers (what is done already, which checkpoint to start from) is made by rank 0
and told to the others.

DeepSpeed compiles nothing here: its CPU communication kernels serve inference only and are switched off, and
the optimizer is PyTorch's.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rft_ray import checkpoints
from rft_ray.checkpoints import Checkpoint
from rft_ray.config import Training
from rft_ray.models import commit_model, committed_model, resolve
from rft_ray.prompts import chat_template
from rft_ray.store import Store, open_store, read_table
from rft_ray.training import STARTED, TrainingError, TrainingJob, TrainingProgress
from rft_ray.training_data import Example, Plan, encode, micro_batch_size, padded, plan

T = TypeVar("T")

CURVE_POINTS = 500
"""At most about so many points of the loss curve are kept in a manifest."""
REPORT_EVERY_S = 5.0
CLIP_NORM = 1.0
SMALL_MODEL = 50_000_000
"""Parameters below which DeepSpeed's default communication buffers (2 GB) would dwarf the model."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """What this worker knows of its group."""

    attempt: str
    store: Store
    settings: Training
    gpu: bool
    board: Any
    """Handle of a `training.ProgressBoard` actor, or None."""
    rank: int
    local_rank: int
    world_size: int

    @property
    def layout(self) -> dict[str, int]:
        """How DeepSpeed cuts the state into files."""
        return {"workers": self.world_size, "zero_stage": self.settings.zero_stage}

    @cached_property
    def scratch(self) -> Path:
        """This node's folder for files of a store that is not local; its workers share it."""
        return Path(tempfile.gettempdir()) / f"rft-train-{self.attempt}"


def train_jobs(config: dict[str, Any]) -> None:
    """The train function: all jobs, one after another."""
    group = _join(config)
    for job in config["jobs"]:
        _train_one(group, job)
        _forget_deepspeed()


def _join(config: dict[str, Any]) -> Group:
    """Set up this process: what must be said before DeepSpeed is imported, threads, and silence."""
    if not config["gpu"]:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import ray.train
    import torch
    from transformers.utils.logging import disable_progress_bar

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not config["gpu"]:
        torch.set_num_threads(config["settings"].threads_per_worker)
    deepspeed.init_distributed("nccl" if config["gpu"] else "gloo", auto_mpi_discovery=False)
    disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    context = ray.train.get_context()
    return Group(
        config["attempt"],
        open_store(config["store_url"]),
        config["settings"],
        config["gpu"],
        config["board"],
        context.get_world_rank(),
        context.get_local_rank(),
        context.get_world_size(),
    )


def _told_by_rank_0(group: Group, decide: Callable[[], T]) -> T:
    """`decide()` of rank 0, on every rank. An error of it fails the group."""
    import torch.distributed

    box = [decide() if group.rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def _first_of_node_first(group: Group, load: Callable[[], T]) -> T:
    """`load()` on every rank, where one of each node goes first: it downloads what the others then find."""
    import torch.distributed

    if group.local_rank == 0:
        loaded = load()
    torch.distributed.barrier()
    return loaded if group.local_rank == 0 else load()


def _mark_started(group: Group, job: TrainingJob) -> None:
    """Tell the driver, and whoever looks into the work folder, that this job has begun, and where."""
    if group.rank == 0:
        where = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), **group.layout}
        key = f"{checkpoints.work_folder(job.fingerprint, group.attempt)}/{STARTED}"
        group.store.create(key, json.dumps(where).encode())


# --- One job --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One job, ready to train."""

    job: TrainingJob
    base: Path
    tokenizer: Any
    examples: Sequence[Example]
    skipped: int
    plan: Plan

    @cached_property
    def tokens_by_step(self) -> list[int]:
        """Tokens trained on up to and including each step."""
        total, sums = 0, []
        for step in self.plan.steps:
            total += sum(len(self.examples[index].tokens) for index in step)
            sums.append(total)
        return sums


def _prepare(group: Group, job: TrainingJob) -> Task:
    """Load tokenizer and data. Raises TrainingError where nothing is left to train on."""
    from transformers import AutoConfig, AutoTokenizer

    base = resolve(job.base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"the tokenizer of {job.base} has no EOS token, so no response could ever end")
    table, _ = read_table(group.store, job.data_key)
    rows = zip(table.column("question").to_pylist(), table.column("text").to_pylist(), strict=True)
    context = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", job.recipe.max_tokens)
    limit = min(job.recipe.max_tokens, context)
    examples, skipped = encode(tokenizer, job.template, rows, limit)
    if not examples:
        raise TrainingError(
            f"no example is left to train on: {job.data_key} has {table.num_rows} rows, {skipped} of them longer than "
            f"{limit} tokens (max_tokens={job.recipe.max_tokens}, the model's context is {context})"
        )
    recipe = job.recipe
    lengths = [len(example.tokens) for example in examples]
    return Task(job, base, tokenizer, examples, skipped, plan(lengths, recipe.epochs, recipe.batch_size, job.seed))


def _train_one(group: Group, job: TrainingJob) -> None:
    if _told_by_rank_0(group, lambda: committed_model(group.store, job.fingerprint) is not None):
        return
    _mark_started(group, job)
    task = _prepare(group, job)
    start, passed_over = _told_by_rank_0(
        group, lambda: checkpoints.newest(group.store, job.fingerprint, group.layout, group.scratch)
    )
    resume = None
    if start is not None:
        resume = _first_of_node_first(group, lambda: checkpoints.fetch(group.store, start, group.scratch))
    watch = _watch(group, task, start)
    trainer = _trainer(group, task, watch)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = watch.seconds
    with tempfile.TemporaryDirectory(prefix="rft-model-") as folder:
        _export(group, task, trainer, Path(folder))
        if group.rank == 0:
            metadata = _account(group, task, trainer.state.log_history, seconds, start, passed_over)
            commit_model(group.store, job.fingerprint, Path(folder), metadata)
            checkpoints.prune(group.store, job.fingerprint, keep=0)
    trainer.deepspeed.destroy()


def _account(
    group: Group,
    task: Task,
    history: Sequence[dict[str, Any]],
    seconds: float,
    start: Checkpoint | None,
    passed_over: int,
) -> dict[str, Any]:
    """What the manifest tells of this training; `training.TrainingResult` reads it."""
    curve = [[entry["step"], entry["loss"], entry["learning_rate"]] for entry in history if "loss" in entry]
    tokens = task.tokens_by_step[-1]
    here = tokens - (task.tokens_by_step[start.step - 1] if start else 0)
    training = {
        "examples": len(task.examples),
        "skipped_too_long": task.skipped,
        "steps": len(task.plan.steps),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": here / max(seconds - (start.seconds if start else 0.0), 1e-9),
        "final_loss": curve[-1][1],
        "resumed_at_step": start.step if start else 0,
        "checkpoints_passed_over": passed_over,
        "attempt": group.attempt,
        "curve": curve,
        "settings": group.settings.model_dump(mode="json"),
        "device": "gpu" if group.gpu else "cpu",
    }
    job = task.job
    told = {"model": job.model, "stage": job.stage, "base": job.base, "data": job.data_key, "seed": job.seed}
    return {**told, "recipe": job.recipe.model_dump(mode="json"), "template": job.template, "training": training}


# --- Trainer --------------------------------------------------------------------------------------


def _arguments(group: Group, task: Task) -> Any:
    """TrainingArguments of a task. Made before the model: under ZeRO 3 they make it load in pieces."""
    from transformers import TrainingArguments, set_seed

    recipe, steps = task.job.recipe, len(task.plan.steps)
    micro = micro_batch_size(group.settings, recipe)
    set_seed(task.job.seed)
    folder = checkpoints.work_folder(task.job.fingerprint, group.attempt)
    return TrainingArguments(
        output_dir=str(checkpoints.local_folder(group.store, folder, group.scratch)),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // (micro * group.world_size),
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(steps * recipe.warmup_ratio),
        weight_decay=recipe.weight_decay,
        max_grad_norm=CLIP_NORM,
        optim="adamw_torch_fused" if group.gpu and not group.settings.offload_optimizer else "adamw_torch",
        bf16=recipe.dtype == "bfloat16",
        use_cpu=not group.gpu,
        seed=task.job.seed,
        deepspeed=_deepspeed(group, task, micro),
        logging_steps=max(1, steps // CURVE_POINTS),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=group.settings.checkpoint_every_steps,
        save_strategy="steps" if steps > group.settings.checkpoint_every_steps else "no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=group.gpu,
        average_tokens_across_devices=True,
    )


def _deepspeed(group: Group, task: Task, micro: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Buffers are sized to small models; larger ones keep DeepSpeed's own."""
    weights = sum(path.stat().st_size for path in task.base.glob("*.safetensors"))
    stage = group.settings.zero_stage
    if task.job.recipe.dtype == "bfloat16":
        stage = max(stage, 1)  # at stage 0 DeepSpeed keeps no float32 weights beside bfloat16 ones, and learns worse
    zero: dict[str, Any] = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    if weights < 2 * SMALL_MODEL:
        zero |= {"reduce_bucket_size": 10**6, "allgather_bucket_size": 10**6}
    if group.settings.offload_optimizer and group.gpu and stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": CLIP_NORM,
        "bf16": {"enabled": task.job.recipe.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def _model(task: Task) -> Any:
    """The base model in the recipe's type, with adapters where the recipe asks for them."""
    import torch
    from transformers import AutoModelForCausalLM

    recipe = task.job.recipe
    model = AutoModelForCausalLM.from_pretrained(task.base, dtype=getattr(torch, recipe.dtype))
    if not recipe.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, adapter)


def _trainer(group: Group, task: Task, watch: Any) -> Any:
    """A transformers.Trainer that follows the task's plan."""
    from torch import tensor
    from torch.utils.data import DataLoader
    from transformers import PrinterCallback, Trainer

    arguments = _arguments(group, task)
    filler = task.tokenizer.pad_token_id if task.tokenizer.pad_token_id is not None else task.tokenizer.eos_token_id
    batches = task.plan.micro_batches(group.rank, group.world_size, arguments.per_device_train_batch_size)

    def collate(batch: list[Example]) -> dict[str, Any]:
        return {name: tensor(rows) for name, rows in padded(batch, filler).items()}

    class PlannedTrainer(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            """This rank's micro-batches: the plan has shared them out, so nothing may shard them again."""
            return DataLoader(task.examples, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """Nothing for a checkpoint: DeepSpeed's files hold the weights already."""
            if not _internal_call:
                super().save_model(output_dir)

    trainer = PlannedTrainer(model=_model(task), args=arguments, train_dataset=task.examples, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    return trainer


def _forget_deepspeed() -> None:
    """Leave nothing of a finished job behind for the next one in this process."""
    import torch
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- The finished model ---------------------------------------------------------------------------


def _export(group: Group, task: Task, trainer: Any, folder: Path) -> None:
    """Write what transformers and vLLM load: weights, config, tokenizer with chat template, generation config."""
    from transformers import GenerationConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    tokenizer, model = task.tokenizer, trainer.model
    model.config.use_cache = True
    trainer.save_model(str(folder))  # every rank takes part: under ZeRO 3 each holds a piece
    unset_hf_deepspeed_config()
    if group.rank != 0:
        return
    if task.job.recipe.lora_rank:
        _merge(task, folder)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)
    tokenizer.chat_template = chat_template(tokenizer, task.job.template)
    tokenizer.save_pretrained(folder)
    (folder / "training_args.bin").unlink(missing_ok=True)


def _merge(task: Task, folder: Path) -> None:
    """Replace the adapter in `folder` by the base with it merged in: in float32, rounded once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(task.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    for path in folder.iterdir():
        path.unlink()
    merged.to(getattr(torch, task.job.recipe.dtype)).save_pretrained(folder)


# --- Watching -------------------------------------------------------------------------------------


def _metrics() -> Callable[[dict[str, str], float, int, float], None]:
    """Report (tags, loss, new tokens, tokens/s) to Ray's metrics. Ray binds them to the process that makes them."""
    from ray.util.metrics import Counter, Gauge

    tags = ("model", "stage")
    loss_gauge = Gauge("rft_training_loss", "Loss of the last logged steps", tags)
    rate_gauge = Gauge("rft_training_tokens_per_s", "Tokens a second since the last report", tags)
    counter = Counter("rft_training_tokens", "Prompt and response tokens trained on", tags)

    def report(where: dict[str, str], loss: float, tokens: int, rate: float) -> None:
        loss_gauge.set(loss, where)
        rate_gauge.set(rate, where)
        if tokens:
            counter.inc(tokens, where)

    return report


def _watch(group: Group, task: Task, start: Checkpoint | None) -> Any:
    """The Trainer's callback: commits checkpoints, refuses a diverged loss; on rank 0 reports progress."""
    from transformers import TrainerCallback

    reporter = Reporter(group, task, start.step if start else 0) if group.rank == 0 else None

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.before, self.began = start.seconds if start else 0.0, time.monotonic()

        @property
        def seconds(self) -> float:
            """Training time so far, over all attempts that count; model loading excluded."""
            return self.before + time.monotonic() - self.began

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if not math.isfinite(logs.get("loss", 0.0)):
                raise TrainingError(
                    f"the loss is {logs['loss']} at step {state.global_step}: try a lower learning_rate"
                )
            if reporter and "loss" in logs:
                reporter.report(state.global_step, logs["loss"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _commit_checkpoint(group, task.job.fingerprint, state.global_step, self.seconds)

    return Watch()


def _commit_checkpoint(group: Group, fingerprint: str, step: int, seconds: float) -> None:
    """Make the checkpoint that all ranks have just written count, and drop old ones."""
    import torch.distributed

    torch.distributed.barrier()
    folder = f"{checkpoints.work_folder(fingerprint, group.attempt)}/checkpoint-{step}"
    local = checkpoints.local_folder(group.store, folder, group.scratch)
    shared = group.store.local_path(folder) is not None
    mine = checkpoints.upload(group.store, folder, local) if (group.rank if shared else group.local_rank) == 0 else {}
    everyones: list[dict[str, str]] = [{}] * group.world_size
    torch.distributed.all_gather_object(everyones, mine)
    if group.rank == 0:
        files = {name: digest for part in everyones for name, digest in part.items()}
        checkpoints.commit(group.store, Checkpoint(folder, step, seconds, group.layout, files))
        checkpoints.prune(group.store, fingerprint)


class Reporter:
    """Rank 0's voice: Ray metrics at every logged step, progress to the driver every few seconds."""

    def __init__(self, group: Group, task: Task, step: int) -> None:
        self._board, self._task = group.board, task
        self._metrics = _metrics()
        self._step, self._time = step, time.monotonic()
        self._rate, self._shown = 0.0, 0.0

    def report(self, step: int, loss: float) -> None:
        job, tokens, now = self._task.job, self._task.tokens_by_step, time.monotonic()
        new = tokens[step - 1] - (tokens[self._step - 1] if self._step else 0)
        rate = new / max(now - self._time, 1e-9)
        self._rate = rate if not self._rate else 0.8 * self._rate + 0.2 * rate
        self._step, self._time = step, now
        self._metrics({"model": job.model, "stage": job.stage}, loss, new, rate)
        if self._board is not None and (now - self._shown >= REPORT_EVERY_S or step == len(tokens)):
            self._shown = now
            left = (tokens[-1] - tokens[step - 1]) / self._rate
            self._board.put.remote(TrainingProgress(job.model, job.stage, step, len(tokens), loss, self._rate, left))
