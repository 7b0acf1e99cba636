"""The Ray Data side of a stage without Ray: receipts as rows, and a worker's failure in one line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pytest

from rft_ray.runtime.actor_pool import CAUSE, Pool, ShardActor, ShardReceipt, StageError, cause_of
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.store.shards import Shard

SHARD = Shard("verdicts", "5" * 16, "f" * 16, 1, 8, 16, 0)
BATCH = {"shard": [json.dumps(asdict(SHARD))]}


@pytest.mark.parametrize(
    "receipt",
    [
        ShardReceipt("verdicts/x/p000001-s00000", 16),
        SampleReceipt("completions/x/p000001-s00000", refusal="quarantined", reason="no answer for 1800 s"),
        SampleReceipt("completions/x/p000001-s00000", unloadable="no such file"),
    ],
)
def test_a_receipt_is_read_back_from_its_row(receipt: ShardReceipt) -> None:
    assert type(receipt).from_row(receipt.as_row()) == receipt


def test_an_actor_calls_its_worker_with_the_shard_and_returns_the_receipt() -> None:
    actor = ShardActor(lambda: lambda shard: ShardReceipt(shard.stem, 3))
    [row] = actor(BATCH)["receipt"]
    assert ShardReceipt.from_row({"receipt": row}) == ShardReceipt(SHARD.stem, 3)


@dataclass
class Broken:
    at: str

    def __post_init__(self) -> None:
        if self.at == "start":
            raise ValueError("no such\nfolder")

    def __call__(self, shard: Shard) -> ShardReceipt:
        raise ValueError("no such\nfolder")


@pytest.mark.parametrize("at", ["start", "shard"])
def test_a_workers_error_is_one_line_wherever_it_is_raised(at: str) -> None:
    actor = ShardActor(lambda: Broken(at))
    with pytest.raises(StageError) as caught:
        actor(BATCH)
    assert str(caught.value) == f"{CAUSE}no such folder"
    assert cause_of(RuntimeError(f"a stack\n  {caught.value}\nmore of it")) == "no such folder"


@pytest.mark.parametrize(("shards", "expected"), [(3, 4), (32, 4), (33, 5), (800, 5)])
def test_an_actor_gets_a_shard_in_advance_only_where_not_all_are_worked_on_at_once(shards: int, expected: int) -> None:
    assert Pool(1, 8, shards_in_flight=4).shards_per_actor(shards) == expected
