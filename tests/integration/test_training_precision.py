"""Kept activations, gradient sums, master weights and packed rows, on two gloo ranks with DeepSpeed, without Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Case -> losses and `distance`; the base is stored in float16, as Llama is."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("precision")
    torch.manual_seed(0)
    shape = {"hidden_size": 36, "intermediate_size": 75, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=67, max_position_embeddings=64, **shape))
    model.half().save_pretrained(folder / "base")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.integration.precision_driver", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [subprocess.Popen([*command, str(rank), str(port)], cwd=ROOT, env=env) for rank in range(2)]
    try:
        assert [rank.wait(timeout=570) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


@pytest.mark.parametrize("stage", ["", ", stage 3"])
def test_activations_that_are_computed_again_give_the_same_losses(results: dict[str, Any], stage: str) -> None:
    assert results[f"checkpointing{stage}"]["losses"] == results[f"plain{stage}"]["losses"]


@pytest.mark.parametrize("case", ["float32 sums", "float32 sums, stage 1", "float32 sums, stage 3"])
def test_gradients_that_are_summed_in_float32_are_other_ones(results: dict[str, Any], case: str) -> None:
    plain, summed = results["plain"]["losses"], results[case]["losses"]
    assert summed[0] == plain[0]  # before the first step
    assert summed[1:] != plain[1:]
    assert summed == pytest.approx(plain, rel=2e-2)


@pytest.mark.parametrize("case", ["base", "base, stage 1 and float32 sums", "base, stage 3"])
def test_float32_weights_are_the_bases_where_asked_and_rounded_otherwise(results: dict[str, Any], case: str) -> None:
    assert results["plain"]["distance"] > 0
    assert results[case]["distance"] == 0


@pytest.mark.parametrize("case", [*(f"stage {stage}" for stage in range(4)), "checkpointing"])
def test_packed_rows_give_the_losses_of_padded_ones(results: dict[str, Any], case: str) -> None:
    assert results[f"packed, {case}"]["losses"] == pytest.approx(results["padded"]["losses"], rel=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_packed_rows_train_adapters_to_the_losses_of_padded_ones(results: dict[str, Any], stage: int) -> None:
    losses = results["padded, adapters"]["losses"]
    assert losses[-1] < losses[0]
    assert results[f"packed, adapters, stage {stage}"]["losses"] == pytest.approx(losses, rel=1e-5)
