"""Reads the rows of data files, each row as a mapping. All such files of a user are read here.

In: a file, a folder or a glob, local or `s3://`: JSON Lines, a JSON array, CSV, TSV (all four also as `.gz` or `.zst`),
Parquet, Arrow IPC (Feather). Out: (place, row), read lazily, files by name. A place is `data.jsonl:3` in a file of
lines and `data.parquet: row 3` in the others. Every error names the file and, where there is one, the line or row and
the column.

An empty cell of a CSV, and one that spells a missing value (NaN, null), is None; its other cells are text. A class
label of a table that `datasets` wrote is its name, as B for the 1 of MMLU's answers.
Limits: an S3 object and a JSON array are held in memory; of a folder, the files directly in it are read.
"""

from __future__ import annotations

import csv
import difflib
import glob
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rft_ray.config.errors import InputError
from rft_ray.store import NotFound, open_store

JSONL = (".jsonl", ".json-lines", ".ndjson")
_TEXT = (*JSONL, ".json", ".csv", ".tsv")
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_ARROW = (".arrow", ".feather", ".ipc")
ROW_FILES = (*_TEXT, *(text + packed for text in _TEXT for packed in _PACKED), ".parquet", *_ARROW)
KINDS = ".jsonl, .json, .csv or .tsv (also with .gz or .zst), .parquet, .arrow or .feather"
"""ROW_FILES as messages list them."""
METADATA = frozenset({"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "metadata.json"})
"""Files that `datasets` writes beside the rows."""
MISSING_TEXTS = frozenset({"", "nan", "NaN", "null", "NULL"})
"""The cells of a CSV that hold no value."""
MAX_CELL_CHARS = 16 << 20
_BOM = b"\xef\xbb\xbf"
_GLOB = re.compile(r"[*?\[]")

Row = tuple[str, Mapping[str, Any]]
"""(place, row). Messages about the row start with the place: `data.jsonl:3` or `data.parquet: row 3`."""
Choose = Callable[[str, Sequence[str]], Sequence[str]]
"""(file, names of its columns) -> the columns to read. May raise DataError."""


class DataError(InputError, ValueError):
    """Data that cannot be used. The message names the file and the line, what is wrong, and what to do."""


def rows(source: str, *, name: str = "", choose: Choose | None = None) -> Iterator[Row]:
    """The rows of a file, of all files of a folder, or of those that a glob matches.

    `name` replaces the file in places and messages. `choose` is asked which columns of a Parquet or Arrow file to read;
    without it, all are read. Raises DataError, and StoreError for S3 out of reach.
    """
    for file in files_of(source):
        with _opened(file) as content:
            yield from _rows_of(file, name or file, content, choose)


def names_rows(source: str) -> bool:
    """Whether a source is written as a file of rows, a folder or a glob; it need not exist."""
    return source.endswith(ROW_FILES) or source.startswith("s3://") or _is_glob(source) or _local(source).is_dir()


def files_of(source: str) -> list[str]:
    """The files of a source: itself, or the files of a folder or glob by name. Raises DataError when there is none."""
    if source.startswith("s3://"):
        return [source] if source.endswith(ROW_FILES) and not _is_glob(source) else _objects_of(source)
    path = _local(source)
    if path.is_dir():
        files = [str(file) for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    elif _is_glob(source) and not path.exists():
        files = [file for file in glob.glob(str(path), recursive=True) if Path(file).is_file()]
    else:
        if not source.endswith(ROW_FILES):
            raise DataError(f"{source}: not a file of rows: convert it to {KINDS}")
        return [source]
    return _with_rows(source, files)


def _with_rows(source: str, files: Iterable[str]) -> list[str]:
    with_rows = sorted(file for file in files if file.endswith(ROW_FILES))
    if chosen := [file for file in with_rows if file.rpartition("/")[2] not in METADATA] or with_rows:
        return chosen
    raise DataError(f"{source}: there is no file of rows: give {KINDS}")


def _objects_of(url: str) -> list[str]:
    """The objects directly under an S3 prefix; with a glob in its last part, those that match."""
    prefix, _, pattern = url.rpartition("/") if _is_glob(url) else (url.rstrip("/"), "", "*")
    if _is_glob(prefix):
        raise DataError(f"{url}: only the last part of an S3 address may be a pattern: give the folder's own name")
    keys = [key for key in open_store(prefix).list() if "/" not in key and fnmatchcase(key, pattern)]
    return _with_rows(url, [f"{prefix}/{key}" for key in keys])


def _is_glob(source: str) -> bool:
    return bool(_GLOB.search(source))


def _local(source: str) -> Path:
    return Path(source).expanduser()


def text_of(where: str, row: Mapping[str, Any], column: str) -> str:
    """The text in a column of a row. Raises DataError when the column is missing or holds something else."""
    value = row.get(column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be text, not {type(value).__name__}: correct or remove the row")
    return value


# --- Files as streams of bytes --------------------------------------------------------------------


def _opened(file: str) -> BinaryIO:
    packed = _PACKED.get(file[file.rfind(".") :])
    content = io.BytesIO(_object(file)) if file.startswith("s3://") else _open_local(file)
    if packed is None:
        return content
    unpacked = pa.CompressedInputStream(pa.PythonFile(content, "r"), packed)
    return io.BufferedReader(unpacked, 1 << 16)


def _open_local(file: str) -> BinaryIO:
    path = _local(file)
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


def _rows_of(file: str, name: str, content: BinaryIO, choose: Choose | None) -> Iterator[Row]:
    """The rows of one open file, by the ending of its name."""
    packed = file.endswith(tuple(_PACKED))
    kind = file.rpartition(".")[0] if packed else file
    if kind.endswith(".parquet"):
        yield from _parquet_rows(name, content, choose)
    elif kind.endswith(_ARROW):
        yield from _arrow_rows(name, content, choose)
    else:
        try:
            yield from _text_rows(kind, name, content)
        except (pa.ArrowException, OSError) as error:
            what = "cannot be unpacked" if packed else "cannot be read"
            raise DataError(f"{name}: {what} ({error}): copy or write it again") from None


def _text_rows(kind: str, name: str, content: BinaryIO) -> Iterator[Row]:
    if kind.endswith(JSONL):
        return _jsonl_rows(name, content)
    if kind.endswith(".json"):
        return _json_rows(name, content)
    return _csv_rows(name, content, "\t" if kind.endswith(".tsv") else ",")


# --- Text -----------------------------------------------------------------------------------------


def _jsonl_rows(name: str, lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield f"{name}:{number}", _json_object(f"{name}:{number}", text)


def _json_object(where: str, line: bytes) -> dict[str, Any]:
    text = _decoded(where, line)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): write one JSON object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object: write one JSON object per line")
    return row


def _decoded(where: str, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start + 1} of the line: save it as UTF-8") from None


def _json_rows(name: str, content: BinaryIO) -> Iterator[Row]:
    """The objects of a JSON array, each with its row and the line that it starts in; or of JSON Lines."""
    lines = content.read().removeprefix(_BOM).splitlines(keepends=True)
    text = "".join(_decoded(f"{name}:{number}", line) for number, line in enumerate(lines, start=1))
    if not text.lstrip().startswith("["):
        yield from _jsonl_rows(name, lines)
        return
    decoder, at, line, number = json.JSONDecoder(), 0, 1, 0
    position = _next(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        number, line, at = number + 1, line + text.count("\n", at, position), position
        where = f"{name}:{line}: row {number}"
        try:
            row, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}): write an array of objects, [{{…}}, {{…}}]") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON {type(row).__name__}, not an object: write an array of objects")
        yield where, row
        position = _next(text, end)
        if text[position : position + 1] not in (",", "]"):
            raise DataError(f"{where}: neither ',' nor ']' comes after it: the array is damaged or cut off")
        position = _next(text, position + 1) if text[position] == "," else position
    if text[position + 1 :].strip():
        raise DataError(f"{name}: text after the end of the array: remove it")


_SPACE = re.compile(r"[ \t\r\n]*")


def _next(text: str, position: int) -> int:
    """The position of the next character that is no white space."""
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches an empty text too


def _csv_rows(name: str, lines: Iterable[bytes], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL_CHARS)
    texts = (
        _decoded(f"{name}:{number}", line.removeprefix(_BOM) if number == 1 else line)
        for number, line in enumerate(lines, start=1)
    )
    reader, header = csv.reader(texts, delimiter=delimiter, strict=True), list[str]()
    while True:
        line = reader.line_num + 1  # a row may span several lines
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}:{line}: not readable as a row ({error}): check its quotes") from None
        if cells is None:
            return
        if len(cells) < 2 and not "".join(cells).strip():
            continue
        if not header:
            header = _header(f"{name}:{line}", cells)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{name}:{line}: {len(cells)} cells where the header has {len(header)}: "
                f"put cells that hold {delimiter!r} or a quote in double quotes"
            )
        yield (
            f"{name}:{line}",
            {
                column: None if cell.strip() in MISSING_TEXTS else cell
                for column, cell in zip(header, cells, strict=True)
            },
        )


