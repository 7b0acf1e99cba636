"""Every format of data file gives the same rows, and errors name file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from rft_ray.data import row_files
from rft_ray.data.row_files import DataError, rows
from rft_ray.store import open_store

ROWS = [{"question": 'How "many",\nthen?', "answer": "5"}, {"question": "Wie viele Äpfel?", "answer": "7"}]


def lines(given: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in given)


def array(given: list[dict[str, Any]]) -> bytes:
    return json.dumps(given, indent=2).encode()


def separated(given: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(given[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(given)
    return text.getvalue().encode()


def table(given: list[dict[str, Any]], write: Callable[[pa.Table, Any], object]) -> bytes:
    sink = io.BytesIO()
    write(pa.Table.from_pylist(given), sink)
    return sink.getvalue()


def arrow_stream(content: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content)


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


TEXTS = {"jsonl": lines(ROWS), "json": array(ROWS), "csv": separated(ROWS), "tsv": separated(ROWS, "\t")}
FILES = {
    **TEXTS,
    **{f"{kind}.gz": gzip.compress(content) for kind, content in TEXTS.items()},
    **{f"{kind}.zst": zstd(content) for kind, content in TEXTS.items()},
    "json": array(ROWS),
    "parquet": table(ROWS, pq.write_table),
    "feather": table(ROWS, pyarrow.feather.write_feather),
    "arrow": table(ROWS, arrow_stream),
}


def file(tmp_path: Path, content: bytes, name: str) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


def read(source: str) -> list[dict[str, Any]]:
    return [dict(row) for _, row in rows(source)]


@pytest.mark.parametrize("kind", FILES)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    assert read(file(tmp_path, FILES[kind], f"data.{kind}")) == ROWS


@pytest.mark.parametrize("kind", TEXTS)
def test_a_byte_order_mark_line_ends_and_blank_lines_change_nothing(tmp_path: Path, kind: str) -> None:
    flat = [{**row, "question": row["question"].replace("\n", " ")} for row in ROWS]
    plain = {"jsonl": lines(flat), "json": array(flat), "csv": separated(flat), "tsv": separated(flat, "\t")}[kind]
    windows = plain.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n\r\n")
    assert read(file(tmp_path, b"\xef\xbb\xbf" + windows, f"data.{kind}")) == flat


def test_a_json_file_of_lines_is_read_as_lines(tmp_path: Path) -> None:
    assert read(file(tmp_path, lines(ROWS), "data.json")) == ROWS


@pytest.mark.parametrize("cell", ["", "  ", "NaN", "null"])
def test_a_cell_without_a_value_is_none(tmp_path: Path, cell: str) -> None:
    assert read(file(tmp_path, f"question,answer\na,{cell}\n".encode(), "data.csv")) == [
        {"question": "a", "answer": None}
    ]


@pytest.mark.parametrize("make", [str, lambda folder: f"{folder}/*.*", lambda folder: f"{folder}/"])
def test_a_folder_and_a_glob_are_read_by_name_with_the_file_in_each_place(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    for name, text in {
        "b.csv": "question\nsecond\n",
        "a.jsonl": '{"question": "first"}\n',
        "README.md": "no rows",
    }.items():
        file(tmp_path, text.encode(), name)
    assert [(Path(place).name, row["question"]) for place, row in rows(make(tmp_path))] == [
        ("a.jsonl:1", "first"),
        ("b.csv:2", "second"),
    ]


def test_the_objects_under_a_prefix_are_read_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local store stands for the bucket; a real one is read in tests/integration/test_s3_sources.py."""
    monkeypatch.setattr(row_files, "open_store", lambda url: open_store(str(tmp_path / url.removeprefix("s3://"))))
    bucket = open_store(str(tmp_path / "bucket/data"))
    for key in ("b.jsonl", "a.jsonl", "a.csv", "notes.txt", "deeper/c.jsonl"):
        bucket.create(key, b"question\n1\n" if key.endswith(".csv") else json.dumps({"question": key}).encode())
    places = {url: [place for place, _ in rows(url)] for url in ("s3://bucket/data", "s3://bucket/data/*.jsonl")}
    assert places == {
        "s3://bucket/data": [f"s3://bucket/data/{place}" for place in ("a.csv:2", "a.jsonl:1", "b.jsonl:1")],
        "s3://bucket/data/*.jsonl": [f"s3://bucket/data/{place}" for place in ("a.jsonl:1", "b.jsonl:1")],
    }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.csv", b"question,answer\na,1\n\nb,2,3\n", ":4: 3 cells where the header has 2"),
        ("data.csv", b'question,answer\n"a\nb",1\n"c,2\n', ":4: not readable as a row (unexpected end of data)"),
        ("data.csv", b'question,answer\n"a"b,1\n', ":2: not readable as a row ("),
        ("data.csv", b"question,answer\n\xff,1\n", ":2: not UTF-8 at byte 1"),
        ("data.csv", b"question,question\na,b\n", ":1: the header names 'question' twice"),
        ("data.json", b'[{"a": 1},\n {"a": }]', ":2: row 2: not JSON ("),
        ("data.json", b'[{"a": 1},\n 5]', ":2: row 2: a JSON int, not an object"),
        ("data.json", b'[{"a": 1}', ":1: row 1: neither ',' nor ']' comes after it"),
        ("data.json", b'[{"a": 1}] x', ": text after the end"),
        ("data.json", b'[\n"\xff"]', ":2: not UTF-8 at byte 2"),
        ("data.arrow", b"no arrow", ": not readable as Arrow ("),
        ("data.jsonl.gz", b"no gzip", ": cannot be unpacked ("),
        ("data.jsonl.gz", gzip.compress(lines(ROWS) * 1000)[:-40], ": cannot be unpacked ("),
        ("data.csv.zst", zstd(separated(ROWS) * 1000)[:-20], ": cannot be unpacked ("),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = file(tmp_path, content, name)
    with pytest.raises(DataError) as refusal:
        list(rows(path))
    assert str(refusal.value).startswith(path + said)


