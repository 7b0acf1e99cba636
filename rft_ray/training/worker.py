"""The train function of a Ray Train worker: prepares, resumes, trains and commits one job after another.

In: the config that `ray_group.run_group` passes. Out: committed models, checkpoints, metrics and progress. Rank 0
makes every decision that could differ between workers (whether a job is committed, which checkpoint to start from)
and broadcasts it to the others.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rft_ray.plan.jobs import TrainingJob
from rft_ray.runtime.collector import heavy_imports
from rft_ray.runtime.metrics import training_metrics
from rft_ray.store import open_run
from rft_ray.store.models.committed import committed_through_outages
from rft_ray.store.models.folder import parameters
from rft_ray.store.outages import through_outages
from rft_ray.store.tables import noted
from rft_ray.training import (
    checkpoints,
    final_weights,
    inputs,
    liger,
    optimizers,
    packed_attention,
    resharding,
    transformers_private,
    universal_form,
)
from rft_ray.training.agreement import (
    connect_by_cluster_network,
    from_rank_0,
    patient_group,
    together,
    wait_for_all,
)
from rft_ray.training.batches import encode, plan, steps_of
from rft_ray.training.checkpoint_writer import CheckpointWriter, Schedule
from rft_ray.training.checkpoints import Checkpoint
from rft_ray.training.device_memory import card_here, checkpoints_activations, cpu_threads
from rft_ray.training.master_weights import take_from_base
from rft_ray.training.packing import divide
from rft_ray.training.preemption import PreemptionNotice
from rft_ray.training.results import STARTED, TrainingError, TrainingProgress, TrainingRecord, without_rows
from rft_ray.training.scratch import claim, release
from rft_ray.training.snapshots import Snapshots
from rft_ray.training.trainer import (
    CPU_ADAM,
    Group,
    Task,
    forget_deepspeed,
    make_trainer,
    trained_names,
)

REPORT_EVERY_S = 5.0
RECORDED = ("torch", "transformers", "deepspeed", "ray")
"""Packages whose versions a model's manifest records."""

logger = logging.getLogger(__name__)


def train_jobs(config: dict[str, Any]) -> None:
    """Train all jobs of the config, one after another: the function that Ray Train calls on each worker."""
    group = _join(config)
    _each_node(group, claim)
    for job in config["jobs"]:
        _train_one(group, job)
        forget_deepspeed()
    _each_node(group, release)


def _join(config: dict[str, Any]) -> Group:
    """Set up this process (accelerator, threads, process group, log levels) and return its group."""
    if not config["gpu"]:
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it when it is imported
    with heavy_imports():
        import deepspeed
        import ray.train.torch
        import torch
        from transformers import AutoModelForCausalLM, Trainer, TrainingArguments  # noqa: F401 - for `_train_one`
        from transformers.utils.logging import disable_progress_bar

    context = ray.train.get_context()
    if config["gpu"]:
        torch.cuda.set_device(ray.train.torch.get_device())
        if config["settings"].offload_optimizer:
            here = ray.get_runtime_context().get_node_id()
            torch.set_num_threads(cpu_threads(ray.nodes(), here, context.get_local_world_size()))
    else:
        transformers_private.switch_off_shm_comm()
        torch.set_num_threads(config["settings"].threads_per_worker)
    deepspeed.init_distributed("nccl" if config["gpu"] else "gloo", auto_mpi_discovery=False)
    disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    connect_by_cluster_network()
    patient, background = patient_group(), patient_group()  # before a rank may have to wait for the store
    return Group(
        config["attempt"],
        through_outages(partial(open_run, config["store_url"]), config["store_url"]),
        config["settings"],
        config["gpu"],
        config["board"],
        context.get_world_rank(),
        context.get_local_rank(),
        context.get_world_size(),
        node_rank=context.get_node_rank(),
        workers_of_node=context.get_local_world_size(),
        patient=patient,
        background=background,
    )


def _mark_started(group: Group, job: TrainingJob) -> None:
    """Record in the work folder that this attempt has started the job, and on which host and process."""
    if group.rank == 0:
        origin = {**checkpoints.this_process(), "time": time.time(), **group.layout}
        key = f"{checkpoints.work_folder(job.fingerprint, group.attempt)}/{STARTED}"
        through_outages(partial(group.store.create, key, json.dumps(origin).encode()), key)


# --- One job --------------------------------------------------------------------------------------


