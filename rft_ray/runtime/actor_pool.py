"""What every stage over shards shares: find what is missing, run actors over it, follow progress.

A stage's worker is a plain callable `worker(shard) -> receipt`; it commits its shard by itself, so only small
receipts travel through Ray Data, and killing anything loses at most the shards in flight.
"""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import ray
from ray.data import ActorPoolStrategy, DataContext

from rft_ray.config.errors import RunError
from rft_ray.runtime.progress import Progress
from rft_ray.store import Receipt
from rft_ray.store.shards import Shard

MAX_BLOCKS = 4096
"""Ray Data blocks of one execution; with more shards than this, a block holds several."""
NO_PROGRESS_TIMEOUT_S = 6 * 3600
CAUSE = "worker failed: "
"""Marks a worker's own words among the stacks that Ray wraps around them."""


class StageError(RunError, RuntimeError):
    """A stage that cannot go on: what failed, in one line, and what to do."""


class Worker(Protocol):
    def __call__(self, shard: Shard) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Pool:
    """How many actors a stage may have, and what each asks of its node."""

    min_actors: int = 1
    max_actors: int = 1
    cpus: float = 1
    gpus: float = 0
    shards_in_flight: int = 1
    """Shards that one actor works on at once, each in a thread of its own."""
    max_restarts: int = 3
    env: dict[str, str] = field(default_factory=dict)


def receipt_row(receipt: Receipt, **counts: Any) -> dict[str, Any]:
    """What a worker returns for a shard that it has committed."""
    return {"key": receipt.key, "rows": receipt.rows, "committed_here": receipt.committed_here, **counts}


class ShardActor:
    """The Ray Data side of a worker: rows of shards in, rows of receipts out. Stacks go to the actor's own log."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._failure: Exception | None = None
        try:
            self._worker = make()
        except Exception as failure:  # raised by the first call: of what a constructor raises, Ray tells nothing
            self._failure = failure

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            if self._failure is not None:
                raise self._failure
            receipts = [self._worker(Shard(**json.loads(shard))) for shard in batch["shard"]]
        except Exception as failure:
            traceback.print_exc()
            raise StageError(CAUSE + in_one_line(failure)) from None
        return {"receipt": [json.dumps(receipt) for receipt in receipts]}


def run_actors(label: str, make: Callable[[], Worker], shards: Sequence[Shard], pool: Pool) -> Iterator[dict[str, Any]]:
    """Run `make()` in an actor pool over the shards; receipts come as they are committed.

    Raises StageError with the cause in one line when a worker raises, or dies more often than the pool allows.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its stacks; what went wrong is raised, in one line
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    rows = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    with warnings.catch_warnings():  # the bounds on restarts have no other way in, in the Ray that is pinned
        warnings.simplefilter("ignore", DeprecationWarning)
        receipts = _mapped(rows, make, pool)
    try:
        for row in receipts.iter_rows():
            yield json.loads(row["receipt"])
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        raise StageError(f"{label}: {cause_of(error)}") from None


def _mapped(rows: list[dict[str, str]], make: Callable[[], Worker], pool: Pool) -> ray.data.Dataset:
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map_batches(
        ShardActor,
        fn_constructor_args=(make,),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=pool.min_actors,
            max_size=pool.max_actors,
            max_concurrent_calls_per_actor=pool.shards_in_flight,
            max_tasks_in_flight_per_actor=pool.shards_in_flight + 1,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_restarts=pool.max_restarts,
        max_task_retries=pool.max_restarts,
        runtime_env={"env_vars": pool.env},
    )


def actor_id() -> str:
    """Names the actor that this code runs in, the same after each restart; empty outside of one."""
    return (ray.get_runtime_context().get_actor_id() or "") if ray.is_initialized() else ""


def in_one_line(error: BaseException) -> str:
    """What an error says of itself, or its type where it says nothing; at most 600 characters."""
    return " ".join(str(error).split() or [type(error).__name__])[:600]


def cause_of(error: BaseException) -> str:
    """What a worker said of its failure, else the last line of what Ray says; at most 600 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if CAUSE in line), lines[-1])
    return told.rpartition(CAUSE)[2][:600]


VERIFIER_ENV = {"OMP_NUM_THREADS": "1"}


def run_shards(label: str, make: Any, shards: list[Shard], actors: int, unit: str) -> list[dict[str, Any]]:
    if not shards:
        return []
    progress = Progress(label, len(shards), "shards")
    receipts = []
    for receipt in run_actors(label, make, shards, Pool(1, actors, env=VERIFIER_ENV)):
        receipts.append(receipt)
        progress.advance(1)
    return receipts
