"""Base models in all forms that people have them: pickled weights, adapters, GGUF files, slow tokenizers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rft_ray.config import BaseModelSpec, Config
from rft_ray.data.base_models import fingerprint, pin, pinned, resolve, resolve_exactly, size
from rft_ray.data.tiny import model_dir
from rft_ray.store.models.folder import ModelError, files_fingerprint

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
VOCABULARY = 532


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_model(*, tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def add_tokenizer(folder: Path) -> Path:
    for name in TOKENIZER:
        shutil.copyfile(model_dir("tiny-m") / name, folder / name)
    return folder


def safetensors_folder(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return add_tokenizer(folder)


def pickled_folder(folder: Path, model: Any, shards: int = 1) -> Path:
    """As older versions of transformers saved a model."""
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    state = list(model.state_dict().items())
    if shards == 1:
        torch.save(dict(state), folder / "pytorch_model.bin")
        return add_tokenizer(folder)
    weight_map = {}
    for shard in range(shards):
        name = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = dict(state[shard::shards])
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return add_tokenizer(folder)


def adapter_folder(folder: Path, base: str) -> tuple[Path, Any]:
    """A LoRA adapter with random weights, and the merged model."""
    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(random_model(), lora)
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    return folder, adapted.merge_and_unload().eval()


def same_logits(folder: Path, model: Any, **bounds: float) -> bool:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        return torch.allclose(loaded(tokens).logits, model(tokens).logits, **bounds)


# --- Pickled weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights_become_safetensors_of_the_same_model(tmp_path: Path, tied: bool, shards: int) -> None:
    model = random_model(tied=tied)
    folder = resolve(str(pickled_folder(tmp_path / "model", model, shards)))
    assert not list(folder.glob("*.bin*"))
    assert same_logits(folder, model)


def test_pickled_weights_are_converted_once(tmp_path: Path) -> None:
    source = str(pickled_folder(tmp_path / "model", random_model()))
    written = (resolve(source) / "model.safetensors").stat().st_mtime_ns
    assert (resolve(source) / "model.safetensors").stat().st_mtime_ns == written


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was-run"),)

    folder = pickled_folder(tmp_path / "model", random_model())
    torch.save({"weight": Harmful()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError) as refusal:
        resolve(str(folder))
    assert len(str(refusal.value).splitlines()) == 1
    assert "pytorch_model.bin cannot be loaded without running code of the pickle" in str(refusal.value)
    assert not (tmp_path / "was-run").exists()


def test_pickles_next_to_safetensors_are_ignored(tmp_path: Path) -> None:
    folder = safetensors_folder(tmp_path / "model", random_model())
    before = fingerprint(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert resolve(str(folder)) == folder
    assert fingerprint(str(folder)) == before == files_fingerprint(folder)


# --- Adapters -------------------------------------------------------------------------------------


def test_the_same_weights_in_another_layout_are_not_counted(tmp_path: Path) -> None:
    """Mistral's repositories hold them as consolidated.safetensors too."""
    folder = shutil.copytree(model_dir("tiny-s"), tmp_path / "twice")
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert size(str(folder)) == size("tiny:tiny-s")
    assert fingerprint(str(folder)) == fingerprint("tiny:tiny-s")


def test_an_adapter_is_merged_into_the_base_that_it_names(tmp_path: Path) -> None:
    base = safetensors_folder(tmp_path / "base", random_model())
    adapter, merged = adapter_folder(tmp_path / "adapter", str(base))
    assert same_logits(resolve(str(adapter)), merged, atol=1e-5)
    assert size(str(adapter)) == sum(weight.numel() for weight in merged.state_dict().values())


def test_the_base_of_an_adapter_can_be_given(tmp_path: Path) -> None:
    base = safetensors_folder(tmp_path / "base", random_model())
    adapter, merged = adapter_folder(tmp_path / "adapter", "/no/such/folder")
    with pytest.raises(ModelError, match=r"names the base model '/no/such/folder'.*\?base=hub:owner/name"):
        resolve(str(adapter))
    assert same_logits(resolve(f"{adapter}?base={base}"), merged, atol=1e-5)


def test_another_base_makes_another_model_of_an_adapter(tmp_path: Path) -> None:
    base = safetensors_folder(tmp_path / "base", random_model())
    adapter, _ = adapter_folder(tmp_path / "adapter", str(base))
    before = fingerprint(str(adapter))
    (base / "generation_config.json").write_text("{}")
    assert fingerprint(str(adapter)) != before


@pytest.mark.parametrize("read", [resolve, fingerprint, pinned])
def test_adapters_that_name_each_other_as_base_are_refused(tmp_path: Path, read: Any) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(tmp_path / base)})
        )
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="form a circle through"):
        read(str(tmp_path / "a"))


