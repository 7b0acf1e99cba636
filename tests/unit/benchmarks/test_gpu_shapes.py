"""Models of the shape of real ones: their number of weights, and a tokenizer with a word for every token."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gpu_shapes
from benchmarks.gpu_steps import Place
from rft_ray.plan.model_shape import shape_of


@pytest.mark.parametrize("shape", [gpu_shapes.SEVEN, gpu_shapes.ONE_AND_A_HALF, gpu_shapes.SMALL])
def test_a_shape_has_as_many_weights_as_it_says(shape: gpu_shapes.Shape) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape.config))
    assert model.num_parameters() == shape.parameters
    assert shape_of(shape.config, shape.parameters) is not None


def test_a_model_is_made_once_and_has_a_word_for_every_token(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from rft_ray.store.models.folder import parameters

    folder = gpu_shapes.folder(Place(tmp_path, 0), gpu_shapes.SMALL, weights=True)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert gpu_shapes.folder(Place(tmp_path, 0), gpu_shapes.SMALL, weights=True) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert parameters(folder) == gpu_shapes.SMALL.parameters
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == gpu_shapes.SMALL.config["vocab_size"]
    ids = tokenizer("Tom has 3 nuts.")["input_ids"]
    assert max(ids) < 532
    assert "Tom has 3 nuts." in tokenizer.decode(ids)
    assert tokenizer.decode([1999]) == "~1999~"
