"""What the ranks of a worker group tell each other outside of training's own collectives.

In: a decision or the work of each rank. Out: the same decision, or every rank's result, on all ranks. All of it goes
over gloo groups that wait for hours (`PATIENCE`): hashing, uploads and downloads take longer than the time-out of the
training's collectives, and need no GPU. A rank that dies ends the waiting of the others at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from rft_ray.config.errors import RunError
from rft_ray.training.trainer import Group

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a rank waits for the others."""


class SavingError(RunError, RuntimeError):
    """A checkpoint or a finished model could not be stored or read: this attempt fails, and another one may succeed."""


def patient_group() -> Any:
    """A new process group of all ranks for objects on CPUs. Every rank must call this in the same order."""
    import torch.distributed

    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def connect_by_cluster_network() -> None:
    """Let later gloo groups connect by the network interface that has this node's address in Ray.

    Unless GLOO_SOCKET_IFNAME is set, gloo takes the address of the host's name. That is 127.0.1.1 on many machines with
    Debian or Ubuntu, and the ranks of other nodes would try to reach it for as long as PATIENCE.
    """
    import psutil
    import ray.util

    here = ray.util.get_node_ip_address()
    found = (name for name, own in psutil.net_if_addrs().items() if any(each.address == here for each in own))
    if name := next(found, None):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def from_rank_0(group: Group, decide: Callable[[], T]) -> T:
    """The result of `decide()` on rank 0, broadcast to every rank. An error in `decide` fails the group."""
    import torch.distributed

    if group.world_size == 1:
        return decide()
    decision = [decide() if group.rank == 0 else None]
    torch.distributed.broadcast_object_list(decision, src=0, group=group.patient)
    return decision[0]  # type: ignore[return-value]


def number_from_rank_0(group: Group, number: int) -> int:
    """Rank 0's number on every rank: quick enough for each step, and without waiting for a GPU."""
    import torch

    if group.world_size == 1:
        return number
    told = torch.tensor(number)
    torch.distributed.broadcast(told, src=0, group=group.patient)
    return int(told)


def wait_for_all(group: Group) -> None:
    """Return once every rank has called this."""
    import torch.distributed

    if group.world_size > 1:
        torch.distributed.barrier(group.patient)


def together(group: Group, what: str, act: Callable[[], T], *, behind: bool = False) -> list[T]:
    """The results of `act()` of all ranks, in their order. Raises SavingError on every rank where it failed on one.

    `what`: how the message of the error begins: "the model could not be stored". `behind`: called by the thread
    that stores checkpoints, whose process group no other thread uses.
    """
    import torch.distributed

    try:
        own: tuple[T | None, str] = act(), ""
    except Exception as error:
        if group.world_size == 1:
            raise SavingError(f"{what}: {error}") from error
        own = None, f"{what} (rank {group.rank}): {error}"
    every: list[Any] = [own]
    if group.world_size > 1:
        every = [None] * group.world_size
        torch.distributed.all_gather_object(every, own, group=group.background if behind else group.patient)
    failures = [failure for _, failure in every if failure]
    if failures:
        raise SavingError(failures[0])
    return [result for result, _ in every]
