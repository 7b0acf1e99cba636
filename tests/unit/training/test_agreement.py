"""By which network interface the ranks' gloo groups connect."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import ray.util

from rft_ray.training.agreement import connect_by_cluster_network

VARIABLE = "GLOO_SOCKET_IFNAME"


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of a Ray on loopback. The variable is as before after the test."""
    monkeypatch.setenv(VARIABLE, "")
    del os.environ[VARIABLE]
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")


@pytest.mark.usefixtures("loopback")
def test_ranks_connect_by_the_interface_with_the_nodes_address() -> None:
    """Not by the host's name, which is 127.0.1.1 on many machines."""
    connect_by_cluster_network()
    assert os.environ[VARIABLE] == "lo"


@pytest.mark.usefixtures("loopback")
def test_the_users_own_interface_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ib0")
    connect_by_cluster_network()
    assert os.environ[VARIABLE] == "ib0"


@pytest.mark.usefixtures("loopback")
def test_an_address_of_no_interface_leaves_it_to_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    connect_by_cluster_network()
    assert VARIABLE not in os.environ


def test_gloo_reads_the_interface_when_a_group_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import HashStore, ProcessGroupGloo

    monkeypatch.setenv(VARIABLE, "nosuch0")
    with pytest.raises(RuntimeError, match="nosuch0"):
        ProcessGroupGloo(HashStore(), 0, 1, timedelta(seconds=5))
