"""Whether two models differ only in the values of their weights, so that an engine can swap them in place.

In: a local Hugging Face folder. Out: everything that an engine reads there except the values: architecture, generation
defaults (end-of-sequence tokens), tokenizer, names and shapes of the tensors. The names matter because a tensor that
the next model's files lack would silently keep the values of the previous model.
Limits: only unquantized models of architectures for which a swapped engine was compared with a fresh one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rft_ray.store.models.hashes import sha256_of

SWAPPABLE = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s of config.json."""
_IGNORED = {"transformers_version", "_name_or_path", "use_cache"}
_IGNORED_IN_TOKENIZER = {"transformers_version", "chat_template", "is_local", "local_files_only", "name_or_path"}
"""Keys that save_pretrained adds or changes; prompts are token ids, so a chat template has no effect."""
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json")


def layout(folder: Path) -> dict[str, Any] | None:
    """Equal for models that one engine can hold one after another; None where its engine cannot take over another."""
    config = _read(folder / "config.json", _IGNORED)
    if config.get("model_type") not in SWAPPABLE or "quantization_config" in config:
        return None
    tokenizer = [folder / name for name in (*_TOKENIZER, "added_tokens.json")]
    return {
        "config": config,
        "generation": _read(folder / "generation_config.json", _IGNORED),
        "tokenizer": {path.name: sha256_of(path) for path in tokenizer if path.is_file()},
        "tokenizer_config": _read(folder / "tokenizer_config.json", _IGNORED_IN_TOKENIZER),
        "tensors": _shapes(folder),
    }


def _read(path: Path, ignored: set[str]) -> dict[str, Any]:
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    return {key: value for key, value in content.items() if key not in ignored}


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Tensor name -> shape, from the headers."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return shapes
