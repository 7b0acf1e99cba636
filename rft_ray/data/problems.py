"""Problems of any source -> `Problem` records without repeated questions, in one fixed order, cut into nested subsets.

In: sections of the config, which name a source (`gsm8k:train`, `hub:openai/gsm8k:train`, `tiny:train:600`, files) and
columns. Out: a `ProblemSet`. A row that cannot be used raises DataError with file and line; rows are left out only
where the config asks for it (`problems.duplicates`, `problems.decontaminate`), and are counted.

Limits: a data set is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from rft_ray import config
from rft_ray.data import hub
from rft_ray.data.gold_rows import Columns, marked_answer
from rft_ray.data.leaks import Leak, Overlap
from rft_ray.data.problem_sources import commit_of, dataset_of, deduplicated, placed_problems
from rft_ray.data.row_files import DataError
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.grading.verifiers import GoldReader
from rft_ray.records import Problem, from_table, to_table
from rft_ray.store import Store, commit_table, open_store, present, read_table
from rft_ray.store.names import fingerprint_of
from rft_ray.store.plans import COMMIT


@dataclass(frozen=True, slots=True)
class Dropped:
    """The numbers of rows that were left out of a data set. Example: Dropped(repeated=3, conflicting=2, in_test=1)"""

    repeated: int = 0
    """Rows with question and answer of another row."""
    conflicting: int = 0
    """Rows of the questions that have more than one answer."""
    in_test: int = 0
    """Training problems that contain a test question."""

    def __bool__(self) -> bool:
        return self != Dropped()

    def __str__(self) -> str:
        parts = (
            (self.repeated, "that repeat another row"),
            (self.conflicting, "of questions with conflicting answers"),
            (self.in_test, "that contain a test question"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in parts if count) or "none"


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
    dropped: Dropped = Dropped()
    commit: str = ""
    """The commit of the hub's data set that the problems were read from; empty for other sources."""
    dataset: str = ""
    """`owner/name` of this data set."""
    note: str = ""
    """A line that says that the branch has moved since the run was planned, or which gold answers say more than the
    number that they are graded by; empty where there is nothing to say."""

    @property
    def solved(self) -> int:
        """How many problems of the subset have a worked solution; the others are answer-only."""
        return sum(bool(problem.solution) for problem in self.problems[: self.count])


def prepare(
    section: config.ProblemSet,
    order_seed: int,
    per_block: int,
    *,
    drop: bool = False,
    not_in: Overlap | None = None,
    rules: VerifierSpec = DEFAULT,
    commits: Mapping[str, str] | None = None,
) -> ProblemSet:
    """The problem set of one section of the config, in its order. Raises DataError, and StoreError for S3.

    `drop`: leave out repeated questions (`problems.duplicates`). `not_in`: leave out the problems that contain one of
    these test questions. `rules`: the verifier, which must be able to read every gold answer. `commits`: as
    `recorded_commits` of `store/plans.py` returns it.
    """
    dataset = dataset_of(section.source)
    commit = (commits or {}).get(section.source, "") if dataset else ""
    columns = Columns.named(section.question, section.answer, section.solution, options=rules.name == "choice")
    with nullcontext() if rules.is_gsm8k else GoldReader(rules) as golds:
        partly: list[str] = []
        placed = placed_problems(section.source, columns, golds, commit=commit, note=partly.append)
        read = deduplicated(section.source, placed, drop=drop, golds=golds)
    leaked = {leak.train.problem_id for leak in not_in.leaks(read.problems)} if not_in else set()
    kept = [problem for problem in read.problems if problem.problem_id not in leaked]
    if not kept:
        raise DataError(f"{section.source}: every problem contains a test question: give another training set")
    problems = ordered(kept, order_seed, per_block, rules)
    count = subset_count(problems.count, limit=section.limit, fraction=section.fraction, per_block=per_block)
    dropped = Dropped(read.repeated, read.conflicting, len(leaked))
    newer = hub.newer_commit(dataset, "dataset", commit) if commit else ""
    moved = (
        f"{section.source} is at commit {newer} by now: this run goes on with {commit}, which it was planned with; "
        "start another one to read the new data"
    )
    return replace(
        problems,
        count=count,
        dropped=dropped,
        commit=commit or commit_of(section.source),
        dataset=dataset.partition("@")[0],
        note="; ".join(filter(None, [moved if newer else "", _partly_held(partly)])),
    )


def _partly_held(notes: Sequence[str]) -> str:
    """A line about the gold answers of which problems cannot hold all; empty where there are none."""
    if not notes:
        return ""
    return (
        f"gold answers that are times of day or in two units, and graded as one number each: {len(notes):,} "
        f"(first: {notes[0]}): write the number that the question asks for"
    )


