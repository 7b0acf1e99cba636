"""The shape of a decoder-only transformer, from its config.json: what memory and arithmetic depend on. Pure.

In: the content of a config.json, and the number of weights. Limits: the layers are taken to be those of Llama (RMSNorm,
gated MLP, attention that keeps no scores); of a mixture of experts, one expert's MLP is counted for each that a token
visits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "vocabulary": ("vocab_size",),
}
"""Field -> the names that it has in config.json."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of one model, in elements.

    Example: ModelShape(6_738_415_616, 4096, 32, 11008, 4096, 4096, 32000, 2048)
    """

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    """Width of the MLP."""
    queries: int
    """Heads times their width."""
    keys: int
    """Heads of keys (equal to those of values) times their width."""
    vocabulary: int
    context: int = 0
    """Tokens; 0 where the model states none."""
    heads: int = 1
    """Heads of queries, as wide as those of keys."""

    def divides_by(self, gpus: int) -> bool:
        """Whether so many GPUs can share each layer in vLLM: whole heads on each, of keys the same one on several."""
        of_keys = self.keys * self.heads // self.queries
        return self.heads % gpus == 0 and (of_keys % gpus == 0 or gpus % of_keys == 0)

    def keys_on_each(self, gpus: int) -> int:
        """Width of the heads of keys on each of so many GPUs that share a layer."""
        return max(-(-self.keys // gpus), self.queries // self.heads)

    def adapter_parameters(self, rank: int) -> int:
        """Weights of low-rank adapters of this rank on every linear layer but the output embedding."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))


def shape_of(config: Mapping[str, Any], parameters: int) -> ModelShape | None:
    """The shape that a config.json states; None where it lacks one of the sizes, or states no number for it."""
    text = config.get("text_config")
    tree: Mapping[str, Any] = text if isinstance(text, dict) else config
    sizes = {field: _first(tree, names) for field, names in _NAMES.items()}
    hidden, heads = sizes["hidden"], sizes["heads"]
    if parameters <= 0 or not all(sizes.values()):
        return None
    width = _first(tree, ("head_dim",)) or hidden // heads
    experts = _first(tree, ("num_experts_per_tok",)) or 1
    intermediate = _first(tree, ("moe_intermediate_size",)) * experts or (
        _first(tree, ("intermediate_size", "n_inner", "ffn_dim")) * experts or 4 * hidden
    )
    return ModelShape(
        parameters=parameters,
        hidden=hidden,
        layers=sizes["layers"],
        intermediate=intermediate,
        queries=heads * width,
        keys=(_first(tree, ("num_key_value_heads",)) or heads) * width,
        vocabulary=sizes["vocabulary"],
        context=_first(tree, ("max_position_embeddings", "n_positions")),
        heads=heads,
    )


def _first(tree: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first of these keys that holds a positive whole number; 0 for none."""
    values = (tree.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), 0)
