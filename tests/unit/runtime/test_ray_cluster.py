"""The rule for using GPUs, and the Ray that a driver starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest
import ray

import rft_ray
from rft_ray.config import ConfigError
from rft_ray.runtime import ray_cluster, ray_private


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("auto", 0, False),
        ("auto", 1, True),
        ("auto", 8, True),
        ("cpu", 8, False),
        ("gpu", 0, True),
        ("gpu", 1, True),
    ],
)
def test_gpus_are_used_when_requested_or_present(
    device: Literal["auto", "cpu", "gpu"], gpus: int, expected: bool
) -> None:
    resources = {"CPU": 8.0, **({"GPU": float(gpus)} if gpus else {})}
    assert ray_cluster.uses_gpu(device, resources) is expected


def test_a_nodes_logical_cpus_are_its_cores_except_beyond_those_of_this_machine() -> None:
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 16.0}},
        {"NodeID": "c", "Alive": False, "Resources": {"CPU": 32.0}},
        {"NodeID": "d", "Alive": True, "Resources": {"GPU": 1.0}},
    ]
    assert ray_cluster.cpu_cores(nodes, "a", cores_here=2) == 2 + 16
    assert ray_cluster.cpu_cores(nodes, "a", cores_here=64) == 8 + 16


def test_a_local_ray_listens_on_loopback_and_its_workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **arguments: given.update(arguments))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/other")
    monkeypatch.setenv(ray_private.WORKER_NICENESS, "0")
    ray_cluster.start_ray()
    assert given["address"] == "local"
    assert given["_node_ip_address"] == given["dashboard_host"] == "127.0.0.1"
    root, other = os.environ["PYTHONPATH"].split(os.pathsep)
    assert Path(root, "rft_ray", "__init__.py").samefile(rft_ray.__file__)
    assert other == "/other"


@pytest.mark.parametrize(("chosen", "niceness"), [(None, "0"), ("10", "10")])
def test_workers_of_a_local_ray_are_as_nice_as_the_driver_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, niceness: str
) -> None:
    monkeypatch.setattr(ray, "init", lambda **arguments: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv(ray_private.WORKER_NICENESS, chosen or "")
    if not chosen:
        monkeypatch.delenv(ray_private.WORKER_NICENESS)
    ray_cluster.start_ray()
    assert os.environ[ray_private.WORKER_NICENESS] == niceness


@pytest.mark.parametrize("unknown", [False, True])
def test_a_home_that_cannot_hold_rays_token_is_not_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unknown: bool
) -> None:
    """`unknown`: the user id has no entry, as in a container, and HOME is not set."""
    monkeypatch.setattr(ray, "init", lambda **arguments: None)
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # to be put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_cluster.start_ray()
    assert "RAY_AUTH_TOKEN" not in os.environ  # Ray's own file
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    if unknown:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    ray_cluster.start_ray()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "127.0.0.1"])
def test_an_address_that_is_none_of_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS={address} is no address of a cluster: write HOST:6379"):
        ray_cluster.start_ray()
