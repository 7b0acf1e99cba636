"""Parquet files that hold hashes of their own content.

In: an Arrow table and metadata. Out: the bytes of one Parquet file, equal for equal input. Its footer holds the row
count, a hash of the values, and a hash of the file (computed with zeros in the place of that hash). `decode` checks the
hash of the file before it parses anything, so it detects every truncation and every flipped bit. Any Parquet reader can
read the files.

Limits: a table is one row group in memory. The bytes can differ between versions of pyarrow; `content_hash` does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS, _CONTENT, _FILE = b"store.rows", b"store.content_sha256", b"store.file_sha256"
_MARK, _BLANK = b"file-sha256:", b"0" * 64


class Damaged(Exception):
    """The bytes are not those that `encode` made. The message says what is wrong with them."""


def encode(table: pa.Table, metadata: dict[str, str]) -> bytes:
    """One Parquet file (zstd) of `table`.

    Columns: text, binary, numbers, booleans, dates and times, and lists or structs of these. Raises TypeError for other
    columns, and ValueError for metadata keys that start with `store.`, which this module uses.
    """
    if reserved := [key for key in metadata if key.startswith("store.")]:
        raise ValueError(f"metadata keys that start with 'store.' are reserved: {', '.join(reserved)}")
    plain = table.replace_schema_metadata(None).combine_chunks()
    footer = {key.encode(): value.encode() for key, value in sorted(metadata.items())}
    footer |= {_ROWS: b"%d" % plain.num_rows, _CONTENT: content_hash(plain).encode(), _FILE: _MARK + _BLANK}
    sink = pa.BufferOutputStream()
    # Non-compliant nested types: a list column keeps its Arrow type, including the name of its items.
    with pq.ParquetWriter(sink, plain.schema, compression="zstd", use_compliant_nested_type=False) as writer:
        writer.write_table(plain)
        writer.add_key_value_metadata(footer)
    head, _, tail = _split(sink.getvalue().to_pybytes())
    return b"".join([head, _file_hash(head, tail), tail])


def decode(data: bytes) -> tuple[pa.Table, dict[str, str]]:
    """The table and metadata that `encode` was given. Raises Damaged."""
    table, metadata, content = decode_columns(data, None)
    if content != content_hash(table):
        raise Damaged("its values do not have the hash that was committed")
    return table, metadata


def decode_columns(data: bytes, columns: Sequence[str] | None) -> tuple[pa.Table, dict[str, str], str]:
    """These columns (None: all) of the table that `encode` was given, its metadata, and its content hash as recorded.

    The values are not hashed: the hash of the file shows that they and the recorded hash are those that were committed.
    Raises Damaged.
    """
    head, declared, tail = _split(data)
    if _file_hash(head, tail) != declared:
        raise Damaged("its bytes do not have the hash that it holds (truncated or altered)")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        footer: dict[bytes, bytes] = dict(file.metadata.metadata)
        table: pa.Table = file.read(columns=columns).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"not readable as Parquet ({error})") from error
    rows = table.num_rows if table.column_names else file.metadata.num_rows
    if footer.get(_ROWS) != b"%d" % rows:
        raise Damaged(f"{rows} rows, but {footer.get(_ROWS, b'?').decode()} were committed")
    own = {_ROWS, _CONTENT, _FILE, b"ARROW:schema"}
    metadata = {key.decode(): value.decode() for key, value in footer.items() if key not in own}
    return table, metadata, footer.get(_CONTENT, b"").decode()


def content_hash(table: pa.Table) -> str:
    """SHA-256, 64 hex digits, of the columns' names, types and values.

    Independent of chunks, of metadata, and of how Arrow lays the values out in memory.
    """
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name!r} {len(column)} ".encode())
        _feed(digest, column.chunks, column.type)
    return digest.hexdigest()


def _split(data: bytes) -> tuple[memoryview, bytes, memoryview]:
    """A file's bytes before its own hash, that hash (64 hex digits), and the bytes after it."""
    start = data.rfind(_MARK) + len(_MARK)
    end = start + len(_BLANK)
    if start < len(_MARK) or len(data) < end:
        raise Damaged("it holds no hash of itself (truncated, empty, or not written by this program)")
    return memoryview(data)[:start], data[start:end], memoryview(data)[end:]


def _file_hash(head: memoryview, tail: memoryview) -> bytes:
    """SHA-256 of a file with its own hash blanked, as hex digits."""
    digest = hashlib.sha256(head)
    digest.update(_BLANK)
    digest.update(tail)
    return digest.hexdigest().encode()


def _feed(digest: hashlib._Hash, chunks: list[pa.Array], kind: pa.DataType) -> None:
    """Add one column to `digest`: first which values are null, then the values that are not."""
    for chunk in chunks:
        digest.update(chunk.is_valid().to_numpy(zero_copy_only=False).tobytes())
    dense = [chunk.drop_null() for chunk in chunks]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _feed(digest, [chunk.value_lengths() for chunk in dense], pa.int32())
        _feed(digest, [chunk.flatten() for chunk in dense], kind.value_type)
    elif pa.types.is_struct(kind):
        for index, field in enumerate(kind):
            digest.update(repr(field.name).encode())
            _feed(digest, [chunk.field(index) for chunk in dense], field.type)
    else:
        _feed_plain(digest, dense, kind)


def _feed_plain(digest: hashlib._Hash, chunks: list[pa.Array], kind: pa.DataType) -> None:
    """Add values that are neither null nor nested: their type and bytes; for text, the lengths come first."""
    digest.update(str(kind).encode())
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        values = [chunk.cast(pa.large_binary()).to_pylist() for chunk in chunks]
        for texts in values:
            digest.update(b"".join(len(text).to_bytes(8, "little") for text in texts))
        for texts in values:
            digest.update(b"".join(texts))
        return
    for chunk in chunks:
        array = chunk.to_numpy(zero_copy_only=False)
        if array.dtype.hasobject and len(array):
            raise TypeError(f"a column of type {kind} cannot be committed: use text, numbers, lists or structs")
        digest.update(array.tobytes())
