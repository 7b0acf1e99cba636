"""Two gloo ranks that save checkpoints and a model together: each its own files, whatever the collectives' time-out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import commit_model, fetch_with_manifest
from tests.integration.saving_driver import JOB, UPLOAD_S
from tests.ranks import run_ranks

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two ranks have worked on."""
    folder = tmp_path_factory.mktemp("saving")
    (folder / "model").mkdir()
    shards = {f"model-0000{n}-of-00003.safetensors": {f"w{n}": np.full(64, n, np.float32)} for n in (1, 2, 3)}
    for name, tensors in shards.items():
        (folder / "model" / name).write_bytes(save(tensors))
    index = {"weight_map": {tensor: name for name, tensors in shards.items() for tensor in tensors}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model" / "tokenizer.json").write_text("{}")
    run_ranks("tests.integration.saving_driver", folder, 2, limit_s=280, env={"TMPDIR": str(folder)})
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(2)]


def test_rank_0_decides_when_a_checkpoint_is_due(results: list[dict[str, Any]]) -> None:
    assert results[0]["due"] == results[1]["due"] == [1, 2, 3, 4, 5, 6]


def test_each_rank_uploads_its_own_files_behind_the_training(results: list[dict[str, Any]]) -> None:
    uploads = [sorted(result["saved"]["uploads"]) for result in results]
    states = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    assert uploads == [["latest", states[0]], [states[1]]]
    assert all(result["saved"]["files"] == sorted(["latest", *states]) for result in results)
    for result in results:
        assert result["saved"]["stalled"] < 0.1 * UPLOAD_S < UPLOAD_S <= result["saved"]["stored"]


def test_what_one_rank_cannot_upload_fails_on_every_rank(results: list[dict[str, Any]]) -> None:
    messages = [result["failed"]["message"] for result in results]
    assert messages[0] == messages[1]
    assert messages[0].startswith("the checkpoint of step 8 could not be stored (rank 1): S3 failed for work/")
    assert [result["failed"]["steps"] for result in results] == [[4], [4]]


def test_the_ranks_divide_the_files_of_a_model(folder: Path, results: list[dict[str, Any]], tmp_path: Path) -> None:
    uploads = [result["model"]["uploads"] for result in results]
    assert not set(uploads[0]) & set(uploads[1])
    assert sorted(uploads[0] + uploads[1]) == sorted(path.name for path in (folder / "model").iterdir())
    assert sum(name.endswith(".safetensors") for name in uploads[1]) in (1, 2)
    _, manifest = fetch_with_manifest(LocalStore(folder / "store"), JOB)
    alone = LocalStore(tmp_path / "alone")
    commit_model(alone, JOB, folder / "model", {"rank": 0})
    assert manifest == fetch_with_manifest(alone, JOB)[1], "as one process commits it"
