"""The finished model of a training: written, hashed and uploaded by all ranks, each some of its files.

In: a Trainer whose training is over. Out: a committed model, which transformers and vLLM load: the files of weights
and the index that `save_pretrained` would write, config, tokenizer, chat template and generation config. Each rank
writes its files into a folder of its own, so nodes share nothing. Rank 0 has the small ones as well, and writes the
manifest, last.

The ranks take one file each at a time, so none holds more than a file of weights. Under ZeRO 3 they gather it one
parameter after another. Nothing slow happens between these collectives: for each other's disks and uploads, ranks wait
on the group that waits for hours (`agreement.py`).

Limits: with LoRA, whose merge needs the whole base in float32, and for models that are stored in another form than they
are held in (mixtures of experts), rank 0 writes the whole model, and the ranks of its node hash and upload it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rft_ray.data import prompts
from rft_ray.store.models import committed
from rft_ray.store.models.folder import check_names, check_weights, model_files
from rft_ray.training import transformers_private
from rft_ray.training.agreement import from_rank_0, together
from rft_ray.training.trainer import Group, Task

FILE_SIZE = "4GB"
"""Largest size of a file of weights, unless one tensor is larger."""
INDEX = "model.safetensors.index.json"
UNSTORED = "the model could not be stored"


def export(group: Group, task: Task, trainer: Any, folder: Path) -> list[Path]:
    """Write the model, each rank its files into `folder`, its own. Returns the files that this rank has to commit.

    All ranks call this. Raises SavingError where a rank fails.
    """
    trainer.model.config.use_cache = True
    files = None if task.job.recipe.lora_rank else files_of(trainer.model)
    if files is None:
        return _export_by_rank_0(group, task, trainer, folder)
    write_weights(group, files, folder)

    def write_the_rest() -> None:
        if group.rank == 0:
            _write_config(trainer.model, files.index, folder)
            _write_tokenizer(task, folder)

    together(group, UNSTORED, write_the_rest)
    return model_files(folder)


def commit(group: Group, fingerprint: str, own: Sequence[Path], metadata: dict[str, Any]) -> None:
    """Commit the model of which each rank has its `own` files, with rank 0's metadata, unless another commit was first.

    All ranks call this. Raises ModelError where the model is not whole, and SavingError where a rank fails.
    """
    if from_rank_0(group, lambda: committed.committed_through_outages(group.store, fingerprint) is not None):
        return

    def checked() -> dict[str, committed.FileEntry]:
        for path in own:
            if path.suffix == ".safetensors":
                check_weights(path, str(path))
        return committed.entries(own)

    every = together(group, UNSTORED, checked)
    files = dict(sorted((name, entry) for part in every for name, entry in part.items()))
    # rank 0 has the config and the index
    from_rank_0(group, lambda: check_names(own[0].parent, files.keys(), "the finished model"))
    manifest = committed.manifest_of(fingerprint, files, metadata)
    together(group, UNSTORED, lambda: committed.upload_files(group.store, manifest, own))
    if group.rank == 0:
        committed.commit_manifest(group.store, manifest)


# --- Weights, by all ranks ------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightFiles:
    """How the weights of a model are stored. Example: WeightFiles({"model.safetensors": {"lm_head.weight": …}}, "")"""

    tensors: Mapping[str, Mapping[str, Any]]
    """File -> name of each of its tensors -> the tensor, which may be a partition of ZeRO 3."""
    index: str
    """Content of the index; empty where there is but one file."""


def files_of(model: Any) -> WeightFiles | None:
    """The files that `save_pretrained` would write of a model, without memory for them; the same on every rank.

    None where a stored tensor is not a tensor of the model but made of such. Parameters that are one are stored once,
    as in the files of bases, so that an engine can swap one for the other. Trainer's export does so with ZeRO 3 only.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards

    held = model.state_dict(keep_vars=True)
    shapes = {name: _whole_shape(tensor) for name, tensor in held.items()}
    hollow = {name: torch.empty(shapes[name], dtype=held[name].dtype, device="meta") for name in held}
    sources = {id(tensor): held[name] for name, tensor in hollow.items()}
    stored = transformers_private.stored_tensors(model, hollow)
    if any(id(tensor) not in sources for tensor in stored.values()):
        return None
    split = split_torch_state_dict_into_shards(stored, max_shard_size=FILE_SIZE)
    tensors = {
        file: {name: sources[id(stored[name])] for name in names} for file, names in split.filename_to_tensors.items()
    }
    parameters = sum(_whole_shape(parameter).numel() for parameter in model.parameters())
    metadata = {"total_parameters": parameters, **split.metadata}
    index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
    return WeightFiles(tensors, json.dumps(index, indent=2, sort_keys=True) + "\n" if split.is_sharded else "")