def prepare_sets(
    section: config.Problems, rules: VerifierSpec = DEFAULT, commits: Mapping[str, str] | None = None
) -> tuple[ProblemSet, ProblemSet]:
    """The training set and the test set of a config. Raises DataError, and StoreError for S3 out of reach.

    `rules`: the verifier, which must be able to read every gold answer. `commits`: those that the run has recorded, as
    in `prepare`.
    """
    seed, per_block, drop = section.order_seed, section.per_block, section.duplicates == "drop"
    test = prepare(section.test, seed, per_block, drop=drop, rules=rules, commits=commits)
    not_in = Overlap(test.problems, section.overlap_threshold) if section.decontaminate == "drop" else None
    train = prepare(section.train, seed, per_block, drop=drop, not_in=not_in, rules=rules, commits=commits)
    return train, test


def origins(train: ProblemSet, test: ProblemSet) -> dict[str, str]:
    """What names the data of a plan: fingerprints, and commits where it comes from the hub.

    Example: {"train": "9c41…", "test": "3d5f…", "commit of train": "e53f…"}
    """
    sets = {"train": train, "test": test}
    commits = {f"{COMMIT}{name}": part.commit for name, part in sets.items() if part.commit}
    return {name: part.fingerprint for name, part in sets.items()} | commits


def check_solutions(train: ProblemSet, count: int, otherwise: str = "") -> None:
    """Raises DataError when none of the first `count` training problems has a solution to fine-tune on.

    The only place that asks for worked solutions. `otherwise`: what the message proposes where there are none.
    """
    if not any(problem.solution for problem in train.problems[:count]):
        raise DataError(
            f"problems.train: none of {count:,} training problems has a worked solution, and SFT fine-tunes on "
            f"worked solutions: name their column (problems.train.solution){otherwise}"
        )


def leaks(section: config.Problems, train: ProblemSet, test: ProblemSet) -> list[Leak]:
    """The test questions in the training set; none where the training set was cleaned of them.

    Takes most of a second for GSM8K: `check_separate` and `describe` share its result.
    """
    if section.decontaminate == "drop":
        return []
    return Overlap(test.problems, section.overlap_threshold).leaks(train.problems)


def describe(train: ProblemSet, test: ProblemSet, leaks: Sequence[Leak], threshold: float) -> list[str]:
    """Lines about answer-only problems, dropped rows, and test questions in the training set. Empty when all is well.

    `threshold`: as `problems.overlap_threshold`.
    """
    lines = []
    for name, part in (("train", train), ("test", test)):
        if only := part.count - part.solved:
            lines.append(f"problems.{name}: {only:,} of {part.count:,} problems have an answer and no worked solution")
        if part.note:
            lines.append(f"problems.{name}: {part.note}")
        if part.dropped:
            lines.append(f"problems.{name}: dropped {part.dropped}")
    if leaks:
        exact = {leak.test.problem_id for leak in leaks if leak.exact}
        more = {leak.test.problem_id for leak in leaks} - exact
        first = next((leak for leak in leaks if leak.exact), leaks[0])
        lines.append(
            f"warning: test questions in the training set: {len(exact):,} exactly, and {len(more):,} more with at "
            f"least {threshold:.0%} of their word 8-grams ({first.test.question[:100]!r}): set "
            "problems.decontaminate=drop to leave the training problems that contain them out"
        )
    return lines


def ordered(problems: Iterable[Problem], order_seed: int, per_block: int, rules: VerifierSpec = DEFAULT) -> ProblemSet:
    """The whole of a data set in its order, with its fingerprint.

    `rules`: the verifier that has read the gold answers. The fingerprint holds each answer that the solution does not
    decide: gsm8k takes all answers from solutions, other verifiers need not.
    """
    in_set = tuple(in_order(problems, order_seed))
    content = hashlib.sha256()
    for problem in in_set:
        solution, answer = problem.solution, problem.answer
        decided = solution and (rules.is_gsm8k or marked_answer(solution) == answer)
        gold = [solution] if decided else [solution, answer]
        content.update(json.dumps([problem.problem_id, problem.question, *gold]).encode() + b"\n")
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


def check_separate(test: ProblemSet, leaks: Iterable[Leak]) -> None:
    """Raises DataError where more than half of the test questions are also in the training set."""
    shared = len({leak.test.problem_id for leak in leaks if leak.exact})
    if 2 * shared > len(test.problems):
        raise DataError(
            f"problems.test: {shared:,} of its {len(test.problems):,} questions are in problems.train too, so the "
            "evaluation would say nothing: name a test set of other problems (is the training file given twice?)"
        )


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
