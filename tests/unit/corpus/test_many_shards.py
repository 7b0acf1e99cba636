"""Every reader of many shards reads several at once, a bounded number of them, and gives what one by one would."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rft_ray.corpus import external
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.graded import read_block, read_graded_shards, read_verdicts, verified_blocks
from rft_ray.corpus.mode_comparison import account, distinct_paths
from rft_ray.corpus.selector import Selector
from rft_ray.corpus.verifier import Verifier
from rft_ray.data.external import Gold
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.evaluation.stage import evaluate, read_records
from rft_ray.plan.jobs import CorpusJob, EvaluationJob, PathJob, VerdictJob
from rft_ray.sampling.prompt_order import write_in_prompt_order
from rft_ray.store import Store, mark_run, open_store, read_table
from rft_ray.store.shards import READERS, read_ahead, shard_metadata
from rft_ray.store.tables import identity
from tests.chaos.small_run import JOBS, sampler

BLOCKS = 6
PROBLEMS = ProblemSet(tuple(in_order(generate(BLOCKS, split="train", seed=3, steps=(1, 1)), 0)), BLOCKS, "d" * 16)
SAMPLING = replace(
    JOBS[0].sampling,
    problems_fingerprint=PROBLEMS.fingerprint,
    problems=BLOCKS,
    problems_per_block=1,
    samples_per_problem=8,
)
VERDICTS = VerdictJob(SAMPLING, "paper", "collect")
"""6 problem blocks x 4 sample blocks."""
GREEDY = replace(VERDICTS, sampling=replace(SAMPLING, samples_per_problem=2, seed=1))
PATHS = PathJob((VERDICTS,), "equations", "as_written")
EVALUATION = EvaluationJob(SAMPLING.model, "sft", GREEDY, VERDICTS)


class Slow:
    """A store whose first reads wait for each other, ten seconds at most; counts those open at once, and listings."""

    def __init__(self, store: Store) -> None:
        self._store, self._met = store, threading.Condition()
        self._open = self.most = self.listings = 0
        self._waits = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str = "") -> Any:
        self.listings += 1
        return self._store.list(prefix)

    def read(self, key: str) -> bytes:
        with self._met:
            self._open += 1
            self.most = max(self.most, self._open)
            self._met.notify_all()
            self._waits &= self._met.wait_for(lambda: self.most >= 3 or not self._waits, timeout=10)
        data = self._store.read(key)
        with self._met:
            self._open -= 1
        return data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything but a corpus and an evaluation."""
    folder = tmp_path_factory.mktemp("run")
    plain = open_store(str(folder))
    mark_run(plain)
    commit_problems(plain, PROBLEMS)
    for job in (VERDICTS, GREEDY):
        sample, verify = sampler(plain, job.sampling), Verifier(plain, [job])
        for completions, verdicts in zip(job.sampling.shards(), job.shards(), strict=True):
            sample(completions)
            verify(verdicts)
    select = Selector(plain, [PATHS])
    for shard in PATHS.shards():
        select(shard)
    return folder


@pytest.fixture
def store(run: Path, tmp_path: Path) -> Slow:
    shutil.copytree(run, tmp_path / "run")
    return Slow(open_store(str(tmp_path / "run")))


READS: dict[str, Callable[[Any], object]] = {
    "evaluate": lambda store: evaluate(EVALUATION, store),
    "build_corpus": lambda store: build_corpus(CorpusJob(PROBLEMS.fingerprint, BLOCKS, PATHS), store, PROBLEMS, "x"),
    "merge": lambda store: external.merge(PATHS, Gold(PROBLEMS, solved=False), store, "x"),
    "read_block": lambda store: read_block(store, verified_blocks(store, "paper", [])[1][0], {}),
    "read_verdicts": lambda store: list(read_verdicts(store, VERDICTS)),
    "read_graded_shards": lambda store: list(read_graded_shards(store, VERDICTS, VERDICTS.shards())),
    "shard_metadata": lambda store: list(shard_metadata(store, SAMPLING.shards())),
    "distinct_paths": lambda store: distinct_paths(PATHS, store),
    "account": lambda store: account({"paper": VERDICTS}, store),
    "write_in_prompt_order": lambda store: write_in_prompt_order(store, SAMPLING, PROBLEMS.problems),
}


@pytest.mark.parametrize("name", READS)
def test_shards_are_read_several_at_once_and_listed_together(store: Slow, name: str) -> None:
    READS[name](store)
    assert 3 <= store.most <= READERS
    by_block = name in ("account", "write_in_prompt_order")  # they hold one block at a time
    assert store.listings <= (2 * BLOCKS if by_block else 12)


def test_an_evaluation_is_that_of_its_verdicts_read_one_by_one(store: Slow) -> None:
    evaluate(EVALUATION, store)
    keys = [key for stage in ("completions", "verdicts") for key in store.list(f"{stage}/")]
    tables = {key.removesuffix(".g0.parquet"): read_table(store, key)[0] for key in keys}
    made_from = json.loads(read_table(store, EVALUATION.key)[1]["made_from"])
    assert made_from == {stem: identity(table) for stem, table in tables.items()}
    right = Counter({problem.problem_id: 0 for problem in PROBLEMS.problems})
    for stem, table in tables.items():
        if VERDICTS.fingerprint in stem:
            right.update(row["problem_id"] for row in table.to_pylist() if row["status"] == "correct")
    records = read_records(EVALUATION, store)
    assert {record.problem_id: record.samples_right for record in records} == right
    assert 0 < right.total() < SAMPLING.planned


class Alive:
    """Counts its instances."""

    now = most = 0

    def __init__(self) -> None:
        Alive.now += 1
        Alive.most = max(Alive.most, Alive.now)

    def __del__(self) -> None:
        Alive.now -= 1


def test_a_few_results_are_held_at_a_time_however_slow_the_caller_is() -> None:
    for each in read_ahead(lambda _: Alive(), range(60), at_once=4):
        time.sleep(0.002)
        assert isinstance(each, Alive)
    assert Alive.most <= 5  # four, and the caller's own


def test_results_come_in_order_and_an_error_when_its_turn_comes() -> None:
    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return 12 // (number - 7)

    read = read_ahead(work, range(30), at_once=4)
    assert [next(read) for _ in range(7)] == [12 // (number - 7) for number in range(7)]
    with pytest.raises(ZeroDivisionError):
        next(read)
