"""The ranks that commit a model divide its files."""

from __future__ import annotations

from rft_ray.training.final_weights import divided


def test_files_are_divided_by_bytes_and_each_is_in_one_part() -> None:
    sizes = {**{f"model-{n}.safetensors": 4_000 for n in range(7)}, "tokenizer.json": 30, "config.json": 1}
    parts = divided(sizes, 4)
    assert sorted(name for part in parts for name in part) == sorted(sizes)
    loads = [sum(sizes[name] for name in part) for part in parts]
    assert max(loads) <= 8_031


def test_more_workers_than_files_leave_some_without() -> None:
    assert divided({"a": 1}, 3) == [["a"], [], []]
