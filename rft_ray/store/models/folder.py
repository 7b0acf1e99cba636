"""A folder of model files: which files belong to the model, whether it is complete, and its fingerprint.

The fingerprint is a hash of the file names and the SHA-256 of their contents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from rft_ray.config.errors import InputError
from rft_ray.store.models.hashes import sha256_of
from rft_ray.store.names import fingerprint_of

MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*.json", "*.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja",),
)
"""The files of a model, which are copied, committed and fingerprinted. Not READMEs, optimizer states, pickles."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_SENTENCEPIECE = ".model"


class ModelError(InputError, RuntimeError):
    """A model that cannot be found or read. The message names the source or file, what is wrong, and what to do."""


def files_fingerprint(folder: Path) -> str:
    """16 hex digits that name a base model by the names and hashes of its files, independent of the folder's path."""
    return fingerprint_of("model", files={path.name: sha256_of(path) for path in model_files(folder)})


def is_model_file(name: str) -> bool:
    duplicate = "/" in name or name.startswith("consolidated")  # the same weights in another layout
    return not duplicate and any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def model_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and is_model_file(path.name))


def check_complete(folder: Path, source: str) -> Path:
    """`folder`. Raises ModelError where files of the model are missing, truncated or unreadable."""
    names = {path.name for path in model_files(folder)}
    check_names(folder, names, source)
    for name in names:
        if name.endswith(".safetensors"):
            check_weights(folder / name, source)
    return folder


def check_names(folder: Path, names: Set[str], source: str) -> None:
    """Raises ModelError unless files of these names are a whole model. `folder` has its config and indexes."""
    missing = [] if "config.json" in names else ["config.json"]
    missing += [] if any(name.endswith(".safetensors") for name in names) else ["*.safetensors"]
    tokenizers = names & set(_TOKENIZERS) or any(name.endswith(_SENTENCEPIECE) for name in names)
    missing += [] if tokenizers else [" or ".join(_TOKENIZERS)]
    for index in (name for name in names if name.endswith(".index.json")):
        missing += sorted(set(weight_map(read_json(folder / index, source), folder / index).values()) - names)
    if missing:
        raise ModelError(
            f"{source}: {folder} lacks {', '.join(missing)}: give a folder as save_pretrained of the model and "
            "of the tokenizer write it, with safetensors weights"
        )
    read_json(folder / "config.json", source)


def parameters(folder: Path) -> int:
    """Number of weights of a local model, by the headers of its safetensors files; no tensor is loaded."""
    from safetensors import safe_open

    total = 0
    for path in model_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, "np") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{source}: {path} is damaged ({error}): copy it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{source}: {path} is damaged (not a JSON object): copy it again")
    return content


def weight_map(index: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Tensor -> file of an index of weights. Raises ModelError where its weight_map is of another form."""
    files = index.get("weight_map", {})
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ModelError(f"{path} is damaged (its weight_map does not map tensors to file names): copy it again")
    return files


def check_weights(path: Path, source: str) -> None:
    """Raises ModelError unless the header is whole and matches the file's length. Tensors are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{source}: {path} is truncated, or no safetensors file ({error}): copy it again") from None


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
