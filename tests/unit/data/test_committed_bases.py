"""The weights of a base model are committed through outages of the store: their download may have taken an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.data import base_weights
from rft_ray.data.base_weights import commit_base
from rft_ray.store import mark_run, open_store, outages
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.models import committed
from rft_ray.store.models.committed import committed_model
from tests.unit.store.test_models import model_files


def test_an_outage_after_the_download_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "model").mkdir()
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    mark_run(store := open_store(str(tmp_path / "run")))
    looks, present = [0], committed.present

    def away_once(*given: object) -> object:
        looks[0] += 1
        if looks[0] == 2:  # the first look is before the download
            raise StoreUnreachable("S3 is out of reach")
        return present(*given)

    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.01)
    monkeypatch.setattr(base_weights, "resolve_exactly", lambda *_: folder)
    monkeypatch.setattr(committed, "present", away_once)
    assert commit_base(store, "hub:meta/llama", "5f" * 8)
    assert committed_model(store, "5f" * 8)
