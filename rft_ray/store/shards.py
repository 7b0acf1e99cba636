"""The plan: which shards each stage of a run must have, and the fingerprints that name them.

A name says what a file *should* hold: the recipe (model files, data, prompt, settings, seed, upstream
names, stage version), never bytes that floating point decides. So the whole plan is known before anything runs,
changed settings never mix with old results, and running again finds everything in its place.

A stage's version in `VERSIONS` is raised by hand when its meaning changes; a golden test guards the names.
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
    """One immutable file of a stage: a problem block, and for sampled stages a sample block."""

    stage: str
    problems_fingerprint: str
    fingerprint: str
    problem_block: int
    problem_start: int
    problem_stop: int
    sample_block: int | None = None

    @property
    def stem(self) -> str:
        """Key of the shard without generation and ending. Shards of one problem block lie side by side."""
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
    """Verified metadata of those of the shards that are committed."""
    shards = list(shards)
    committed: dict[tuple[str, str], str] = {}
    for folder in {shard.folder for shard in shards}:
        committed |= committed_files(store.list(folder))
    keys = [key for shard in shards if (key := committed.get((shard.stem, "parquet")))]
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda key: read_table(store, key)[1], keys)


def missing_shards(store: Store, shards: Iterable[Shard]) -> list[Shard]:
    """The shards that no committed file stands for yet, in order. One paged listing per folder."""
    shards = list(shards)
    committed: dict[tuple[str, str], str] = {}
    for folder in sorted({shard.folder for shard in shards}):
        committed |= committed_files(store.list(folder))
    return [shard for shard in shards if (shard.stem, "parquet") not in committed]


def committed_key(store: Store, shard: Shard) -> str | None:
    """Key of the committed file of one shard, or None."""
    return committed_files(store.list(shard.stem + ".g")).get((shard.stem, "parquet"))


def key_to_write(store: Store, shard: Shard) -> str | None:
    """Asked just before a shard is made: where to commit it, or None when somebody has."""
    keys = list(store.list(shard.stem + ".g"))
    if (shard.stem, "parquet") in committed_files(keys):
        return None
    return shard.key(next_generation(shard.stem, keys))
