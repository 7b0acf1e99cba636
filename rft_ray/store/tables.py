"""Arrow tables as committed Parquet files: create-only writes, verified reads, and which files a table was made from.

In: a `pyarrow.Table` and string metadata. Out: a `Receipt` that says whether this call committed the table. The
metadata of a table records the files that it was made from, so that `repair.py` finds those that a damaged file makes
stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from rft_ray.store import parquet
from rft_ray.store.base import CorruptShard, NotFound, Store
from rft_ray.store.names import committed_files, is_numbered, key_past_tombstones, split
from rft_ray.store.outages import through_outages
from rft_ray.store.parquet import content_hash

MADE_FROM = "made_from"
Decoded = TypeVar("Decoded")


def identity(table: pa.Table) -> str:
    """16 hex digits that identify the rows of a table."""
    return content_hash(table)[:16]


def noted(read: Mapping[str, str]) -> dict[str, str]:
    """Metadata that records the files which a table was made from. `read`: stem -> identity or content hash."""
    return {MADE_FROM: json.dumps({stem: content[:16] for stem, content in sorted(read.items())})}


def made_from(metadata: Mapping[str, str]) -> dict[str, str]:
    """The files that `noted` recorded, stem -> identity; empty where the metadata holds no record."""
    return dict(json.loads(metadata.get(MADE_FROM, "{}")))


@dataclass(frozen=True)
class Receipt:
    """What `commit_table` did.

    Example: Receipt("completions/tiny-m/p00000-s000.parquet", 512, 48213, True)
    """

    key: str
    rows: int
    bytes: int
    """Size of the Parquet file."""
    committed_here: bool
    """False where the key was committed before: the file in the store can have other `rows` and `bytes`."""


def present(store: Store, key: str) -> str | None:
    """Key of the committed file that `key` names without a generation; None where it is missing or void."""
    stem, _, ending = split(key)
    return committed_files(store.list(f"{stem}.")).get((stem, ending))


def writable(store: Store, key: str) -> str:
    """Key under which the file that `key` names is created: one generation past its newest tombstone."""
    if is_numbered(key):
        return key
    return key_past_tombstones(key, store.list(f"{split(key)[0]}."))


def commit_table(store: Store, key: str, table: pa.Table, metadata: dict[str, str]) -> Receipt:
    """Commit `table` as one immutable Parquet file; the same table and metadata give the same bytes.

    A key without a generation gets the one that `writable` says. Column types: see `parquet.encode`. Raises ValueError
    for metadata keys that start with `store.`.
    """
    data = parquet.encode(table, metadata)
    key = writable(store, key)
    committed = store.create(key, data)
    return Receipt(key, table.num_rows, len(data), committed)


def commit_through_outages(store: Store, key: str, table: pa.Table, metadata: dict[str, str]) -> Receipt:
    """`commit_table`, tried again while the store cannot be reached: sampling costs more."""
    return through_outages(lambda: commit_table(store, key, table, metadata), key)


def read_table(store: Store, key: str) -> tuple[pa.Table, dict[str, str]]:
    """The table and metadata that `commit_table` committed. Raises NotFound and CorruptShard."""
    return read_file(store, _counting(store, key))


@dataclass(frozen=True, slots=True)
class Part:
    """Some columns of a committed table, its metadata, and the content hash of the whole table.

    Example: Part(pa.table({"finish_reason": ["stop"]}), {"counts": "…"}, "5f0c…")
    """

    table: pa.Table
    metadata: dict[str, str]
    content: str


def read_part(store: Store, key: str, columns: Sequence[str] | None = ()) -> Part:
    """These columns of a committed table; without any, its metadata; None: all columns. The rest is not decoded.

    Raises NotFound and CorruptShard.
    """
    key = _counting(store, key)
    return Part(*_decoded(store, key, lambda data: parquet.decode_columns(data, columns)))


def _counting(store: Store, key: str) -> str:
    """The key of the file that counts. Raises NotFound."""
    numbered = key if is_numbered(key) else present(store, key)
    if numbered is None:
        raise NotFound(f"not found: {key} in {store.url}")
    return numbered


def read_file(store: Store, key: str) -> tuple[pa.Table, dict[str, str]]:
    """As `read_table`, the file under exactly this key, whether or not it counts."""
    return _decoded(store, key, parquet.decode)


def _decoded(store: Store, key: str, decode: Callable[[bytes], Decoded]) -> Decoded:
    """The file under exactly this key, decoded. Raises NotFound and CorruptShard."""
    try:
        return decode(store.read(key))
    except parquet.Damaged as damage:
        raise CorruptShard(
            f"corrupt shard {key} in {store.url}: {damage}. Put an intact copy in its place, or run "
            f"`python -m rft_ray.store verify --repair {store.url}` and then the same command again, which makes "
            "only this shard and the files made from it again"
        ) from damage
