"""Models with random weights in the shapes of real ones: their speed and memory, without anything to download.

In: a shape: Llama's layers in the sizes of Qwen2.5, whose type wants a tokenizer of its own. Out: a Hugging Face model
folder in the place of the steps, with the tiny models' tokenizer, filled up to the shape's vocabulary; weights on
request.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps import Place


@dataclass(frozen=True)
class Shape:
    """A model: its config.json, and its number of weights."""

    name: str
    parameters: int
    config: dict[str, Any]


def _llama(name: str, parameters: int, sizes: tuple[int, int, int, int, int, int], *, tied: bool) -> Shape:
    """`sizes`: hidden size, width of the MLP, layers, heads, heads of keys, vocabulary."""
    hidden, intermediate, layers, heads, keys, vocabulary = sizes
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "initializer_range": 0.02,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "bfloat16",
    }
    return Shape(name, parameters, config)


SEVEN = _llama("llama-7b", 7_615_487_488, (3584, 18944, 28, 28, 4, 152064), tied=False)
ONE_AND_A_HALF = _llama("llama-1.5b", 1_543_656_960, (1536, 8960, 28, 12, 2, 151936), tied=True)
SMALL = _llama("small", 202_048, (64, 128, 2, 2, 1, 2000), tied=True)
"""For a rehearsal on CPUs."""


def folder(place: Place, shape: Shape, *, weights: bool = False) -> Path:
    """The model's folder, made by the first step that needs it."""
    made = place.folder / "models" / (shape.name if weights else f"{shape.name}-without-weights")
    if made.exists():
        return made
    partial = made.with_name(f"{made.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if weights:
        _write_weights(place, shape, partial)
    (partial / "config.json").write_text(json.dumps(shape.config, indent=1))
    _write_tokenizer(shape, partial)
    os.rename(partial, made)
    return made


def _write_weights(place: Place, shape: Shape, to: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device("cuda:0" if place.gpus else "cpu"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape.config), dtype=torch.bfloat16)
    model.save_pretrained(to)
    del model
    torch.cuda.empty_cache()  # this process stays beside the training


def _write_tokenizer(shape: Shape, to: Path) -> None:
    """The tiny models' tokenizer, with words that no text has as the rest of the vocabulary."""
    from rft_ray.data import base_models

    source = base_models.resolve("tiny:tiny-s")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first = 1 + max(*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"]))
    vocabulary |= {f"~{number}~": number for number in range(first, shape.config["vocab_size"])}
    (to / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(source / "tokenizer_config.json", to)


def mfu(place: Place, flops_per_s: float, gpus: int = 1) -> float | None:
    """The share of the cards' arithmetic that is used; None where the card's is not known."""
    if not place.gpus:
        return None
    from rft_ray.training.device_memory import card_here

    card = card_here(True)
    return round(flops_per_s / (card.tflops * 1e12 * gpus), 4) if card and card.tflops else None
