"""Rows of other people's JSON Lines and Parquet files, one dictionary a row, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rft_ray.config.errors import InputError


def rows(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(`file:line`, row) of every row of a local .jsonl or .parquet file, read as it goes. Raises DataError."""
    if not file.endswith((*JSONL, ".parquet")):
        raise DataError(f"{file}: neither .jsonl nor .parquet: convert it to one of the two")
    try:
        yield from _parquet_rows(file) if file.endswith(".parquet") else _jsonl_rows(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}): check path and permissions") from None


def _jsonl_rows(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with Path(file).expanduser().open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}:{number}: not JSON ({error}): write one JSON object a line") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}:{number}: a JSON {type(row).__name__}: write one JSON object a line")
            yield f"{file}:{number}", row


def _parquet_rows(file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    try:
        for batch in pq.ParquetFile(Path(file).expanduser()).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file}: row {number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as Parquet after row {number} ({error})") from None


def text_of(where: str, row: Mapping[str, Any], column: str) -> str:
    """The text in a column of a row. Raises DataError."""
    value = row.get(column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be text, found {type(value).__name__}: correct or remove the row")
    return value


JSONL = (".jsonl", ".json-lines")


class DataError(InputError, ValueError):
    """Data that cannot be used. The message names file and line, what is wrong, and what to do."""
