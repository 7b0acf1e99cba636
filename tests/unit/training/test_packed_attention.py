"""Packed rows: an example's logits do not depend on its neighbours, and loss and gradients are the unpacked ones."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from rft_ray.training import packed_attention
from rft_ray.training.batches import IGNORED, Example, padded
from rft_ray.training.packed_attention import BY_EXAMPLE, FLASH, LAYER_TYPES, MODEL_TYPES, choose, packed
from rft_ray.training.results import TrainingError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 61
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "resid_pdrop": 0,
        "embd_pdrop": 0,
        "attn_pdrop": 0,
    },
    "mistral": {"sliding_window": 5},
    "starcoder2": {"sliding_window": 5, "residual_dropout": 0, "embedding_dropout": 0},
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo3": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


def model_of(kind: str, attention: str) -> Any:
    """A random model of a type, the same for every attention; its attention to distant tokens is strong."""
    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **OTHER_SHAPES.get(kind, {})})
    packed_attention.register()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.normal_(0, 0.2)
    model.config.use_cache = False
    return model.train()


def examples(*lengths: int) -> list[Example]:
    random = torch.Generator().manual_seed(sum(lengths))
    drawn = [torch.randint(3, VOCABULARY, (length,), generator=random).tolist() for length in lengths]
    return [Example(array("I", tokens), max(1, len(tokens) // 3)) for tokens in drawn]


def row_logits(model: Any, row: Sequence[Example], **others: Any) -> list[Any]:
    """The logits of each example of a packed row, its prompt's too."""
    inputs = packed(row, 0, BY_EXAMPLE) | others
    for name in ("labels", "shift_labels", "logits_to_keep"):
        inputs.pop(name)
    return list(model(**inputs).logits[0].split([len(example.tokens) for example in row]))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_an_examples_logits_do_not_depend_on_its_neighbours(kind: str) -> None:
    first, second, third = examples(9, 17, 4)
    plain, model = model_of(kind, "sdpa"), model_of(kind, BY_EXAMPLE)
    alone = [plain(input_ids=torch.tensor([example.tokens.tolist()])).logits[0] for example in (first, second, third)]
    torch.testing.assert_close(row_logits(model, [first, second, third]), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(row_logits(model, [third, second]), [alone[2], alone[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_without_the_lengths_of_the_examples_the_neighbours_would_be_seen(kind: str) -> None:
    first, second = examples(9, 17)
    seen = row_logits(model_of(kind, BY_EXAMPLE), [first, second], example_lengths=[26])[1]
    apart = row_logits(model_of(kind, BY_EXAMPLE), [first, second])[1]
    assert (seen - apart).abs().max() > 0.01


def step_gradients(model: Any, batches: Sequence[dict[str, Any]], learned: int) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of an optimizer step whose loss is the mean over `learned` tokens, as the Trainer's is."""
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=torch.tensor(learned)).loss
        loss.backward()
        total += loss.item()
    return total, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_loss_and_gradients_are_those_of_padded_rows(kind: str) -> None:
    a, b, c, d, e = step = examples(9, 17, 4, 12, 30)
    learned = sum(len(example.tokens) - example.prompt_tokens for example in step)
    tensors = [{n: torch.tensor(v) for n, v in padded(rows, 0).items()} for rows in ([a, b], [c, d], [e])]
    rows = [packed(row, 0, BY_EXAMPLE) for row in ([e, c], [d, b, a], [])]
    loss, gradients = step_gradients(model_of(kind, "sdpa"), tensors, learned)
    packed_loss, packed_gradients = step_gradients(model_of(kind, BY_EXAMPLE), rows, learned)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert packed_gradients.keys() == gradients.keys()
    scale = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-5 * float(scale), rtol=1e-4)


def test_positions_start_again_and_no_example_predicts_the_next_ones_first_token() -> None:
    row = [Example(array("I", [5, 6, 7]), 1), Example(array("I", [8, 9]), 0)]
    inputs = packed(row, 0, BY_EXAMPLE)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert inputs["shift_labels"].tolist() == [[6, 7, 9]]
    assert inputs["logits_to_keep"].tolist() == [0, 1, 3]
    assert inputs["example_lengths"] == [3, 2]


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_prompts_have_no_logits(kind: str) -> None:
    row = examples(9, 17, 4)
    logits = model_of(kind, BY_EXAMPLE)(**packed(row, 0, BY_EXAMPLE)).logits
    assert logits.shape == (1, sum(len(example.tokens) - example.prompt_tokens for example in row), VOCABULARY)


def test_flash_attention_gets_the_bounds_of_the_examples() -> None:
    inputs = packed(examples(3, 7, 2), 0, FLASH)
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 3, 10, 12]
    assert inputs["max_length_q"] == inputs["max_length_k"] == 7
    assert inputs["cu_seq_lens_q"].dtype == torch.int32


def test_no_examples_are_a_row_without_a_loss() -> None:
    inputs = packed([], 5, BY_EXAMPLE)
    assert inputs["shift_labels"].tolist() == [[IGNORED]]
    assert inputs["logits_to_keep"].tolist() == [0]
    assert inputs["example_lengths"] == [2]


def test_models_that_would_mix_the_examples_are_padded_or_refused() -> None:
    mamba = transformers.AutoConfig.for_model("mamba")
    hybrid = transformers.AutoConfig.for_model(
        "qwen3", num_hidden_layers=2, layer_types=["full_attention", "linear_attention"]
    )
    for config in (mamba, hybrid):
        assert choose("auto", config, gpu=False, dtype="float32") == ""
        with pytest.raises(TrainingError, match=f"type '{config.model_type}'.* set training.packing=auto or off"):
            choose("on", config, gpu=False, dtype="float32")
    assert "linear_attention" not in LAYER_TYPES


@pytest.mark.parametrize("kind", [kind for kind in MODEL_TYPES if "moe" in kind or kind == "mixtral"])
def test_a_loss_over_the_experts_of_a_row_is_not_packed(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind)
    assert choose("auto", config, gpu=False, dtype="float32") == BY_EXAMPLE
    config.output_router_logits = True
    assert choose("auto", config, gpu=False, dtype="float32") == ""
    with pytest.raises(TrainingError, match=r"balances experts .*: set training.packing=auto or off"):
        choose("on", config, gpu=False, dtype="float32")


def test_packing_is_off_where_the_config_says_so_and_by_example_without_a_gpu() -> None:
    config = transformers.AutoConfig.for_model("llama")
    assert choose("off", config, gpu=False, dtype="bfloat16") == ""
    assert choose("auto", config, gpu=False, dtype="bfloat16") == choose("on", config, gpu=False, dtype="float32")
    assert choose("on", config, gpu=False, dtype="float32") == BY_EXAMPLE


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_and_checkpointed_activations_keep_the_examples_apart_too(kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    first, second = examples(9, 17)
    model = get_peft_model(model_of(kind, BY_EXAMPLE), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    torch.testing.assert_close(row_logits(model, [first, second])[1], row_logits(model, [second])[0])
    model(**packed([first, second], 0, BY_EXAMPLE)).loss.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())
