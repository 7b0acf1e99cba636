"""The files of tables: values come back unchanged, equal values have equal bytes, and any damage is found."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_ray.cli.store import main
from rft_ray.records import Completion, GradedCompletion, Problem, ReasoningPath, Status, to_table
from rft_ray.store import CorruptShard, commit_table, mark_run, open_store, parquet, read_table

ROOT = Path(__file__).parents[3]
TABLE = to_table([Completion("5f0c", i, f"3+{i} = <<3+{i}={3 + i}>>", "stop", 61, 24) for i in range(40)], Completion)

text = st.text(max_size=20)
number = st.integers(-(2**63), 2**63 - 1)
graded = st.builds(GradedCompletion, text, number, st.sampled_from(Status), st.none() | text, text)
path = st.builds(
    ReasoningPath, text, text, text, st.lists(text, max_size=3).map(tuple), text, number, number, st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(graded, max_size=6) | st.lists(path, max_size=6), metadata=st.dictionaries(text, text, max_size=3))
def test_tables_are_read_back_unchanged(
    rows: list[GradedCompletion] | list[ReasoningPath], metadata: dict[str, str]
) -> None:
    table = to_table(rows, type(rows[0]) if rows else Problem)  # type: ignore[type-var]
    metadata = {key: value for key, value in metadata.items() if not key.startswith("store.")}
    back, with_metadata = parquet.decode(parquet.encode(table, metadata))
    assert back.equals(table)
    assert back.schema.equals(table.schema, check_metadata=True)
    assert with_metadata == metadata


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(path, min_size=1, max_size=6), cuts=st.lists(st.integers(0, 6), max_size=4))
def test_bytes_do_not_depend_on_chunks(rows: list[ReasoningPath], cuts: list[int]) -> None:
    table = to_table(rows, ReasoningPath)
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    pieces = pa.concat_tables([table.slice(a, b - a) for a, b in itertools.pairwise(edges)])
    assert parquet.content_hash(pieces) == parquet.content_hash(table)
    assert parquet.encode(pieces, {"a": "1"}) == parquet.encode(table, {"a": "1"})


@pytest.mark.parametrize(
    ("values", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ([""], [None]),
        ([["a"], ["b"]], [["a", "b"], []]),
        ([[]], [None]),
        ([[None]], [[""]]),
        ([0.0], [-0.0]),
        ([{"x": 1, "y": None}], [{"x": None, "y": 1}]),
        ([1], [True]),
        ([1], [1.0]),
        (["1"], [b"1"]),
    ],
)
def test_content_hash_differs_for_different_values(values: list[object], other: list[object]) -> None:
    assert parquet.content_hash(pa.table({"a": values})) != parquet.content_hash(pa.table({"a": other}))


def test_content_hash_is_stable() -> None:
    """Committed files hold this hash: with another value here all of them would count as corrupt."""
    table = pa.table({"a": pa.array([1, None], pa.int64()), "b": pa.array([["x", "yz"], []], pa.list_(pa.string()))})
    assert parquet.content_hash(table) == "0dda715daf64fb0b3bff5d02b504af5b4acc035f56fdc5470ea04151697c86ed"


def test_content_hash_ignores_the_bytes_under_a_null() -> None:
    hidden = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\1"), pa.py_buffer(bytes(range(16)))])
    plain = pa.array([hidden[0].as_py(), None], pa.int64())
    assert parquet.content_hash(pa.table({"a": hidden})) == parquet.content_hash(pa.table({"a": plain}))


def test_columns_without_canonical_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="decimal"):
        parquet.encode(pa.table({"a": pa.array([1], pa.decimal128(5))}), {})


def test_reserved_metadata_is_refused() -> None:
    with pytest.raises(ValueError, match=r"store\.rows"):
        parquet.encode(TABLE, {"store.rows": "7"})


def test_text_that_looks_like_a_hash_is_stored_unchanged() -> None:
    sly = "file-sha256:" + "0" * 64
    table = pa.table({"file-sha256:": [sly, "a"]})
    back, metadata = parquet.decode(parquet.encode(table, {"a": sly, sly: sly}))
    assert back.equals(table)
    assert metadata == {"a": sly, sly: sly}


def test_any_parquet_reader_reads_a_table(tmp_path: Path) -> None:
    commit_table(open_store(str(tmp_path)), "t.parquet", TABLE, {"stage": "sampling"})
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == TABLE.to_pylist()
    assert pq.read_metadata(tmp_path / "t.parquet").metadata[b"store.rows"] == b"40"


# --- Damage ---------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_found() -> None:
    data = parquet.encode(TABLE, {"stage": "sampling"})
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << random.randrange(8)
        with pytest.raises(parquet.Damaged):
            parquet.decode(bytes(damaged))


def test_truncation_anywhere_is_found() -> None:
    data = parquet.encode(TABLE, {"stage": "sampling"})
    for length in range(len(data)):
        with pytest.raises(parquet.Damaged):
            parquet.decode(data[:length])


def test_zeroed_pages_are_found() -> None:
    """A file system can leave such a file when it was not synced before a loss of power."""
    data = parquet.encode(TABLE, {"stage": "sampling"})
    for start in range(0, len(data), 512):
        with pytest.raises(parquet.Damaged):
            parquet.decode(data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :])


def test_values_without_the_hash_that_was_committed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's own hash is right: the values differ because this reader, or another writer, read them otherwise."""
    others = parquet.content_hash(TABLE.slice(1))
    with monkeypatch.context() as patched:
        patched.setattr(parquet, "content_hash", lambda table: others)
        data = parquet.encode(TABLE, {"stage": "sampling"})
    with pytest.raises(parquet.Damaged, match="its values do not have the hash"):
        parquet.decode(data)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all" * 100])
def test_foreign_bytes_are_named(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    store.create("a/b.parquet", content)
    with pytest.raises(CorruptShard, match=r"corrupt shard a/b\.parquet in /"):
        read_table(store, "a/b.parquet")


def test_the_command_line_names_what_is_corrupt(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    mark_run(store)
    for block in range(3):
        commit_table(store, f"completions/tiny/p{block}.parquet", TABLE, {})
    damaged = tmp_path / "completions/tiny/p1.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    command = [sys.executable, "-m", "rft_ray.store", "verify", store.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert [line.split(" in ")[0] for line in done.stdout.splitlines()] == [
        "corrupt shard completions/tiny/p1.parquet",
        "3 files read, 1 corrupt, 0 made from what no longer counts",
    ]


def test_verifying_an_empty_store_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark_run(open_store(str(tmp_path)))
    assert main(["verify", str(tmp_path)]) == 2
    assert "no .parquet file in" in capsys.readouterr().err
