"""`run.base_weights: store`: the models of the hub are committed to the run, in Ray tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.store import open_store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import files_fingerprint
from tests.hubserver import COMMIT, hub_server
from tests.unit.data.test_hub_runs import weights
from tests.unit.store.test_models import model_files

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
from rft_ray.runtime.base_weights import commit_bases
from rft_ray.runtime.ray_cluster import start_ray
from rft_ray.store import mark_run, open_store
store = open_store(sys.argv[1])
mark_run(store)
start_ray()
bases = {sys.argv[2]: sys.argv[3], "tiny:tiny-s": "0" * 16, "openai:gpt": "1" * 16}
print([commit_bases(store, bases), commit_bases(store, bases)])
commit_bases(store, {"hub:no/body": "2" * 16})
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_models_of_the_hub_are_committed_once_and_an_error_is_one_line(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    for name, content in model_files().items():
        (local / name).write_bytes(content)
    source, fingerprint, sent = f"hub:meta/llama@{COMMIT}", files_fingerprint(local), list[str]()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RAY_ADDRESS"))}
    environ |= {"HF_HOME": str(tmp_path / "hub"), "RFT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "run"), source, fingerprint]
    with hub_server({"meta/llama": model_files()}, sent=sent) as endpoint:
        environ["HF_ENDPOINT"] = endpoint
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=580, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["[1, 0]"], done.stderr
    assert "StageError: base model hub:no/body: hub:no/body: the hub has no model" in done.stderr
    assert weights(sent) == ["model.safetensors"]
    store = open_store(str(tmp_path / "run"))
    manifest = committed_model(store, fingerprint)
    assert manifest is not None
    assert manifest.metadata == {"stage": "base", "source": source}
    assert {path.split("/")[1] for path in store.list("models/")} == {fingerprint}