def _whole_shape(tensor: Any) -> Any:
    """The shape of a tensor, also where this rank holds a partition of it."""
    return getattr(tensor, "ds_shape", tensor.shape)


def write_weights(group: Group, files: WeightFiles, folder: Path) -> None:
    """Write this rank's files of weights into `folder`. All ranks call this. Raises SavingError where one fails."""
    places = together(group, UNSTORED, lambda: (group.local_rank, group.rank))
    ranks = [rank for _, rank in sorted(places)]  # one of each node before a second one of any
    names = list(files.tensors)
    for first in range(0, len(names), len(ranks)):
        owners = dict(zip(names[first : first + len(ranks)], ranks, strict=False))
        _write_one_each(group, files, owners, folder)


def _write_one_each(group: Group, files: WeightFiles, owners: Mapping[str, int], folder: Path) -> None:
    """Write one file on each rank of `owners` (file -> rank), when it has copied the tensors of it."""
    from deepspeed import zero
    from safetensors.torch import save_file

    own: dict[str, Any] = {}
    for file, owner in owners.items():
        for name, tensor in files.tensors[file].items():
            with zero.GatheredParameters([tensor]):  # does nothing without ZeRO 3
                if owner == group.rank:
                    own[name] = tensor.detach().to("cpu", copy=True).contiguous()

    def write() -> None:
        for file, owner in owners.items():
            if owner == group.rank:
                save_file(own, folder / file, metadata={"format": "pt"})

    together(group, UNSTORED, write)


# --- Everything, by rank 0 ------------------------------------------------------------------------


def _export_by_rank_0(group: Group, task: Task, trainer: Any, folder: Path) -> list[Path]:
    """Write the model into rank 0's `folder`, and return a part of its files to each rank of this node."""
    model = trainer.model
    if not task.job.recipe.lora_rank:
        model.save_pretrained = partial(model.save_pretrained, max_shard_size=FILE_SIZE)  # Trainer does not pass it on
    trainer.save_model(str(folder))  # on every rank: under ZeRO 3 each holds a partition
    transformers_private.forget_deepspeed_config()

    def finish() -> dict[Path, int]:
        if group.rank != 0:
            return {}
        if task.job.recipe.lora_rank:
            _merge(task, folder)
        _write_tokenizer(task, folder)
        return {path: path.stat().st_size for path in model_files(folder)}

    sizes = together(group, UNSTORED, finish)[0]
    return divided(sizes, group.workers_of_node)[group.local_rank] if group.node_rank == 0 else []


def _merge(task: Task, folder: Path) -> None:
    """Replace the adapter in `folder` by the merged model. Merging in float32 rounds the weights only once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(task.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    for path in folder.iterdir():
        path.unlink()
    merged.to(getattr(torch, task.job.recipe.dtype)).save_pretrained(folder, max_shard_size=FILE_SIZE)


def divided(sizes: Mapping[Path, int], workers: int) -> list[list[Path]]:
    """Files for each of `workers` workers, of about equal bytes: the largest file first, to who has least."""
    parts: list[list[Path]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        least = loads.index(min(loads))
        parts[least].append(path)
        loads[least] += sizes[path]
    return parts


# --- The small files ------------------------------------------------------------------------------


def _write_config(model: Any, index: str, folder: Path) -> None:
    """The index of the weights, and the model's config with what `save_pretrained` adds to it."""
    if index:
        (folder / INDEX).write_text(index, encoding="utf-8")
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def _write_tokenizer(task: Task, folder: Path) -> None:
    """The tokenizer with its chat template, and the generation config that names its special tokens."""
    from transformers import GenerationConfig

    tokenizer = task.tokenizer
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if prompts.is_chat(task.job.template):  # the model keeps its own chat template, and ends as that does
        special["eos_token_id"] = prompts.ends_of_response(tokenizer, task.job.template)
    else:
        tokenizer.chat_template = prompts.chat_template(tokenizer, task.job.template)
    GenerationConfig(**special).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
