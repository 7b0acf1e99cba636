"""What the keys of a recipe do, and packed rows, on two gloo ranks with DeepSpeed, without Ray."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rft_ray.training.batches import plan
from tests.integration.precision_driver import KEPT, made_examples, recipe_of

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """Case -> losses and `distance`; the base is stored in float16, as Llama is."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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


def step_by_step(folder: Path, case: str, weights: dict[str, Any]) -> tuple[list[float], dict[str, Any]]:
    """Losses and weights of a training that is written out: one example after another, PyTorch's AdamW alone.

    `weights`: those that are trained, as they begin. Adapters are added to the weights of their layers.
    """
    import torch
    from torch.func import functional_call
    from transformers import AutoModelForCausalLM

    recipe = recipe_of(case)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    trained = {name: weight.clone().requires_grad_() for name, weight in weights.items()}

    def whole() -> dict[str, Any]:
        if not recipe.lora_rank:
            return trained
        own = dict(model.named_parameters())
        for name in (name for name in trained if "lora_A" in name):
            layer = name.removeprefix("base_model.model.").replace("lora_A.default.weight", "weight")
            added = trained[name.replace("lora_A", "lora_B")] @ trained[name]
            own[layer] = own[layer].detach() + recipe.lora_alpha / recipe.lora_rank * added
        return own

    matrices = [weight for weight in trained.values() if weight.dim() > 1]
    others = [weight for weight in trained.values() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.999), eps=1e-8)
    examples = made_examples()
    steps = plan([len(example.tokens) for example in examples], recipe.epochs, recipe.batch_size, 0).steps
    rises = math.ceil(len(steps) * recipe.warmup_ratio)
    losses = []
    for number, step in enumerate(steps):
        falls = (number - rises) / (len(steps) - rises)
        share = number / rises if number < rises else (1 + math.cos(math.pi * falls)) / 2
        for group in optimizer.param_groups:
            group["lr"] = share * recipe.learning_rate
        answers = [(examples[at].tokens.tolist(), examples[at].prompt_tokens) for at in step]
        total = torch.zeros(())
        for tokens, prompt in answers:
            logits = functional_call(model, whole(), (torch.tensor([tokens[:-1]]),)).logits[0, prompt - 1 :]
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[prompt:]), reduction="sum")
        loss = total / sum(len(tokens) - prompt for tokens, prompt in answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: weight.detach() for name, weight in trained.items()}


@pytest.mark.parametrize("case", KEPT)
def test_a_recipe_trains_to_the_weights_of_the_same_training_written_out(
    results: dict[str, Any], folder: Path, case: str
) -> None:
    import torch
    from safetensors.torch import load_file

    begin, end = (load_file(folder / f"{case} {when}.safetensors") for when in ("begin", "end"))
    losses, weights = step_by_step(folder, case, begin)
    assert results[case]["losses"] == pytest.approx(losses, rel=1e-5)
    assert weights.keys() == end.keys()
    moved = max(float((end[name] - begin[name]).abs().max()) for name in end)
    assert moved > 1e-3, "as far as the learning rate says"
    for name, weight in weights.items():
        torch.testing.assert_close(end[name], weight, rtol=0, atol=1e-5)
