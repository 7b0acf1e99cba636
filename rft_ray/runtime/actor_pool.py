"""What every stage over shards shares: an actor pool that works on the shards, and their receipts.

A stage's worker is a plain callable `worker(shard) -> receipt`. It commits its shard itself, so only small receipts
travel through Ray Data, and a killed process loses at most the shards in flight.
"""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.context import AutoscalingConfig

from rft_ray.config.errors import RunError
from rft_ray.runtime import ray_private
from rft_ray.runtime.progress import Progress
from rft_ray.runtime.ray_private import PoolState, StopCheck
from rft_ray.store import Store, mark_run
from rft_ray.store.outages import through_outages
from rft_ray.store.shards import Shard, missing_shards

MAX_BLOCKS = 4096
"""Ray Data blocks of one execution; with more shards than this, a block holds several."""
NO_PROGRESS_TIMEOUT_S = 6 * 3600
FULL = 1.0
"""Share of a pool's places for shards that must be taken before Ray Data adds actors; 1.75 by default."""
CAUSE = "worker failed: "
"""Marks a worker's own message among the stacks that Ray adds to it."""


class StageError(RunError, RuntimeError):
    """A stage cannot continue. The message says in one line what failed and what to do."""


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """What a worker did with one shard; rows is 0 where another process had committed it before.

    Example: ShardReceipt("verdicts/5f0c…/p000001/a3e1….s00001", 512)
    """

    shard: str
    """The shard's stem."""
    rows: int = 0
    """Rows of the committed table."""

    def as_row(self) -> dict[str, str]:
        """The receipt as a row of Ray Data: one column, whatever fields a stage's receipts have."""
        return {"receipt": json.dumps(asdict(self))}

    @classmethod
    def from_row(cls, row: dict[str, str]) -> Self:
        """The receipt that `as_row` of the same class made a row of."""
        return cls(**json.loads(row["receipt"]))


R = TypeVar("R", bound=ShardReceipt)
R_co = TypeVar("R_co", bound=ShardReceipt, covariant=True)


class Worker(Protocol[R_co]):
    """Works on one shard after another, in one actor; called from `Pool.shards_in_flight` threads at once."""

    def __call__(self, shard: Shard) -> R_co: ...


@dataclass(frozen=True, slots=True)
class Pool:
    """How many actors a stage may have, and what each one needs.

    A stage starts with `min_actors`. Where all of them are busy it grows, at once, to as many as the remaining shards
    fill, `max_actors` and the cluster's resources allow; actors without a shard end when no shard is left to give out.
    """

    min_actors: int = 1
    max_actors: int = 1
    cpus: float = 1
    gpus: float = 0
    """GPUs of one actor, all on one node: whole ones, or a share of one."""
    accelerator_type: str | None = None
    """Ray's name of the only type of GPU that actors run on; None: any."""
    shards_in_flight: int = 1
    """Shards that one actor works on at once, each in its own thread."""
    max_restarts: int = 3
    env: dict[str, str] = field(default_factory=dict)

    def shards_per_actor(self, shards: int) -> int:
        """Shards given to one actor at once: one more than it works on, so that it does not wait for the next one.

        Without the one more where the largest pool works on all shards at once: there no shard waits behind another.
        """
        return self.shards_in_flight + (shards > self.shards_in_flight * self.max_actors)


class ShardActor:
    """A worker in a Ray Data actor: rows of shards in, rows of receipts out. Stacks go to the actor's own log."""

    def __init__(self, make: Callable[[], Worker[ShardReceipt]]) -> None:
        self._failure: Exception | None = None
        try:
            self._worker = make()
        except Exception as failure:  # raised by the first call: Ray drops the message of what a constructor raises
            self._failure = failure

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            if self._failure is not None:
                raise self._failure
            rows = [self._worker(Shard(**json.loads(shard))).as_row() for shard in batch["shard"]]
        except Exception as failure:
            traceback.print_exc()
            raise StageError(CAUSE + in_one_line(failure)) from None
        return {"receipt": [row["receipt"] for row in rows]}