def test_an_adapter_whose_base_has_too_long_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x" * 5_000}))
    with pytest.raises(ModelError, match="names the base model"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "index", ['{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": "a"}', "[" * 100_000]
)
def test_a_damaged_index_of_weights_is_refused(tmp_path: Path, weights: str, index: str) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / f"{weights}.index.json").write_text(index)
    if weights.endswith(".safetensors"):
        (tmp_path / weights).write_bytes(b"")
    with pytest.raises(ModelError, match="is damaged"):
        resolve(str(tmp_path))


def test_a_pickle_whose_tensors_have_no_names_is_refused(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        resolve(str(tmp_path))


def test_a_base_for_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    folder = safetensors_folder(tmp_path / "base", random_model())
    with pytest.raises(ModelError, match="is no folder of a PEFT adapter"):
        pinned(f"{folder}?base=tiny:tiny-m")


# --- Tokenizers -----------------------------------------------------------------------------------


def test_a_sentencepiece_tokenizer_is_read(tmp_path: Path) -> None:
    import sentencepiece

    folder = safetensors_folder(tmp_path / "model", random_model())
    for name in TOKENIZER:
        (folder / name).unlink()
    (tmp_path / "text").write_text("Tom has 3 pens and 4 cups.\n5 + 6 = 11\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(folder / "tokenizer"), vocab_size=60, hard_vocab_limit=False
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    tokenizer = AutoTokenizer.from_pretrained(resolve(str(folder)))
    text = "Tom has 3 cups"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text


# --- Fingerprints and revisions -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pickled", "adapter"])
def test_the_fingerprint_is_that_of_the_files_at_the_source(tmp_path: Path, kind: str) -> None:
    base = safetensors_folder(tmp_path / "base", random_model())
    folder = tmp_path / "model"
    if kind == "pickled":
        pickled_folder(folder, random_model())
    else:
        adapter_folder(folder, str(base))
    planned = fingerprint(str(folder))
    assert resolve_exactly(str(folder), planned).is_dir()
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "model")
    assert fingerprint(str(moved)) == planned
    with open(next(moved.glob("*config.json")), "a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match="is another model here than where the run was planned"):
        resolve_exactly(str(moved), planned)


def test_a_source_that_the_run_has_pinned_keeps_its_commit() -> None:
    models = [BaseModelSpec(name="a", source="hub:owner/name"), BaseModelSpec(name="b", source="tiny:tiny-m")]
    config = Config.model_construct(models=models)
    pinned_config, sources = pin(config, {"hub:owner/name": "hub:owner/name@c0ffee"})
    assert [model.source for model in pinned_config.models] == ["hub:owner/name@c0ffee", "tiny:tiny-m"]
    assert sources == {"hub:owner/name": "hub:owner/name@c0ffee"}


# --- GGUF -----------------------------------------------------------------------------------------

CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
PARTS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Part of a tensor's name in transformers -> in GGUF."""


def qwen2() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_theta=10000.0,
    )
    return Qwen2ForCausalLM(config).to(torch.bfloat16).to(torch.float32).eval()


def write_gguf(path: Path, model: Any) -> None:
    """The model in float32, with the tokens and merges of tiny-m."""
    writer, config = GGUFWriter(path, "qwen2"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    tokens = json.loads((model_dir("tiny-m") / "tokenizer.json").read_text())["model"]
    names = sorted(tokens["vocab"], key=tokens["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types([3] * 3 + [1] * (len(names) - 3))
    writer.add_token_merges([" ".join(merge) for merge in tokens["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in model.state_dict().items():
        for part, other in PARTS.items():
            name = name.replace(part, other)
        writer.add_tensor(name.replace("model.layers.", "blk."), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model-f32.gguf", qwen2())
    return tmp_path / "model-f32.gguf"


def test_a_gguf_file_becomes_the_same_model_with_its_tokenizer_and_chat_template(gguf: Path) -> None:
    folder = resolve(str(gguf))
    assert same_logits(folder, qwen2(), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Tom has 12 pens.\n3 + 4 = 7"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == 2
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<user>Hi"


def test_a_gguf_file_is_named_by_its_content_and_not_by_its_path(gguf: Path, tmp_path: Path) -> None:
    other = Path(shutil.copyfile(gguf, tmp_path / "other.gguf"))
    assert fingerprint(str(other)) == fingerprint(str(gguf))
    with open(other, "ab") as file:
        file.write(b" ")
    assert fingerprint(str(other)) != fingerprint(str(gguf))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model"])
def test_a_file_that_is_no_gguf_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(
        ModelError, match="give a whole GGUF file of an architecture that transformers reads"
    ) as refusal:
        resolve(str(tmp_path / "model.gguf"))
    assert len(str(refusal.value).splitlines()) == 1


def test_a_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        resolve(str(tmp_path / "model.gguf"))
