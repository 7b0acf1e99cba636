"""Shards: the immutable files of a stage, and which of them are committed.

In: a store, and the shards that the jobs of a plan list (`rft_ray/plan/jobs.py`). Out: the shards that are missing, the
keys and metadata of those that are committed, and the key under which a missing one is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rft_ray.store.base import Store
from rft_ray.store.names import committed_files, next_generation
from rft_ray.store.tables import read_table


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


READERS = 8


def shard_metadata(store: Store, shards: Iterable[Shard]) -> Iterator[dict[str, str]]:
    """Verified metadata of each shard that is committed, in order."""
    shards = list(shards)
    committed = _committed(store, shards)
    keys = [key for shard in shards if (key := committed.get((shard.stem, "parquet")))]
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda key: read_table(store, key)[1], keys)


def missing_shards(store: Store, shards: Iterable[Shard]) -> list[Shard]:
    """The shards that are not committed, in order. One paged listing per folder."""
    shards = list(shards)
    committed = _committed(store, shards)
    return [shard for shard in shards if (shard.stem, "parquet") not in committed]


def committed_key(store: Store, shard: Shard) -> str | None:
    """Key of the committed file of one shard, or None."""
    return committed_files(store.list(shard.stem + ".g")).get((shard.stem, "parquet"))


def key_to_write(store: Store, shard: Shard) -> str | None:
    """Key to commit a shard under, looked up just before it is made; None where it is committed by now."""
    keys = list(store.list(shard.stem + ".g"))
    if (shard.stem, "parquet") in committed_files(keys):
        return None
    return shard.key(next_generation(shard.stem, keys))


def _committed(store: Store, shards: Iterable[Shard]) -> dict[tuple[str, str], str]:
    """(stem, ending) -> key of every file that counts in the folders of these shards."""
    folders = sorted({shard.folder for shard in shards})
    return {name: key for folder in folders for name, key in committed_files(store.list(folder)).items()}
