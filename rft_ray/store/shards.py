"""Shards: the immutable files of a stage, and which of them are committed.

In: a store, and the shards that the jobs of a plan list (`rft_ray/plan/jobs.py`). Out: the shards that are missing, the
keys and metadata of those that are committed, and the key under which a missing one is written.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from rft_ray.store.base import Store
from rft_ray.store.names import committed_files, next_generation
from rft_ray.store.tables import read_part


@dataclass(frozen=True, slots=True)
class Shard:
    """One immutable file of a stage: the rows of a problem block and, in sampled stages, of a sample block."""

    stage: str
    problems_fingerprint: str
    fingerprint: str
    problem_block: int
    problem_start: int
    problem_stop: int
    sample_block: int | None = None

    @property
    def stem(self) -> str:
        """Key of the shard without generation and ending. Shards of one problem block are in one folder."""
        sample = "" if self.sample_block is None else f".s{self.sample_block:05d}"
        return f"{self.folder}p{self.problem_block:06d}/{self.fingerprint}{sample}"

    @property
    def folder(self) -> str:
        return f"{self.stage}/{self.problems_fingerprint}/"

    def key(self, generation: int = 0) -> str:
        """Key of the shard's Parquet file in the run's store."""
        return f"{self.stem}.g{generation}.parquet"


Item = TypeVar("Item")
Read = TypeVar("Read")
READERS = 16
"""Files that are read at once. Most of the time of a read is the storage's answer."""


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item], at_once: int = READERS) -> Iterator[Read]:
    """`read` of each item, in order, where `at_once` are read in threads, or wait for the caller, at a time.

    So memory does not grow with the number of items. Raises what `read` raises, when its item's turn comes.
    """
    ahead: deque[Future[Read]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(read, item))
                if len(ahead) == at_once:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def shard_metadata(store: Store, shards: Iterable[Shard]) -> Iterator[dict[str, str]]:
    """Verified metadata of each shard that is committed, in order."""
    return read_ahead(lambda key: read_part(store, key).metadata, committed_keys(store, shards).values())


def missing_shards(store: Store, shards: Iterable[Shard]) -> list[Shard]:
    """The shards that are not committed, in order, each once. One paged listing per folder."""
    shards = list(dict.fromkeys(shards))
    committed = committed_keys(store, shards)
    return [shard for shard in shards if shard.stem not in committed]


def key_to_write(store: Store, shard: Shard) -> str | None:
    """Key to commit a shard under, looked up just before it is made; None where it is committed by now."""
    keys = list(store.list(shard.stem + ".g"))
    if (shard.stem, "parquet") in committed_files(keys):
        return None
    return shard.key(next_generation(shard.stem, keys))


def committed_keys(store: Store, shards: Iterable[Shard]) -> dict[str, str]:
    """Stem -> key of those of the shards that are committed, in order. One paged listing per folder."""
    stems = [(shard.folder, shard.stem) for shard in shards]
    folders: dict[str, list[str]] = defaultdict(list)
    for folder, stem in stems:
        folders[folder].append(stem)
    listed: dict[tuple[str, str], str] = {}
    for wanted in folders.values():
        listed |= committed_files(store.list(os.path.commonprefix(wanted)))  # noqa: RUF071 - keys, not paths
    return {stem: key for _, stem in stems if (key := listed.get((stem, "parquet")))}
