"""Snapshots hold the state as it was, in the files that torch.save would have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rft_ray.training import snapshots
from rft_ray.training.device_memory import host_memory_left
from rft_ray.training.snapshots import Snapshots


def state() -> dict[str, Any]:
    flat = torch.arange(8.0)
    return {"flat": flat, "part": flat[2:4], "groups": [{"lr": 0.5, "params": [0]}], "again": flat, "step": 3}


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    kept, trained = Snapshots(1), state()
    assert kept.keep(trained, str(tmp_path / "global_step3" / "state.pt"))
    trained["flat"].zero_()
    trained["groups"][0]["lr"] = 0.0
    (snapshot,) = kept.take()
    snapshot.write()
    read, before = torch.load(tmp_path / "global_step3" / "state.pt", weights_only=False), state()
    assert read["groups"] == before["groups"]
    assert read["step"] == 3
    for name in ("flat", "part", "again"):
        assert torch.equal(read[name], before[name])
    assert kept.take() == [], "each is written once"


def test_tied_weights_are_copied_and_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state's dictionary has a tensor of its own for each name, with the same memory."""
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(1000, 64), "head": torch.nn.Linear(64, 1000, bias=False)})
    model["head"].weight = model["embed"].weight
    module = {**model.state_dict(), "turned": model["embed"].weight.detach().t(), "empty": torch.empty(0)}
    size = 1000 * 64 * 4
    monkeypatch.setattr(snapshots, "host_memory_left", lambda: 4 * size)  # half of it for both views
    kept = Snapshots(1)
    assert kept.keep({"module": module}, str(tmp_path / "state.pt"))
    kept.take()[0].write()
    assert size < (tmp_path / "state.pt").stat().st_size < 2.1 * size
    read = torch.load(tmp_path / "state.pt", weights_only=False)["module"]
    assert {name: torch.equal(read[name], module[name]) for name in module} == dict.fromkeys(module, True)
    again = torch.nn.ModuleDict({"embed": torch.nn.Embedding(1000, 64), "head": torch.nn.Linear(64, 1000, bias=False)})
    again.load_state_dict({name: read[name] for name in model.state_dict()})
    assert torch.equal(again["head"].weight, model["head"].weight)


def test_without_memory_for_all_workers_of_the_host_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(tensor.nbytes for tensor in (torch.arange(8.0), torch.arange(2.0)))
    monkeypatch.setattr(snapshots, "host_memory_left", lambda: 8 * size)
    assert Snapshots(4).keep(state(), str(tmp_path / "state.pt"))
    assert not Snapshots(5).keep(state(), str(tmp_path / "state.pt"))


@pytest.mark.parametrize(
    ("limit", "used", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_containers_limit_bounds_the_hosts_memory(tmp_path: Path, limit: str, used: str, cache: str) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / used).write_text("700\n")
    (tmp_path / limit).with_name("memory.stat").write_text(f"anon 400\n{cache} 200\n")
    assert host_memory_left(tmp_path) == 500
    (tmp_path / limit).write_text("max\n")
    assert host_memory_left(tmp_path) > 1000
