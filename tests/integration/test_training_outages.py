"""Two gloo ranks begin a training and resume it while every operation of the store fails at first, some for long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.committed import committed_model
from tests.integration.outage_driver import START
from tests.integration.resizing_driver import BREAK_AT
from tests.integration.small_training import PLAIN, written_base
from tests.ranks import run_ranks

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def test_outages_use_up_no_attempt_and_no_rank_waits_in_vain_for_another(tmp_path: Path) -> None:
    written_base(tmp_path / "base")
    env = {"TMPDIR": str(tmp_path), "RFT_CACHE": str(tmp_path / "cache")}
    run_ranks("tests.integration.outage_driver", tmp_path, 2, limit_s=580, env=env)
    manifest = committed_model(LocalStore(tmp_path / "store"), PLAIN)
    assert manifest is not None
    assert manifest.metadata["training"]["resumed_at_step"] >= BREAK_AT
    met = [json.loads((tmp_path / f"met-{rank}.json").read_text()) for rank in range(2)]
    for operations in met:
        assert {"list", "read"} == {operation for operation, key in operations if key.startswith("training/")}
        assert "list" in [operation for operation, key in operations if key.startswith(f"models/{START}")]
    files = [key for operations in met for operation, key in operations if operation == "fetch"]
    assert any(key.startswith(f"models/{START}/") for key in files), "one of the ranks fetched the start"
    assert any(key.startswith(f"work/{PLAIN}/") for key in files), "and the checkpoint"
