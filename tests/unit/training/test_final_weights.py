"""The files of a finished model: those that `save_pretrained` writes, and who has which."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from rft_ray.config import Training
from rft_ray.sampling.weight_layout import layout
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import final_weights
from rft_ray.training.agreement import SavingError
from rft_ray.training.final_weights import divided, files_of, write_weights
from rft_ray.training.trainer import Group

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 61}


def group_of(folder: Path) -> Group:
    return Group("a", LocalStore(folder / "store"), Training(), False, None, 0, 0, 1)


def trained_model(tied: bool, dtype: str, folder: Path) -> Any:
    """A small model as a training has it: loaded from a base."""
    import torch

    LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **SHAPE)).save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", ["4GB", "20KB"])
def test_the_files_are_byte_for_byte_those_of_save_pretrained(
    tied: bool, dtype: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_weights, "FILE_SIZE", size)
    model = trained_model(tied, dtype, tmp_path / "base")
    whole, own = tmp_path / "whole", tmp_path / "own"
    own.mkdir()
    model.save_pretrained(whole, max_shard_size=size)
    files = files_of(model)
    assert files is not None
    write_weights(group_of(tmp_path), files, own)
    (whole / "generation_config.json").unlink()
    final_weights._write_config(model, files.index, own)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
    assert (len(list(own.glob("*.safetensors"))) > 1) is (size == "20KB")
    loaded = LlamaForCausalLM.from_pretrained(own, dtype=model.dtype)
    assert all(map(lambda a, b: a.equal(b), loaded.parameters(), model.parameters()))
    assert layout(own)["tensors"] == layout(tmp_path / "base")["tensors"]


def test_nothing_is_copied_to_plan_the_files() -> None:
    import torch

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "hidden_size": 8192, "vocab_size": 128_000}))
    files = files_of(model)
    assert files is not None
    index = json.loads(files.index)
    assert set(index["weight_map"]) == set(model.state_dict())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.parameters()) > 2 * 4e9
    assert list(files.tensors) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


def test_one_file_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(final_weights, "FILE_SIZE", "20KB")
    files = files_of(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    assert files is not None
    before: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def save_file(tensors: dict[str, Any], *_: Any, **__: Any) -> None:
        alive.append(sum(tensor() is not None for tensor in before))
        before.extend(weakref.ref(tensor) for tensor in tensors.values())

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    write_weights(group_of(tmp_path), files, tmp_path)
    assert len(before) == 21
    assert alive == [0] * len(files.tensors)


def test_a_model_that_is_stored_in_another_form_is_left_to_save_pretrained() -> None:
    """The experts of a layer are one tensor in memory, and one each in the files."""
    assert files_of(MixtralForCausalLM(MixtralConfig(num_local_experts=2, **SHAPE))) is None


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    files = files_of(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    assert files is not None
    with pytest.raises(SavingError, match=r"^the model could not be stored: .*No such file"):
        write_weights(group_of(tmp_path), files, tmp_path / "missing")


def test_files_are_divided_by_bytes_and_each_is_in_one_part() -> None:
    sizes = {Path(f"model-{n}.safetensors"): 4_000 for n in range(7)} | {Path("a.json"): 30, Path("b.json"): 1}
    parts = divided(sizes, 4)
    assert sorted(path for part in parts for path in part) == sorted(sizes)
    loads = [sum(sizes[path] for path in part) for part in parts]
    assert max(loads) <= 8_031


def test_more_workers_than_files_leave_some_without() -> None:
    assert divided({Path("a"): 1}, 3) == [[Path("a")], [], []]