def run_actors(
    label: str,
    make: Callable[[], Worker[R]],
    shards: Sequence[Shard],
    pool: Pool,
    receipt: type[R],
    ends: Callable[[PoolState], bool] | None = None,
) -> Iterator[R]:
    """Run `make()` in an actor pool over the shards; yields receipts of the given class as shards are committed.

    `ends`: asked once a second, in another thread; where it returns True, no other receipt is yielded, and shards may
    be left. Raises StageError with the cause in one line when a worker raises, or dies more often than the pool allows.
    """
    check = StopCheck(ends) if ends else None
    _set_context(check)
    rows = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    with warnings.catch_warnings():  # Ray 2.60 takes bounds on restarts in no other way
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = _mapped(rows, make, pool)
    try:
        for row in dataset.iter_rows():
            yield receipt.from_row(row)
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        if check and check.stopped:
            return
        raise StageError(f"{label}: {cause_of(error)}") from None


def _set_context(check: StopCheck | None) -> None:
    """Ray Data's settings for an execution by this process."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs stacks; the cause is raised, in one line
    for name in ray_private.POOL_LOGGERS:  # a pool that cannot start or grow
        logging.getLogger(name).setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.custom_execution_callback_classes = [check] if check else []
    context.autoscaling_config = AutoscalingConfig(actor_pool_util_upscaling_threshold=FULL)


def _mapped(rows: list[dict[str, str]], make: Callable[[], Worker[R]], pool: Pool) -> ray.data.Dataset:
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map_batches(
        ShardActor,
        fn_constructor_args=(make,),
        batch_size=1,
        compute=ActorPoolStrategy(
            min_size=pool.min_actors,
            max_size=pool.max_actors,
            max_concurrent_calls_per_actor=pool.shards_in_flight,
            max_tasks_in_flight_per_actor=pool.shards_per_actor(len(rows)),
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        **({"accelerator_type": pool.accelerator_type} if pool.accelerator_type else {}),
        max_restarts=pool.max_restarts,
        max_task_retries=pool.max_restarts,
        runtime_env={"env_vars": pool.env},
    )


def actor_id() -> str:
    """Ray's name of the actor that this code runs in, the same after each restart; empty outside of an actor."""
    return (ray.get_runtime_context().get_actor_id() or "") if ray.is_initialized() else ""


def in_one_line(error: BaseException) -> str:
    """An error's message, or its type where it has none; at most 600 characters."""
    return " ".join(str(error).split() or [type(error).__name__])[:600]


def cause_of(error: BaseException) -> str:
    """The message that a worker failed with, or else the last line of Ray's message; at most 600 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    message = next((line for line in lines if CAUSE in line), lines[-1])
    return message.rpartition(CAUSE)[2][:600]


VERIFIER_ENV = {"OMP_NUM_THREADS": "1"}


class Job(Protocol):
    """Work that is known as shards before it runs."""

    def shards(self) -> Sequence[Shard]: ...


J = TypeVar("J", bound=Job)


def run_missing(
    label: str,
    worker: Callable[[Store, tuple[J, ...]], Worker[ShardReceipt]],
    jobs: Sequence[J],
    *,
    store: Store,
    actors: int,
) -> list[ShardReceipt]:
    """Make the missing shards of the jobs in up to `actors` single-threaded actors, with lines of progress.

    The store becomes a run. Each actor calls `worker(store, jobs)` once, and tries a shard again while the store is out
    of reach. Returns one receipt per shard made. Raises StageError.
    """
    shards = missing_shards(store, [shard for job in jobs for shard in job.shards()])
    if not shards:
        return []
    mark_run(store)
    make = partial(_patient, partial(worker, store, tuple(jobs)), label)
    progress = Progress(label, len(shards), "shards")
    receipts = []
    for receipt in run_actors(label, make, shards, Pool(1, actors, env=VERIFIER_ENV), ShardReceipt):
        receipts.append(receipt)
        progress.advance(1)
    return receipts


def _patient(make: Callable[[], Worker[R]], label: str) -> Worker[R]:
    """The worker that `make` makes, which waits for a store that is out of reach. A shard is tried again as a whole."""
    worker = through_outages(make, label)
    return lambda shard: through_outages(lambda: worker(shard), shard.stem)
