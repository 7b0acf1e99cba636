"""Padded micro-batches of several workers are as wide as the longest example that one of them has in the pass."""

from __future__ import annotations

from benchmarks.train import FIXED, MAX_TOKENS, PACKED, PADDED, SORTED, contenders, random_examples, widest
from rft_ray.training.batches import plan

LENGTHS = [(5, 10), (5, 40), (5, 20), (5, 30), (5, 15), (5, 25), (5, 35), (5, 45)]


def test_a_pass_waits_for_the_longest_example_of_all_workers() -> None:
    lengths = [total for _, total in LENGTHS]
    passes = [(0, 2), (4, 1), (3, 5), (6, 7)]
    assert widest(passes, lengths, 1) == [(0, 2, 2), (4, 1, 1), (3, 5, 3), (6, 7, 7)]
    assert widest(passes, lengths, 2) == [(0, 2, 1), (3, 5, 7)]


def test_the_first_worker_has_its_part_of_each_step_and_the_widest_rows() -> None:
    examples = random_examples(LENGTHS, 100)
    steps = plan([total for _, total in LENGTHS], 1, 8, 0)
    ways = {way.name: way for way in contenders(examples, steps, 2, 2)}
    rows = {
        name: [way.collate([examples[index] for index in one])["input_ids"].shape for one in way.passes]
        for name, way in ways.items()
    }
    assert [shape[0] for shape in rows[PADDED]] == [2, 2]
    assert max(shape[1] for shape in rows[PADDED]) == 45
    assert rows[FIXED] == [(2, MAX_TOKENS)] * 2
    assert max(shape[1] for shape in rows[SORTED]) == 45
    assert sum(shape[1] for shape in rows[PACKED]) == sum(total for _, total in LENGTHS) // 2
    assert {way.per_step for name, way in ways.items() if name != PACKED} == {2}
