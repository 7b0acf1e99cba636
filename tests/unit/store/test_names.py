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


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_a_generation_is_void_while_it_has_more_tombstones_than_restorations(steps: list[tuple[int, bool]]) -> None:
    files = [f"corpus/5f.g{generation}.parquet" for generation in range(3)]
    keys, void = [*files], [False] * 3
    for generation, to_void in steps:
        if void[generation] != to_void:
            record = (g.tombstone if to_void else g.restoration)(files[generation], keys)
            assert record not in keys
            keys.append(record)
            void[generation] = to_void
    counting = [file for file, is_void in zip(files, void, strict=True) if not is_void]
    assert list(g.committed_files(keys).values()) == counting[:1]
    assert g.next_generation("corpus/5f", keys) == max((at + 1 for at in range(3) if void[at]), default=0)
