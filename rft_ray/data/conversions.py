"""Pickled weights and PEFT adapters -> folders of safetensors, through torch, transformers and peft.

Pickles are loaded with `weights_only`, so none of their code runs; what needs more is refused. An adapter is merged
into its base in float32, which rounds the weights only once, and saved in the base's own type.

Limits: adapters that peft can merge (LoRA and its relatives), not prompt tuning.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rft_ray.store.models.folder import read_json, weight_map


def unpickle(files: Iterable[Path], folder: Path) -> None:
    """Write the files of a model into `folder`, with each `pytorch_model*.bin` as safetensors.

    One file of weights is in memory at a time. Raises ValueError or ModelError for an unreadable file, and OSError.
    """
    for path in files:
        if path.suffix == ".bin":
            _write_tensors(_pickled_tensors(path), folder / _renamed(path.name))
        elif path.name.endswith(".bin.index.json"):
            index = read_json(path, str(path.parent))
            index["weight_map"] = {name: _renamed(file) for name, file in weight_map(index, path).items()}
            (folder / _renamed(path.name)).write_text(json.dumps(index, indent=1))
        else:
            shutil.copyfile(path, folder / path.name)


def _renamed(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` -> `model-00001-of-00002.safetensors`."""
    return name.replace("pytorch_model", "model").replace(".bin", ".safetensors")


def _pickled_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a pickle; tied ones are copied, because safetensors holds no shared memory."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {_text(name): value.clone().contiguous() for name, value in state.items()}
    except Exception as error:  # pickle's, zip's and torch's own errors have no common class
        message = str(error).strip().splitlines()[0][:160] if str(error).strip() else ""
        raise ValueError(
            f"{path} cannot be loaded without running code of the pickle, or is damaged "
            f"({type(error).__name__}: {message}): convert it to safetensors where you trust it"
        ) from error


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a tensor's name is {name!r}, not a text")
    return name


def _write_tensors(tensors: dict[str, Any], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # raised, for example, when the disk is full
        raise OSError(errno.EIO, str(error)) from error


def merge(adapter: Path, base: Path, folder: Path) -> None:
    """Write the model of `base` with `adapter` merged into `folder`. Raises ValueError where it cannot be, and OSError.

    The tokenizer is the adapter's, where it has one, and otherwise the base's.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
        tokenizer = AutoTokenizer.from_pretrained(adapter if _has_tokenizer(adapter) else base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        rows = _embedding_rows(adapter)
        if rows and rows != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows, mean_resizing=False)
        merged = _merged(model, adapter)
    except OSError:
        raise
    except Exception as error:  # peft and transformers raise whatever a wrong adapter runs into
        message = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"the adapter {adapter} cannot be merged into {base} ({message})") from error
    merged.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _merged(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, adapter)
    if not hasattr(adapted, "merge_and_unload"):
        raise ValueError("it is of a kind that has no merged weights")
    return adapted.merge_and_unload()


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _embedding_rows(adapter: Path) -> int:
    """Rows of the embedding that the adapter brings, because tokens were added; 0 where it brings none."""
    from safetensors import safe_open

    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "np") as file:
        names = [name for name in file.keys() if name.endswith("embed_tokens.weight")]  # noqa: SIM118
        return int(file.get_slice(names[0]).get_shape()[0]) if names else 0
