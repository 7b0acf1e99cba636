"""Layouts are equal for models that differ only in the values of their weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rft_ray.data.tiny import model_dir
from rft_ray.sampling.weight_layout import layout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(model_dir("tiny-s"), tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_models_that_differ_in_weight_values_and_saved_metadata_have_the_same_layout(model: Path) -> None:
    edit_weights(model, lambda weights: weights.update({name: array + 1 for name, array in weights.items()}))
    edit(model / "config.json", transformers_version="9", use_cache=False)
    edit(model / "tokenizer_config.json", is_local=True, chat_template="{{ messages }}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert layout(model) == layout(model_dir("tiny-s")) is not None


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"rms_norm_eps": 1e-5}),
        ("config.json", {"dtype": "float16"}),
        ("generation_config.json", {"eos_token_id": 5}),
        ("tokenizer_config.json", {"eos_token": "?"}),
        ("tokenizer.json", {"added_tokens": []}),
    ],
)
def test_any_other_difference_that_an_engine_reads_changes_the_layout(
    model: Path, file: str, changes: dict[str, Any]
) -> None:
    edit(model / file, **changes)
    assert layout(model) != layout(model_dir("tiny-s"))


def test_a_missing_tensor_changes_the_layout(model: Path) -> None:
    edit_weights(model, lambda weights: weights.pop("model.norm.weight"))
    assert layout(model) != layout(model_dir("tiny-s"))


@pytest.mark.parametrize("changes", [{"model_type": "unheard-of"}, {"quantization_config": {"quant_method": "fp8"}}])
def test_models_for_which_no_swap_was_tested_have_no_layout(model: Path, changes: dict[str, Any]) -> None:
    edit(model / "config.json", **changes)
    assert layout(model) is None