def _header(where: str, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if repeated := next((column for column in header if column and header.count(column) > 1), None):
        raise DataError(f"{where}: the header names {repeated!r} twice: rename one of the two columns")
    return header


# --- Tables ---------------------------------------------------------------------------------------


def _parquet_rows(name: str, content: BinaryIO, choose: Choose | None) -> Iterator[Row]:
    number = 0
    try:
        file = pq.ParquetFile(content)
        labels = _class_labels(file.schema_arrow)
        columns = choose(name, file.schema_arrow.names) if choose else None
        for batch in file.iter_batches(columns=columns):
            yield from _batch_rows(name, batch, number, labels)
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(name, "Parquet", number, error) from None


def _arrow_rows(name: str, content: BinaryIO, choose: Choose | None) -> Iterator[Row]:
    """The rows of an Arrow IPC file or stream; `datasets` writes streams."""
    number = 0
    try:
        schema, batches = _batches(content)
        columns = choose(name, schema.names) if choose else schema.names
        for batch in batches:
            yield from _batch_rows(name, batch.select(list(columns)), number, _class_labels(schema))
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(name, "Arrow", number, error) from None


def _batches(content: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        file = pa.ipc.open_file(content)
    except pa.ArrowInvalid:
        content.seek(0)
        stream = pa.ipc.open_stream(content)
        return stream.schema, iter(stream)
    return file.schema, (file.get_batch(index) for index in range(file.num_record_batches))


_Labels = Mapping[str, Sequence[str]]
"""Column -> the names of its classes, which it holds as numbers from 0 on."""


def _class_labels(schema: pa.Schema) -> _Labels:
    """The columns of class labels, as `datasets` describes them in a table's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):  # no metadata, or of another form
        return {}
    return {
        column: [*map(str, feature["names"])]
        for column, feature in features
        if isinstance(feature, dict)  # a list's can be a list
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }


def _batch_rows(name: str, batch: pa.RecordBatch, before: int, labels: _Labels) -> Iterator[Row]:
    """The rows of one batch, with `before` rows of the file before it."""
    for number, cells in enumerate(zip(*batch.columns, strict=True), start=before + 1):
        where = f"{name}: row {number}"
        yield where, _TableRow(where, dict(zip(batch.schema.names, cells, strict=True)), labels)


def _unreadable(name: str, kind: str, number: int, error: Exception) -> DataError:
    after = f" after row {number}" if number else ""
    return DataError(f"{name}: not readable as {kind}{after} ({error}): copy or write it again")


class _TableRow(Mapping[str, Any]):
    """One row. A cell is converted when it is read, so the contents of unused columns cannot cause an error."""

    def __init__(self, where: str, cells: Mapping[str, Any], labels: _Labels) -> None:
        self._where = where
        self._cells = cells
        self._labels = labels

    def __getitem__(self, column: str) -> Any:
        try:
            value = self._cells[column].as_py()
            if column in self._labels and isinstance(value, int):  # -1 is no label
                return self._labels[column][value] if 0 <= value < len(self._labels[column]) else None
            return value
        except UnicodeDecodeError:
            raise DataError(f"{self._where}: {column!r} is not UTF-8: write the file again from UTF-8 text") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)
