"""What a sampler returns for a shard, sampled or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rft_ray.runtime.actor_pool import ShardReceipt
from rft_ray.sampling.supervisor import Refusal


@dataclass(frozen=True, slots=True)
class SampleReceipt(ShardReceipt):
    """What a sampler did with one shard.

    Example: SampleReceipt("completions/5f0c…/p000001/a3e1….s00001", refusal="quarantined", reason="out of memory")
    """

    refusal: Refusal | Literal["none"] | None = None
    """Why the shard was not sampled; None where it was, or where its model could not be loaded; `none`: no shard was
    left, and the receipt names none."""
    reason: str = ""
    """The details of a refusal."""
    unloadable: str = ""
    """Why the shard's model could not be loaded; empty where it could."""
