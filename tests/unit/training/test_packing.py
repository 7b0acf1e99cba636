"""Packed rows: every example once, within the budget, the same for every attempt, and the workers' shares balanced."""

from __future__ import annotations

import random
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_ray.config import Recipe, Training
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import commit_table, mark_run
from rft_ray.store.backends.local import LocalStore
from rft_ray.training.batches import Plan, plan
from rft_ray.training.packing import divide, pack, useful_share
from rft_ray.training.trainer import Group
from rft_ray.training.worker import _prepare

lengths = st.lists(st.integers(2, 40), min_size=1, max_size=70)
workers = st.sampled_from([1, 2, 3, 8])
budgets = st.sampled_from([40, 64, 300])


def word_problems(count: int) -> list[int]:
    """Lengths of examples with the mean and the spread of GSM8K's, in tokens: about 215, and between 90 and 512."""
    numbers = random.Random(0)
    return [min(512, max(90, round(numbers.lognormvariate(5.32, 0.3)))) for _ in range(count)]


@given(lengths, workers, budgets, st.integers(1, 3))
def test_each_step_keeps_its_examples_whole_and_once(sizes: list[int], count: int, budget: int, epochs: int) -> None:
    unpacked = plan(sizes, epochs, 8, 0)
    steps = pack(unpacked, sizes, count, budget)
    assert [sorted(chain.from_iterable(rows)) for rows in steps] == [sorted(step) for step in unpacked.steps]


@given(lengths, workers, budgets)
def test_no_row_exceeds_the_budget_and_all_steps_have_as_many(sizes: list[int], count: int, budget: int) -> None:
    steps = pack(plan(sizes, 2, 8, 0), sizes, count, budget)
    assert max(sum(sizes[index] for index in row) for rows in steps for row in rows) <= budget
    assert len({len(rows) for rows in steps}) == 1
    assert len(steps[0]) % count == 0


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="example of 41 tokens is longer than a row of 40"):
        pack(plan([3, 41], 1, 2, 0), [3, 41], 1, 40)


def test_no_more_passes_than_the_fullest_step_needs() -> None:
    sizes = word_problems(2000)
    unpacked = plan(sizes, 1, 128, 0)
    fullest = max(sum(sizes[index] for index in step) for step in unpacked.steps)
    for count, budget in ((1, 2048), (2, 4096), (8, 2048)):
        passes = len(pack(unpacked, sizes, count, budget)[0]) // count
        assert (passes - 2) * count * budget < fullest <= passes * count * budget


@pytest.mark.parametrize(("count", "examples"), [(1, 4), (2, 8), (8, 4), (16, 16), (32, 8)])
def test_of_word_problems_98_percent_of_the_tokens_computed_are_useful(count: int, examples: int) -> None:
    sizes = word_problems(2048)
    settings, recipe = Training(workers=count, micro_batch_size=examples), Recipe(batch_size=128, max_tokens=512)
    unpacked = plan(sizes, 2, 128, 0)
    assert divide(unpacked, sizes, settings, recipe, rank=0, attention="x").useful >= 0.98


@pytest.mark.parametrize("count", [2, 8, 16])
def test_no_worker_gets_more_tokens_than_another(count: int) -> None:
    sizes = word_problems(2048)
    steps = pack(plan(sizes, 2, 128, 0), sizes, count, 2048)
    shares = [[sum(sizes[i] for i in row) for rows in steps for row in rows[rank::count]] for rank in range(count)]
    assert max(map(sum, shares)) <= 1.005 * min(map(sum, shares))
    for together in zip(*shares, strict=True):
        assert max(together) - min(together) <= 0.02 * max(together)


def test_rows_depend_only_on_plan_lengths_and_workers() -> None:
    sizes = word_problems(300)
    assert pack(plan(sizes, 2, 32, 5), sizes, 2, 1024) == pack(plan(sizes, 2, 32, 5), sizes, 2, 1024)
    assert pack(plan(sizes, 2, 32, 5), sizes, 2, 1024) != pack(plan(sizes, 2, 32, 6), sizes, 2, 1024)


@given(lengths, st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_the_workers_passes_are_the_steps(sizes: list[int], count: int, packed: bool) -> None:
    unpacked = plan(sizes, 2, 8, 0)
    settings, recipe = Training(workers=count, micro_batch_size=2), Recipe(batch_size=8, max_tokens=40)
    attention = "x" if packed else ""
    divisions = [divide(unpacked, sizes, settings, recipe, rank=rank, attention=attention) for rank in range(count)]
    per_step = {division.per_step for division in divisions}.pop()
    seen = []
    for start in range(0, len(divisions[0].passes), per_step):
        rows = chain.from_iterable(division.passes[start : start + per_step] for division in divisions)
        seen.append(sorted(chain.from_iterable(rows)))
    assert seen == [sorted(step) for step in unpacked.steps]
    assert {division.rows for division in divisions} == {1} if packed else {1, 2}


def test_padding_and_waiting_are_not_useful() -> None:
    sizes = [10, 6, 4]
    assert useful_share([[(0,)], [(1, 2)]], sizes, padded=False) == 1.0
    assert useful_share([[(0,)], [(1, 2)]], sizes, padded=True) == pytest.approx(20 / 24)
    assert useful_share([[(0, 1)], [(2,)]], sizes, padded=False) == pytest.approx(20 / 32)
    assert useful_share([[(0,), (1,)], [(2,), ()]], sizes, padded=False) == pytest.approx(20 / 32)


def test_a_step_with_fewer_examples_than_workers_leaves_empty_rows() -> None:
    steps = pack(Plan(((0, 1, 2), (3,)), 3), [5, 5, 5, 5], 3, 10)
    assert sorted(map(len, steps[1])) == [0, 0, 1]


def test_a_row_holds_examples_as_long_as_the_models_context_where_the_recipe_allows_longer_ones(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    store = LocalStore(tmp_path / "store")
    mark_run(store)
    rows = pa.table({"question": ["?"] * 16, "text": ["1+" * 200] * 16})
    commit_table(store, "training/rows.parquet", rows, {})
    group = Group("a", store, Training(micro_batch_size=2, packing="on"), False, None, 0, 0, 1)
    recipe = Recipe(batch_size=16, max_tokens=4096)
    job = TrainingJob("tiny", "sft", "a" * 16, "tiny:tiny-xs", "training/rows.parquet", recipe, "{query}", 0)
    task = _prepare(group, job)
    assert min(len(example.tokens) for example in task.examples) > 256
    row = max(sum(len(task.examples[index].tokens) for index in row) for row in task.division.passes)
    assert row <= 2 * 512, "the context of the model is 512 tokens"