@pytest.mark.parametrize("make", [str, lambda folder: f"{folder}/*.json*"])
def test_what_datasets_writes_beside_the_rows_of_a_folder_is_not_read(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    file(tmp_path, b'{"question": "first"}\n', "a.jsonl")
    file(tmp_path, b'{\n  "citation": ""\n}', "dataset_info.json")
    file(tmp_path, b'{"_split": "train"}', "state.json")
    assert [row["question"] for _, row in rows(make(tmp_path))] == ["first"]
    (tmp_path / "a.jsonl").unlink()
    file(tmp_path, b'[{"question": "named so"}]', "state.json")
    (tmp_path / "dataset_info.json").unlink()
    assert [row["question"] for _, row in rows(make(tmp_path))] == ["named so"]


FEATURES = {"answer": {"names": ["A", "B", "C"], "_type": "ClassLabel"}, "n": {"_type": "Value"}}
LABELS = {"info": {"features": FEATURES}}
LISTS = {"info": {"features": {"choices": [{"_type": "Value"}], **FEATURES, "n": {"_type": "ClassLabel"}}}}
"""`datasets` before 4.0 writes the feature of a list as a list."""


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("about", "read"),
    [
        (json.dumps(LABELS), ["B", "A", None, None]),
        (json.dumps(LISTS), ["B", "A", None, None]),
        ("{}", [1, 0, -1, None]),
        ('{"info": []}', [1, 0, -1, None]),
        ('{"info": {"features": {"answer": {"_type": "ClassLabel"}}}}', [1, 0, -1, None]),
    ],
)
def test_a_class_label_is_read_as_its_name(tmp_path: Path, kind: str, about: str, read: list[object]) -> None:
    table = pa.table({"answer": [1, 0, -1, None], "n": [1, 2, 3, 4]}).replace_schema_metadata({"huggingface": about})
    path = tmp_path / f"test.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    assert [row["answer"] for _, row in rows(str(path))] == read
    assert [row["n"] for _, row in rows(str(path))] == [1, 2, 3, 4]


def test_a_folder_without_files_of_rows_is_refused(tmp_path: Path) -> None:
    file(tmp_path, b"text", "README.md")
    for source in (str(tmp_path), f"{tmp_path}/*.csv"):
        with pytest.raises(DataError, match="there is no file of rows: give"):
            list(rows(source))


def test_a_large_compressed_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = file(tmp_path, zstd(b'{"question": "a"}\n' * 100_000), "data.jsonl.zst")
    reader = rows(path)
    assert next(reader)[0].endswith(":1")
    assert sum(1 for _ in reader) == 99_999