def _prepare(group: Group, job: TrainingJob) -> Task:
    """Load the tokenizer and data. Raises TrainingError when no example fits or the tokenizer has no EOS token."""
    from transformers import AutoConfig, AutoTokenizer

    base = inputs.start_folder(group, job)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            f"the tokenizer of {job.base} has no EOS token, so no response can end: choose another base model"
        )
    config = AutoConfig.from_pretrained(base)
    context = getattr(config, "max_position_embeddings", job.recipe.max_tokens)
    limit = min(job.recipe.max_tokens, context)
    examples, skipped = encode(tokenizer, job.template, inputs.rows(group, job.data_key), limit)
    if not examples and not skipped:
        raise TrainingError(without_rows(job.data_key))
    if not examples:
        raise TrainingError(
            f"no example is left to train on: {job.data_key} has {skipped} rows, all {skipped} of them longer than "
            f"{limit} tokens (max_tokens={job.recipe.max_tokens}, the model's context is {context})"
        )
    recipe, steps = job.recipe, None
    if job.same_steps_as:
        matched, _ = encode(tokenizer, job.template, inputs.rows(group, job.same_steps_as), limit)
        steps = steps_of(len(matched), recipe)
    lengths = [len(example.tokens) for example in examples]
    batches = plan(lengths, recipe.epochs, recipe.batch_size, job.seed, steps)
    attention = _attention(group, config, recipe.dtype)
    fitting = recipe.model_copy(update={"max_tokens": limit})
    division = divide(batches, lengths, group.settings, fitting, rank=group.rank, attention=attention)
    kernels = liger.choose(group, config.model_type)
    return Task(job, base, tokenizer, examples, skipped, batches, division, liger=kernels)


def _attention(group: Group, config: Any, dtype: str) -> str:
    """The attention of every rank over packed rows; empty where rows are padded."""
    packing = group.settings.packing
    return from_rank_0(group, lambda: packed_attention.choose(packing, config, gpu=group.gpu, dtype=dtype))


def _train_one(group: Group, job: TrainingJob) -> None:
    if from_rank_0(group, lambda: committed_through_outages(group.store, job.fingerprint) is not None):
        return
    began = time.time()
    _mark_started(group, job)
    group = replace(group, made_from=inputs.made_from(group, job))
    task = _prepare(group, job)
    task = replace(task, checkpointing=from_rank_0(group, lambda: _checkpointing(group, task)))
    optimizer, reason = optimizers.choose(group, job.recipe)
    task = replace(task, optimizer=optimizer, optimizer_reason=reason)
    complete = from_rank_0(group, lambda: _complete(group, job))
    start, passed_over = checkpoints.newest(complete, group.layout, lambda checkpoint: _damaged(group, checkpoint))
    resume = checkpoints.local_folder(group.store, start.folder, group.scratch) if start else None
    if start and resharding.needs_conversion(start.layout, group.layout, start.files):
        task, resume = _converted(group, task, start)
    if task.liger:
        liger.prepare()
    writer = CheckpointWriter(group, job.fingerprint)
    watch = _watch(group, task, start, writer)
    wait_for_all(group)  # a rank may have waited for the store longer than the training's collectives do
    trainer = watch.trainer = make_trainer(group, task, watch)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = watch.seconds
    with tempfile.TemporaryDirectory(dir=group.scratch, prefix="model-") as folder:
        own = final_weights.export(group, task, trainer, Path(folder))
        metadata = {}
        if group.rank == 0:
            metadata = _account(
                group,
                task,
                trainer.state.log_history,
                began_unix=began,
                seconds=seconds,
                start=start,
                passed_over=passed_over,
                stalled=watch.stalled,
            )
        final_weights.commit(group, job.fingerprint, own, metadata)
    writer.finish()
    if group.rank == 0:
        checkpoints.remove(group.store, job.fingerprint, group.attempt)
    _each_node(group, lambda folder: shutil.rmtree(folder / checkpoints.work_folder(job.fingerprint), True))
    trainer.deepspeed.destroy()


def _complete(group: Group, job: TrainingJob) -> list[Checkpoint]:
    """The job's committed checkpoints; an outage of the store is waited for."""
    key = checkpoints.work_folder(job.fingerprint)
    return through_outages(partial(checkpoints.committed, group.store, job.fingerprint), key)


def _damaged(group: Group, checkpoint: Checkpoint) -> str:
    """A file of a checkpoint that a rank finds missing or altered; empty when all are sound, and on every node.

    The ranks divide the files; on a remote store, those of each node do, and fetch them.
    """
    shared = group.store.local_path(checkpoint.folder) is not None
    place, places = (group.rank, group.world_size) if shared else (group.local_rank, group.workers_of_node)
    own = sorted(checkpoint.files)[place::places]
    what = f"the checkpoint of step {checkpoint.step} could not be read"
    found = together(group, what, lambda: checkpoints.damaged(group.store, checkpoint, own, group.scratch))
    return next(filter(None, found), "")


def _converted(group: Group, task: Task, checkpoint: Checkpoint) -> tuple[Task, Path]:
    """The task, and the checkpoint in a form that this run loads, in a folder on each node."""
    saved = checkpoints.local_folder(group.store, checkpoint.folder, group.scratch)
    out, stage = group.scratch / f"{checkpoint.folder}-converted", group.settings.zero_stage_of(task.job.recipe)

    def convert() -> None:
        if group.local_rank == 0:
            universal_form.convert(saved, out, stage, lambda: trained_names(task))

    together(group, f"the checkpoint of step {checkpoint.step} could not be converted", convert)
    return replace(task, universal=stage > 0), out


