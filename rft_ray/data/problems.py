"""GSM8K and GSM8K-shaped data -> `Problem` records, in one fixed order, cut into nested subsets.

In: a source (`gsm8k:train`, `hub:openai/gsm8k:train`, `tiny:train:600`, a .jsonl or .parquet file on local
disk or S3) whose rows have `question` and `answer`; `answer` is a gold solution that ends in
`#### <final answer>`. Other columns are ignored. Out: problems without duplicates. A bad row raises
DataError with file and line; rows are never skipped.

Limits: a data set is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from rft_ray import config
from rft_ray.data.problem_sources import load_problems
from rft_ray.data.row_files import DataError
from rft_ray.records import Problem, from_table, to_table
from rft_ray.store import Store, commit_table, open_store, present, read_table
from rft_ray.store.names import fingerprint_of


@dataclass(frozen=True)
class ProblemSet:
    """A data set in its fixed order, and the number of its problems that a run uses.

    Example: ProblemSet(<7473 problems>, 500, "9c41…"): the run uses `problems[:500]`.
    """

    problems: tuple[Problem, ...]
    """The whole data set, in the order that `order_seed` fixes."""
    count: int
    """The subset is `problems[:count]`."""
    fingerprint: str
    """Names the whole data set and its cut into blocks; the same for every `count`."""


def prepare(section: config.ProblemSet, order_seed: int, per_block: int) -> ProblemSet:
    """The problem set of one section of the config, in its order. Raises DataError, and StoreError for S3."""
    problems = ordered(load_problems(section.source), order_seed, per_block)
    count = subset_count(problems.count, limit=section.limit, fraction=section.fraction, per_block=per_block)
    return replace(problems, count=count)


def ordered(problems: Iterable[Problem], order_seed: int, per_block: int) -> ProblemSet:
    """The whole of a data set in its order, with its fingerprint."""
    in_set = tuple(in_order(problems, order_seed))
    content = hashlib.sha256()
    for problem in in_set:
        content.update(json.dumps([problem.problem_id, problem.question, problem.solution]).encode() + b"\n")
    name = fingerprint_of("problems", order_seed=order_seed, per_block=per_block, content=content.hexdigest())
    return ProblemSet(in_set, len(in_set), name)


def in_order(problems: Iterable[Problem], seed: int) -> list[Problem]:
    """The one order of a data set: by SHA-256 of seed and id, so it does not depend on the rows' order."""
    return sorted(problems, key=lambda problem: hashlib.sha256(f"{seed}:{problem.problem_id}".encode()).digest())


def subset_count(total: int, *, limit: int | None, fraction: float | None, per_block: int) -> int:
    """How many problems a subset has: `limit` or `fraction * total`, rounded up to whole blocks, at most `total`."""
    wanted = total
    if limit is not None:
        wanted = limit
    elif fraction is not None:
        wanted = math.ceil(Fraction(str(fraction)) * total)  # as written: 0.1 of 70 is 7, not 7.000000000000001
    return min(total, math.ceil(wanted / per_block) * per_block)


def overlap(train: Iterable[Problem], test: Iterable[Problem]) -> list[Problem]:
    """The problems of `test` whose question is in `train` too; case and white space make no difference."""
    known = {_normalised(problem.question) for problem in train}
    return [problem for problem in test if _normalised(problem.question) in known]


def check_separate(train: ProblemSet, test: ProblemSet) -> list[Problem]:
    """The test problems that are also in the training set. Raises DataError where they are more than half of them."""
    shared = overlap(train.problems, test.problems)
    if 2 * len(shared) > len(test.problems):
        raise DataError(
            f"problems.test: {len(shared):,} of its {len(test.problems):,} questions are in problems.train too, so the "
            "evaluation would say nothing: name a test set of other problems (is the training file given twice?)"
        )
    return shared


def commit_problems(store: Store, problem_set: ProblemSet) -> str:
    """Commit the whole data set to a run's store unless it is already there. Returns its key."""
    key = problems_key(problem_set.fingerprint)
    if not present(store, key):
        metadata = {"problems_fingerprint": problem_set.fingerprint}
        commit_table(store, key, to_table(problem_set.problems, Problem), metadata)
    return key


def read_problems(store: Store, fingerprint: str) -> tuple[Problem, ...]:
    """The data set that `commit_problems` committed; read and verified once per process.

    Raises NotFound, CorruptShard, and DataError when the file holds another problem set.
    """
    return _read(store.url, fingerprint)


def problems_key(fingerprint: str) -> str:
    """Key of a problem set's file in a run's store."""
    return f"problems/{fingerprint}.parquet"


@lru_cache(maxsize=8)
def _read(url: str, fingerprint: str) -> tuple[Problem, ...]:
    table, metadata = read_table(open_store(url), problems_key(fingerprint))
    if (stored := metadata.get("problems_fingerprint")) != fingerprint:
        raise DataError(
            f"{problems_key(fingerprint)} in {url} holds the problem set {stored}: move the file away, "
            "then run the same command again"
        )
    return tuple(from_table(table, Problem))


def _normalised(question: str) -> str:
    return " ".join(question.casefold().split())
