"""Keys of generations and tombstones, and which of them count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_ray.store import names as g

KEYS = ("corpus/5f.parquet", "models/5f/manifest.json", "completions/a/p000000/41.s00003.g0.parquet", "t.parquet")


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("a/b.g1.parquet", ("a/b", 1, "parquet")),
        ("a/b.s00003.g12.tombstone", ("a/b.s00003", 12, "tombstone")),
        ("a/b.json", ("a/b", 0, "json")),
        ("a.g1.x/b", ("a.g1.x/b", 0, "")),
        ("a/b.gx.json", ("a/b.gx", 0, "json")),
        ("summary", ("summary", 0, "")),
    ],
)
def test_a_key_is_stem_generation_and_ending(key: str, parts: tuple[str, int, str]) -> None:
    assert g.split(key) == parts


@pytest.mark.parametrize("key", KEYS)
def test_a_tombstone_voids_both_formats_of_its_generation_and_no_other(key: str) -> None:
    stem, _, ending = g.split(key)
    jsonl, tombstone = f"{stem}.jsonl", g.tombstone(key)
    assert g.committed_files([key, jsonl]) == {(stem, ending): key, (stem, "jsonl"): jsonl}
    assert g.committed_files([key, jsonl, tombstone]) == {}
    later = f"{stem}.g1.{ending}"
    assert g.committed_files([key, tombstone, later]) == {(stem, ending): later}
    assert g.committed_files([later, key]) == {(stem, ending): key}


@given(voided=st.integers(0, 5))
def test_a_file_written_after_any_number_of_tombstones_counts(voided: int) -> None:
    keys: list[str] = []
    for _ in range(voided + 1):
        key = g.key_past_tombstones("corpus/5f.parquet", keys)
        assert key not in keys
        keys.append(key)
        assert g.committed_files(keys) == {("corpus/5f", "parquet"): key}
        keys.append(g.tombstone(key))
    assert g.committed_files(keys) == {}


def test_only_the_key_of_a_shard_has_a_generation() -> None:
    assert [g.is_numbered(key) for key in KEYS] == [False, False, True, False]