def _checkpointing(group: Group, task: Task) -> bool:
    return checkpoints_activations(task.base, group.settings, task.job.recipe, card_here(group.gpu))


def _each_node(group: Group, act: Callable[[Path], object]) -> None:
    """Do something with the attempt's folder on each node, before any worker goes on."""
    if group.local_rank == 0:
        act(group.scratch)
    wait_for_all(group)


def _account(
    group: Group,
    task: Task,
    history: Sequence[dict[str, Any]],
    *,
    began_unix: float,
    seconds: float,
    start: Checkpoint | None,
    passed_over: int,
    stalled: float,
) -> dict[str, Any]:
    """The metadata of the model's manifest; its `training` entry is a TrainingRecord."""
    curve = [[entry["step"], entry["loss"], entry["learning_rate"]] for entry in history if "loss" in entry]
    tokens = task.tokens_by_step[-1]
    new_tokens = tokens - (task.tokens_by_step[start.step - 1] if start else 0)
    record = TrainingRecord(
        examples=len(task.examples),
        skipped_too_long=task.skipped,
        steps=len(task.plan.steps),
        tokens=tokens,
        seconds=seconds,
        began_unix=began_unix,
        ended_unix=time.time(),
        tokens_per_s=new_tokens / max(seconds - (start.seconds if start else 0.0), 1e-9),
        final_loss=curve[-1][1],
        resumed_at_step=start.step if start else 0,
        resumed_from=resharding.describe(start.layout) if start else "",
        checkpoints_passed_over=passed_over,
        checkpoint_seconds=stalled,
        attention=task.division.attention or "padded",
        useful_tokens=task.division.useful,
        attempt=group.attempt,
        curve=curve,
        settings=group.settings.model_dump(mode="json"),
        device="gpu" if group.gpu else "cpu",
        card=card.name if (card := card_here(group.gpu)) else "",
        parameters=parameters(task.base),
        activation_checkpointing=task.checkpointing,
        optimizer=task.optimizer,
        optimizer_reason=task.optimizer_reason,
        liger=task.liger,
        versions={name: str(importlib.import_module(name).__version__) for name in RECORDED},
    )
    job = task.job
    metadata = {"model": job.model, "stage": job.stage, "base": job.base, "data": job.data_key, "seed": job.seed}
    metadata |= noted(group.made_from)
    recipe = job.recipe.model_dump(mode="json")
    return {**metadata, "recipe": recipe, "template": job.template, "training": asdict(record)}


def _watch(group: Group, task: Task, start: Checkpoint | None, writer: CheckpointWriter) -> Any:
    """A Trainer callback that saves checkpoints, measures time, and on rank 0 reports progress.

    Its `on_log` raises TrainingError when the loss is not finite, its `on_step_end` SavingError when a checkpoint could
    not be stored. `trainer` must be set before the training begins.
    """
    import ray
    from transformers import TrainerCallback

    reporter = Reporter(group, task, start.step if start else 0) if group.rank == 0 else None
    nodes = together(group, "no node has an id", lambda: ray.get_runtime_context().get_node_id())
    schedule = Schedule(group, writer, urgent=PreemptionNotice(nodes))
    snapshots = Snapshots(group.workers_of_node)

    class Watch(TrainerCallback):  # type: ignore[misc]
        trainer: Any

        def __init__(self) -> None:
            self.before, self.began = start.seconds if start else 0.0, time.monotonic()
            self.stopped, self.stalled = 0.0, 0.0

        @property
        def seconds(self) -> float:
            """Training time so far, including the attempts before the checkpoint, without model loading."""
            return self.before + time.monotonic() - self.began

        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            if start is None and task.job.recipe.master_weights == "base":
                take_from_base(model, task.base, group.rank, group.world_size)
            if task.universal or (start and task.optimizer == CPU_ADAM):
                transformers_private.fit_loaded_state(self.trainer.deepspeed)
            transformers_private.let_states_be_kept(self.trainer.deepspeed, snapshots.keep)
            schedule.begin()
            self.began = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == state.max_steps:
                control.should_log = True  # and no checkpoint: the finished model is exported right after
                return
            self.stopped = time.monotonic()
            control.should_save = schedule.due(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if not math.isfinite(logs.get("loss", 0.0)):
                raise TrainingError(
                    f"the loss is {logs['loss']} at step {state.global_step}: try a lower learning_rate"
                )
            if reporter and "loss" in logs:
                reporter.report(state.global_step, logs["loss"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            writer.save(state.global_step, self.seconds, snapshots.take())
            self.stalled += time.monotonic() - self.stopped

    return Watch()


class Reporter:
    """Reports from rank 0: Ray metrics at every logged step, progress to the driver every few seconds."""

    def __init__(self, group: Group, task: Task, step: int) -> None:
        self._board, self._task = group.board, task
        self._metrics = training_metrics()
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
