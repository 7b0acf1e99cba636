"""A base model that is not named by its fingerprint is taken from the run where it is committed there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.data import hub, hub_records
from rft_ray.data.base_weights import fetch_recorded
from rft_ray.data.hub import Repository, RepositoryFile
from rft_ray.data.tiny import model_dir
from rft_ray.store import mark_run, open_store
from rft_ray.store.models.committed import commit_model
from rft_ray.store.models.folder import files_fingerprint
from rft_ray.store.models.hashes import sha256_of
from tests.hubserver import COMMIT
from tests.unit.store.test_models import model_files

SOURCE = f"hub:meta/llama@{COMMIT}"


def test_a_served_base_model_is_taken_from_the_run_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delattr("huggingface_hub.HfApi.repo_info")
    monkeypatch.setattr(hub, "_known", {})
    monkeypatch.setattr(hub, "_folders", {})
    (local := tmp_path / COMMIT).mkdir()
    for name, content in model_files().items():
        (local / name).write_bytes(content)
    sizes = {path.name: (path.stat().st_size, sha256_of(path)) for path in local.iterdir()}
    files = {n: RepositoryFile(size, sha if n.endswith(".safetensors") else "") for n, (size, sha) in sizes.items()}
    hub.remember(Repository("meta/llama", COMMIT, files), local)
    mark_run(store := open_store(str(tmp_path / "run")))
    hub_records.record(store, [SOURCE])
    commit_model(store, files_fingerprint(local), local, {"stage": "base", "source": SOURCE})
    monkeypatch.setattr(hub, "_known", {})
    monkeypatch.setattr(hub, "_folders", {})
    assert str(fetch_recorded(store, SOURCE)).startswith(f"{tmp_path / 'run' / 'models'}/")
    assert fetch_recorded(store, "tiny:tiny-s") == model_dir("tiny-s")
