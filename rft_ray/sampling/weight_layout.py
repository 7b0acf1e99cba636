"""Whether two models differ in nothing but the values of their weights, so that an engine can swap them in place.

In: a local Hugging Face folder. Out: all that an engine reads there but the values: architecture,
generation defaults (end-of-sequence tokens), tokenizer, names and shapes of the tensors. A tensor that the next
model's files lack would keep the last model's values unnoticed: hence the names.
Limits: only unquantized models of architectures with which a swapped engine was compared with a fresh one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rft_ray.store.models.folder import sha256_of

SWAPPABLE = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s of config.json."""
_OF_NO_EFFECT = {"transformers_version", "_name_or_path", "use_cache"}
_OF_NO_EFFECT_IN_TOKENIZER = {"transformers_version", "chat_template", "is_local", "local_files_only", "name_or_path"}
"""What save_pretrained adds or changes; prompts come as token ids, without a chat template."""
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json")


def layout(folder: Path) -> dict[str, Any] | None:
    """Equal for models that one engine can hold in turn; None: this one's engine holds no other."""
    config = _read(folder / "config.json", _OF_NO_EFFECT)
    if config.get("model_type") not in SWAPPABLE or "quantization_config" in config:
        return None
    tokenizer = [folder / name for name in (*_TOKENIZER, "added_tokens.json")]
    return {
        "config": config,
        "generation": _read(folder / "generation_config.json", _OF_NO_EFFECT),
        "tokenizer": {path.name: sha256_of(path) for path in tokenizer if path.is_file()},
        "tokenizer_config": _read(folder / "tokenizer_config.json", _OF_NO_EFFECT_IN_TOKENIZER),
        "tensors": _shapes(folder),
    }


def _read(path: Path, ignored: set[str]) -> dict[str, Any]:
    found = json.loads(path.read_bytes()) if path.is_file() else {}
    return {key: value for key, value in found.items() if key not in ignored}


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Tensor name -> shape, from the headers."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return shapes
