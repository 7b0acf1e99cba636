"""Two gloo ranks commit the model that they have trained: each its files, and together what rank 0 alone would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import fetch_with_manifest
from tests.integration.final_weights_driver import CASES, WORLD
from tests.integration.small_training import written_base
from tests.ranks import run_ranks

TIED_TWICE = "2-float32-tied"
"""Trainer alone stores the tied head of this one a second time."""
TOGETHER = [name for name, case in CASES.items() if not case[3]]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two ranks have trained and committed the model of each case."""
    folder = tmp_path_factory.mktemp("committed")
    for name in ("untied", "tied"):
        # so wide that ZeRO 3 does not keep every tensor whole, as it does those below 100,000 elements
        written_base(folder / name, tied=name == "tied", width=512)
    run_ranks("tests.integration.final_weights_driver", folder, WORLD, limit_s=850)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(WORLD)]


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("case", TOGETHER)
def test_it_is_the_model_that_rank_0_alone_exports(folder: Path, case: str) -> None:
    model, manifest = fetch_with_manifest(LocalStore(folder / "store"), case)
    alone = folder / f"alone-{case}"
    (alone / "training_args.bin").unlink()
    if case != TIED_TWICE:  # which needs more files
        assert sorted(manifest.files) == sorted(path.name for path in alone.iterdir())
    assert tensors(model).keys() == tensors(alone).keys() - ({"lm_head.weight"} if case == TIED_TWICE else set())
    assert all(tensors(alone)[name].equal(tensor) for name, tensor in tensors(model).items())
    assert manifest.metadata == {"rank": 0}
    for path in alone.iterdir():
        if path.name == "model.safetensors.index.json" and case.startswith("3"):
            continue  # under ZeRO 3 transformers counts the parameters of rank 0's partition
        if case == TIED_TWICE and path.name.startswith("model"):
            continue
        assert (model / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("case", TOGETHER)
def test_transformers_loads_it(folder: Path, case: str) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = fetch_with_manifest(LocalStore(folder / "store"), case)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    loaded, found = AutoModelForCausalLM.from_pretrained(model, dtype="auto", output_loading_info=True)
    assert not any(found.values())
    assert str(loaded.dtype) == f"torch.{CASES[case][1]}"
    assert index["metadata"]["total_parameters"] == loaded.num_parameters()
    stored = tensors(model)
    assert set(stored) == set(index["weight_map"])
    assert all(loaded.state_dict()[name].equal(tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("case", TOGETHER)
def test_each_rank_has_its_files_of_weights_and_rank_0_the_small_ones(
    results: list[dict[str, Any]], folder: Path, case: str
) -> None:
    files = [result[case]["files"] for result in results]
    assert not set(files[0]) & set(files[1])
    weights = [[name for name in own if name.endswith(".safetensors")] for own in files]
    assert len(weights[0]) - len(weights[1]) in (0, 1)
    assert len(weights[1]) > 1
    assert weights[1] == files[1]


@pytest.mark.parametrize("case", TOGETHER)
def test_what_one_rank_cannot_write_fails_on_every_rank(results: list[dict[str, Any]], case: str) -> None:
    errors = [result[case]["error"] for result in results]
    assert errors[0] == errors[1]
    assert errors[0].startswith("the model could not be stored (rank 1): ")


def test_a_model_with_adapters_is_committed_by_the_node_that_merged_it(
    results: list[dict[str, Any]], folder: Path
) -> None:
    (case,) = set(CASES) - set(TOGETHER)
    _, manifest = fetch_with_manifest(LocalStore(folder / "store"), case)
    assert [result[case]["files"] for result in results] == [sorted(manifest.files), []]
