"""Prepared problem sets: their order, subsets, names and files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.problems import (
    commit_problems,
    in_order,
    prepare,
    read_problems,
    subset_count,
)
from rft_ray.data.row_files import DataError
from rft_ray.store import CorruptShard, NotFound, Store, open_store
from tests.unit.data.problem_rows import Write, row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


# --- Order and subsets ----------------------------------------------------------------------------


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    problems = load_problems("tiny:train:100")
    shuffled = random.Random(1).sample(problems, len(problems))
    assert in_order(shuffled, seed=3) == in_order(problems, seed=3)


def test_another_seed_gives_another_order() -> None:
    problems = load_problems("tiny:train:100")
    assert in_order(problems, seed=1) != in_order(problems, seed=2)


@pytest.mark.parametrize(
    ("limit", "fraction", "count"),
    [
        (None, None, 103),
        (1, None, 10),
        (10, None, 10),
        (11, None, 20),
        (101, None, 103),
        (1000, None, 103),
        (None, 0.01, 10),
        (None, 0.5, 60),
        (None, 1.0, 103),
    ],
)
def test_a_subset_is_whole_blocks_and_at_most_everything(limit: int | None, fraction: float | None, count: int) -> None:
    assert subset_count(103, limit=limit, fraction=fraction, per_block=10) == count


def test_a_fraction_is_read_as_an_exact_decimal() -> None:
    assert subset_count(70, limit=None, fraction=0.1, per_block=7) == 7


# --- Prepared sets --------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_neither_limit_nor_format_nor_row_order(jsonl: Write, parquet: Write) -> None:
    rows = [row(number) for number in range(30)]
    sections = [
        config.ProblemSet(source=jsonl(*rows)),
        config.ProblemSet(source=jsonl(*rows), limit=5),
        config.ProblemSet(source=parquet(*reversed(rows)), fraction=0.5),
    ]
    assert len({prepare(section, 0, 10).fingerprint for section in sections}) == 1


def test_the_fingerprint_depends_on_content_order_and_blocks(jsonl: Write) -> None:
    rows = [row(number) for number in range(30)]
    changed = [*rows[:-1], row(29, answer="29 and 1 make 30\n#### 30")]
    plain = config.ProblemSet(source=jsonl(*rows))
    other = config.ProblemSet(source=jsonl(*changed, name="changed.jsonl"))
    sets = [prepare(plain, 0, 10), prepare(plain, 1, 10), prepare(plain, 0, 15), prepare(other, 0, 10)]
    assert len({problem_set.fingerprint for problem_set in sets}) == 4


def test_the_fingerprint_of_given_problems_never_changes(jsonl: Write) -> None:
    section = config.ProblemSet(source=jsonl(row(1), row(2), row(3)))
    assert prepare(section, 0, 2).fingerprint == "b2ced2ea7de27216"


def test_a_larger_limit_keeps_the_problems_of_a_smaller_one() -> None:
    small, large = (prepare(config.ProblemSet(source="tiny:train:100", limit=limit), 0, 10) for limit in (20, 60))
    assert large.problems[: small.count] == small.problems[: small.count]


def test_committed_problems_are_read_back_in_order(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30", limit=10), 0, 10)
    assert commit_problems(store, problem_set) == f"problems/{problem_set.fingerprint}.parquet"
    assert read_problems(store, problem_set.fingerprint) == problem_set.problems


def test_already_committed_problems_are_not_changed(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30"), 0, 10)
    before = store.read(commit_problems(store, problem_set))
    assert store.read(commit_problems(store, problem_set)) == before


def test_problems_that_were_never_committed_are_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        read_problems(store, "0" * 16)


def test_a_damaged_problems_file_is_named(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30"), 0, 10)
    path = store.local_path(commit_problems(store, problem_set))
    assert path is not None
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptShard, match=problem_set.fingerprint):
        read_problems(store, problem_set.fingerprint)


def test_problems_under_another_sets_name_are_refused(store: Store) -> None:
    problem_set = prepare(config.ProblemSet(source="tiny:train:30"), 0, 10)
    store.create(f"problems/{'0' * 16}.parquet", store.read(commit_problems(store, problem_set)))
    with pytest.raises(DataError, match=f"holds the problem set {problem_set.fingerprint}"):
        read_problems(store, "0" * 16)


def test_the_problems_and_the_name_of_a_set_in_gsm8k_form_never_change(jsonl: Write) -> None:
    """The hash is that of the version that read GSM8K's form only: a saved run finds its files by it."""
    rows = [
        {"question": "Tom has 3 pens and buys 2. How many?", "answer": "3+2 = <<3+2=5>>5\n#### 5"},
        {"question": " Ann earns 1,200 twice. \n", "answer": "1200*2 = <<1200*2=2400>>2400\n#### 2,400 \n"},
        {"question": "Half of 5?", "answer": "5/2 = 2.5\n#### 4\nno\n#### 2.5", "solution": "other", "response": 5},
    ]
    problems = prepare(config.ProblemSet(source=jsonl(*rows)), 0, 50)
    assert problems.fingerprint == "d6fd60285a8f3632"
    assert [problem.answer for problem in problems.problems] == ["2400", "2.5", "5"]
