"""Attention over packed rows, and the model inputs that it needs.

In: a model's config and the examples of a row. Out: the attention by which no token of a row attends to another
example, input ids, positions that start again with each example, and the tokens that are learned, with the places whose
logits predict them: prompts need none. On a GPU with the package `flash_attn` the attention is FlashAttention over
sequences of different lengths. Elsewhere `scaled_dot_product_attention` is called for each example of a row, which
computes what a block-diagonal causal mask would, without its quadratic cost.

Limits: the types of models in MODEL_TYPES. FlashAttention's rows have no test, as they need a GPU.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

from rft_ray.training import transformers_private
from rft_ray.training.batches import IGNORED, Example
from rft_ray.training.results import TrainingError

BY_EXAMPLE = "rft_by_example"
"""The name under which transformers knows the attention that takes each example of a row by itself."""
FLASH = "flash_attention_2"

MODEL_TYPES = (
    "gemma",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "starcoder2",
)
"""The types of models whose logits, loss and gradients a test has compared, packed and alone."""
LAYER_TYPES = {"full_attention", "sliding_attention"}
"""Types of layers, as a config lists them, that mix tokens by attention alone."""


def choose(packing: str, config: Any, *, gpu: bool, dtype: str) -> str:
    """The attention for packed rows of a model with this `config`; empty where rows are not to be packed.

    `packing`: `on`, `off`, or `auto`, which packs where the model allows it. Raises TrainingError where `on` cannot be.
    """
    from transformers.utils import is_flash_attn_2_available

    if packing == "off":
        return ""
    reason = _against(config)
    if reason and packing == "on":
        raise TrainingError(f"{reason}: set training.packing=auto or off")
    if reason:
        return ""
    return FLASH if gpu and dtype == "bfloat16" and is_flash_attn_2_available() else BY_EXAMPLE


def _against(config: Any) -> str:
    """Why rows of a model with this config are not to be packed; empty where they may be."""
    layers = set(getattr(config, "layer_types", None) or ())
    if config.model_type not in MODEL_TYPES or not layers <= LAYER_TYPES:
        kind = f"models of type {config.model_type!r}"
        return f"packing is not tested for {kind}, whose layers might mix the examples of a row"
    if getattr(config, "output_router_logits", False):
        return "packing changes the loss that balances experts over the tokens of a row (output_router_logits)"
    return ""


def register() -> None:
    """Make `BY_EXAMPLE` known to transformers, which then builds no mask for models that use it."""
    from transformers import AttentionInterface

    AttentionInterface.register(BY_EXAMPLE, attend_by_example)


def attend_by_example(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    example_lengths: Sequence[int],
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Any, None]:
    """Causal attention within each example of one row, as an attention function of transformers.

    Takes query, key and value of shape (1, heads, tokens, head size), and returns (1, tokens, heads, head size).
    `example_lengths`: tokens of each example, in the order of the row. `sliding_window`: most tokens that a token
    attends to, itself among them.
    """
    import torch

    queries, keys, values = (states.split(list(example_lengths), dim=2) for states in (query, key, value))
    attended = [
        transformers_private.sdpa(module, q, k, v, _window(q, sliding_window), is_causal=True, **options)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(attended, dim=1), None


def _window(query: Any, sliding_window: int | None) -> Any:
    """The mask of an example that is longer than the window; None where causal attention suffices."""
    import torch

    tokens = query.shape[2]
    if sliding_window is None or tokens <= sliding_window:
        return None
    everything = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device)
    return everything.tril().triu(1 - sliding_window)[None, None]


def packed(examples: Sequence[Example], filler: int, attention: str) -> dict[str, Any]:
    """The examples as the model inputs of one row. No examples become a row of two tokens that the loss ignores.

    The model computes logits only of the tokens before those that are learned (`logits_to_keep`); `shift_labels` has
    the learned token of each. An example's first token is never learned: the one before it is another example's.
    """
    from torch import int32, tensor

    chosen = examples or [Example(array("I", [filler, filler]), 2)]
    lengths = [len(example.tokens) for example in chosen]
    labels = [label for example in chosen for label in (IGNORED, *example.labels[1:])]
    learned = [place for place, label in enumerate(labels) if label != IGNORED] or [1]
    targets = tensor([[labels[place] for place in learned]])
    inputs = {
        "input_ids": tensor([[token for example in chosen for token in example.tokens]]),
        "position_ids": tensor([[position for length in lengths for position in range(length)]]),
        "logits_to_keep": tensor([place - 1 for place in learned]),
        "labels": targets,  # without them the model returns no loss; of the two the loss reads `shift_labels`
        "shift_labels": targets,
    }
    if attention != FLASH:
        return {**inputs, "example_lengths": lengths}
    bounds = tensor([0, *itertools.accumulate(lengths)], dtype=int32)
    return {
        **inputs,
        **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), bounds),
        **dict.fromkeys(("max_length_q", "max_length_k"), max(lengths)),
    }
