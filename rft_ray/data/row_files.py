"""Reads the rows of JSON Lines and Parquet files, each row as a mapping. All such files of a user are read here.

In: a local or `s3://` file. Out: (`file:line` or `file: row n`, row), read lazily. Every error names the file and,
where there is one, the line or row and the column.

Limits: an S3 object is held in memory.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rft_ray.config.errors import InputError
from rft_ray.store import NotFound, open_store

JSONL = (".jsonl", ".json-lines")
ROW_FILES = (*JSONL, ".parquet")
_BOM = b"\xef\xbb\xbf"

Row = tuple[str, Mapping[str, Any]]
"""(place, row). Messages about the row start with the place: `data.jsonl:3` or `data.parquet: row 3`."""


class DataError(InputError, ValueError):
    """Data that cannot be used. The message names the file and the line, what is wrong, and what to do."""


def rows(file: str, *, name: str = "", columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a .jsonl or .parquet file. Raises DataError, and StoreError for S3 out of reach.

    `name` replaces the file in places and messages. With `columns`, a Parquet file must have all of these columns, and
    only these are read.
    """
    if not file.endswith(ROW_FILES):
        raise DataError(f"{file}: neither .jsonl nor .parquet: convert it to one of the two")
    with _opened(file) as content:
        if file.endswith(JSONL):
            yield from _jsonl_rows(name or file, content)
        else:
            yield from _parquet_rows(name or file, content, columns)


def text_of(where: str, row: Mapping[str, Any], column: str) -> str:
    """The text in a column of a row. Raises DataError when the column is missing or holds something else."""
    value = row.get(column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be text, not {type(value).__name__}: correct or remove the row")
    return value


def _opened(file: str) -> BinaryIO:
    if file.startswith("s3://"):
        return io.BytesIO(_object(file))
    path = Path(file).expanduser()
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file{_nearest(path)}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}): check path and permissions") from None


def _object(url: str) -> bytes:
    parent, _, name = url.rpartition("/")
    try:
        return open_store(parent).read(name)
    except NotFound:
        raise DataError(f"{url}: there is no such object: check bucket and path") from None
    except ValueError as error:
        raise DataError(f"{url}: {error}") from None


def _nearest(path: Path) -> str:
    """A hint that names the most similar file name in the folder, or an empty string."""
    names = [file.name for file in path.parent.glob("*") if file.suffix] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, 1, 0.5)
    return f"; nearest file there: {nearest[0]}" if nearest else ""


def _jsonl_rows(name: str, lines: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield f"{name}:{number}", _json_object(f"{name}:{number}", text)


def _json_object(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start + 1} of the line: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): write one JSON object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object: write one JSON object per line")
    return row


def _parquet_rows(name: str, content: BinaryIO, columns: Sequence[str]) -> Iterator[Row]:
    number = 0
    try:
        file = pq.ParquetFile(content)
        _check_columns(name, file.schema_arrow.names, columns)
        for batch in file.iter_batches(columns=list(columns) or None):
            for cells in zip(*batch.columns, strict=True):
                number += 1
                where = f"{name}: row {number}"
                yield where, _ParquetRow(where, dict(zip(batch.schema.names, cells, strict=True)))
    except (pa.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise DataError(f"{name}: not readable as Parquet{after} ({error}): copy or write it again") from None


def _check_columns(name: str, names: Sequence[str], required: Sequence[str]) -> None:
    for column in required:
        if column not in names:
            raise DataError(
                f"{name}: no column {column!r}; its columns: {', '.join(names)}: rename the one that holds it"
            )


class _ParquetRow(Mapping[str, Any]):
    """One row. A cell is converted when it is read, so the contents of unused columns cannot cause an error."""

    def __init__(self, where: str, cells: Mapping[str, Any]) -> None:
        self._where = where
        self._cells = cells

    def __getitem__(self, column: str) -> Any:
        try:
            return self._cells[column].as_py()
        except UnicodeDecodeError:
            raise DataError(f"{self._where}: {column!r} is not UTF-8: write the file again from UTF-8 text") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)
