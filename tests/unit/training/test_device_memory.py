"""What a training worker decides by its device and its node, and the bytes that a layer keeps, measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rft_ray.config import Recipe, Training
from rft_ray.config.hardware import BY_NAME
from rft_ray.data.tiny import model_dir
from rft_ray.plan.memory import TrainingSettings, training_memory
from rft_ray.plan.model_shape import shape_of
from rft_ray.training.device_memory import card_here, checkpoints_activations, cpu_threads

RECIPE = Recipe(batch_size=8192, dtype="float32", max_tokens=16000)
CROWDED = Training(micro_batch_size=8192, device="gpu")
"""Activations of eight thousand long examples at once."""


def test_activations_are_computed_again_where_they_do_not_fit_the_card() -> None:
    base, card = model_dir("tiny-s"), BY_NAME["L4"]
    assert checkpoints_activations(base, CROWDED, RECIPE, card)
    assert not checkpoints_activations(base, Training(micro_batch_size=8), RECIPE, card)
    assert not checkpoints_activations(base, CROWDED, RECIPE, None)  # on CPUs


@pytest.mark.parametrize(("setting", "expected"), [("on", True), ("off", False)])
def test_a_setting_counts_more_than_the_card(setting: str, expected: bool) -> None:
    settings = CROWDED.model_copy(update={"activation_checkpointing": setting})
    assert checkpoints_activations(model_dir("tiny-s"), settings, RECIPE, BY_NAME["L4"]) is expected


def test_a_model_of_unknown_shape_is_checkpointed_on_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert checkpoints_activations(tmp_path, Training(), RECIPE, BY_NAME["L4"])


def test_an_offloaded_optimizer_has_the_nodes_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    nodes = [{"NodeID": "a", "Resources": {"CPU": 64.0}}, {"NodeID": "b", "Resources": {"CPU": 8.0}}]
    assert [cpu_threads(nodes, "a", 8), cpu_threads(nodes, "b", 1), cpu_threads(nodes, "b", 16)] == [8, 8, 1]
    assert cpu_threads([{"NodeID": "c", "Resources": {}}], "c", 8) == 12
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert cpu_threads(nodes, "a", 1) == 2  # Ray may count more CPUs than there are


def kept_bytes(layers: int, dtype: str, keys: int, checkpointing: bool) -> float:
    """Bytes a token that PyTorch keeps for the backward pass of a Llama, apart from its weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4, "num_key_value_heads": keys}
    config = LlamaConfig(vocab_size=64, num_hidden_layers=layers, max_position_embeddings=128, **shape)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(0, 64, (2, 128))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=tokens, labels=tokens, use_cache=False)
    return sum(kept.values()) / tokens.numel()


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
@pytest.mark.parametrize("keys", [4, 2])
def test_the_bytes_that_a_layer_keeps_are_those_of_the_estimate(dtype: str, size: int, keys: int) -> None:
    measured = (kept_bytes(4, dtype, keys, False) - kept_bytes(2, dtype, keys, False)) / 2
    assert measured == pytest.approx(estimate(size, keys)[0], rel=0.02)


def test_the_bytes_with_checkpointing_are_those_of_the_estimate() -> None:
    measured = (kept_bytes(4, "bfloat16", 4, True) - kept_bytes(2, "bfloat16", 4, True)) / 2
    assert measured == pytest.approx(estimate(2, 4)[1], rel=0.02)


def estimate(size: int, keys: int) -> tuple[float, float]:
    """Bytes that one layer keeps a token, without checkpointing and with it."""

    def of(layers: int) -> tuple[int, int]:
        config = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4, "num_key_value_heads": keys}
        shape = shape_of({**config, "vocab_size": 64, "num_hidden_layers": layers}, 10**6)
        assert shape is not None
        settings = TrainingSettings(workers=1, zero_stage=1, micro_batch=1, tokens=1, weight_bytes=size)
        memory = training_memory(shape, settings, None)
        return memory.kept, memory.recomputed

    more, fewer = of(4), of(2)
    return (more[0] - fewer[0]) / 2, (more[1] - fewer[1]) / 2


@pytest.mark.parametrize(
    ("kind", "config", "parameters"),
    [
        ("llama", {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}, 6_738_415_616),
        ("llama", {"hidden_size": 6656, "intermediate_size": 17920, "num_hidden_layers": 60}, 32_528_943_616),
    ],
)
def test_a_model_without_memory_has_as_many_weights_as_the_shape_of_its_config(
    kind: str, config: dict[str, int], parameters: int
) -> None:
    """Layers, embeddings and norms of a model on PyTorch's meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    heads = config["hidden_size"] // 128
    full = AutoConfig.for_model(kind, num_attention_heads=heads, vocab_size=32000, **config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(full)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    shape = shape_of(json.loads(full.to_json_string()), parameters)
    assert shape is not None
    layer = shape.hidden * (2 * shape.queries + 2 * shape.keys + 3 * shape.intermediate)
    norms = (2 * shape.layers + 1) * shape.hidden
    assert shape.layers * layer + 2 * shape.vocabulary * shape.hidden + norms == parameters


@pytest.mark.parametrize(
    ("device", "gib", "name", "planned_gb"),
    [
        ("NVIDIA A10", 22.1, "A10", 24),
        ("NVIDIA A10-8Q", 8.0, "NVIDIA A10-8Q", 8),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 39.4, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 39),
        ("NVIDIA A2", 14.6, "NVIDIA A2", 14),
    ],
)
def test_a_part_of_a_card_has_the_memory_that_it_shows(
    monkeypatch: pytest.MonkeyPatch, device: str, gib: float, name: str, planned_gb: int
) -> None:
    import torch

    properties = SimpleNamespace(name=device, total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    card = card_here(True)
    assert card
    assert (card.name, card.memory_gb) == (name, planned_gb)
    assert card.memory_gib < gib
    assert card_here(False) is None
