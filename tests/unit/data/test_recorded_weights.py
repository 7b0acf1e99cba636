"""A base model that is not named by its fingerprint is taken from the run where it is committed there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft_ray.data import hub, hub_records
from rft_ray.data.base_weights import fetch_recorded
from rft_ray.data.hub import Repository, RepositoryFile
from rft_ray.data.tiny import model_dir
from rft_ray.store import mark_run, open_store
from rft_ray.store.models.committed import commit_model
from rft_ray.store.models.folder import ModelError, files_fingerprint
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


@pytest.mark.parametrize("hashed", [True, False])
def test_a_recorded_file_of_which_a_digit_has_changed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: bool
) -> None:
    """Of records without hashes, which earlier versions wrote, only the sizes are checked."""
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_known", {})
    monkeypatch.setattr(hub, "_folders", {})
    (local := tmp_path / COMMIT).mkdir()
    for name, content in model_files().items():
        (local / name).write_bytes(content)
    files = {path.name: RepositoryFile(path.stat().st_size, "") for path in local.iterdir()}
    hub.remember(Repository("meta/llama", COMMIT, files), local)
    mark_run(store := open_store(str(tmp_path / "run")))
    hub_records.record(store, [SOURCE])
    folder = tmp_path / "run/sources/meta/llama" / COMMIT
    if not hashed:
        listing = json.loads((folder / "repository.json").read_text())
        del listing["recorded"]
        (folder / "repository.json").write_text(json.dumps(listing))
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(config[:-2] + b" " + config[-1:])
    assert len(config) == (folder / "config.json").stat().st_size
    if not hashed:
        hub_records.recall(store)
        return
    with pytest.raises(ModelError, match=f"damaged file sources/meta/llama/{COMMIT}/config.json in .*intact copy"):
        hub_records.recall(store)
    (folder / "config.json").write_bytes(config)
    hub_records.recall(store)
    next((tmp_path / "cache").rglob("config.json")).write_bytes(config[:-2] + b" " + config[-1:])
    hub_records.recall(store)  # this machine's copy is made anew
    assert next((tmp_path / "cache").rglob("config.json")).read_bytes() == config
