"""Comparison of grading modes on the same completions: committed verdicts and paths -> counts and differences.

In: the verdict jobs of one or two modes over the same sampling jobs, and the path jobs made from them. Out: the counts
of statuses per model and mode, and, for two modes, every pair of differing statuses with examples. Everything is read
from the store.

Limits: one problem block of one model is in memory at a time.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from rft_ray.corpus.graded import read_completions, read_verdicts
from rft_ray.data.problems import read_problems
from rft_ray.grading import Mode
from rft_ray.plan.jobs import PathJob, VerdictJob
from rft_ray.records import Completion, GradedCompletion, Status, Verdict
from rft_ray.store import Store
from rft_ray.store.shards import read_ahead, shard_metadata

EXAMPLES = 10
"""Differences shown at most: in total, and kept per model and kind."""


@dataclass(frozen=True, slots=True)
class Example:
    """One completion to which the modes give different statuses.

    Example: Example("mistral", "5f0c…", 3, "Tom has …?", "… #### 5", {"paper": Verdict(…), …})
    """

    model: str
    problem_id: str
    sample_index: int
    question: str
    text: str
    verdicts: dict[Mode, Verdict]


@dataclass(frozen=True, slots=True)
class DistinctPaths:
    """Numbers of distinct correct paths over all problems.

    Example: DistinctPaths(9, {"mistral": 7, "llama": 4}, {"as_written": 9, "multiset": 6})
    """

    union: int
    """Of all models together."""
    by_model: dict[str, int]
    under: dict[str, int]
    """Normal form -> paths of the union under it."""


@dataclass(frozen=True, slots=True)
class ModeCounts:
    """One model's completions under one mode. Example: ModeCounts({"correct": 310, …}, 0.775, 190)"""

    status: dict[str, int]
    """Status -> completions."""
    accepted_share: float
    distinct_paths: int
    partly_read: int = 0
    """Completions with the right answer of whose equations some cannot be read."""


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """One model's completions under each mode. Example: ModelCounts(400, 100, {"strict": ModeCounts(…)})"""

    completions: int
    problems: int
    """Problems with at least one completion."""
    modes: dict[Mode, ModeCounts]


@dataclass(frozen=True, slots=True)
class Differences:
    """The completions to which two modes give different statuses.

    Example: Differences(("paper", "strict"), 4, {"wrong_answer -> correct": 4}, (Example(…), …))
    """

    modes: tuple[Mode, ...]
    completions: int
    by_status: dict[str, int]
    """`<status in the first mode> -> <status in the second>` -> completions."""
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The counts of each mode, and the differences of two modes.

    Example: Comparison({"mistral": ModelCounts(…)}, {"strict": DistinctPaths(…)}, Differences(…))
    """

    ledger: dict[str, ModelCounts]
    distinct_paths: dict[Mode, DistinctPaths]
    differences: Differences


@dataclass
class Account:
    """Counts over one model's completions.

    Example: Account(400, 100, {"strict": Counter({"correct": 310, …})}, Counter({"wrong_answer -> correct": 4}))
    """

    completions: int = 0
    problems: int = 0
    """Number of problems with at least one completion."""
    status: dict[Mode, Counter[str]] = field(default_factory=dict)
    partly_read: Counter[Mode] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    """`<status in the first mode> -> <status in the second>` -> number of completions, for statuses that differ."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """The first few of each kind of difference."""


def account(jobs: Mapping[Mode, VerdictJob], store: Store) -> Account:
    """Count one model's committed verdicts per mode, and their differences. Raises StoreError when some are missing."""
    sampling = next(iter(jobs.values())).sampling
    result = Account(status={mode: Counter() for mode in jobs})
    for block in range(math.ceil(sampling.problems / sampling.problems_per_block)):
        verdicts = {mode: list(read_verdicts(store, job, block)) for mode, job in jobs.items()}
        graded = next(iter(verdicts.values()))
        result.completions += len(graded)
        result.problems += len({row.problem_id for row in graded})
        for mode, rows in verdicts.items():
            result.status[mode].update(str(row.status) for row in rows)
            result.partly_read[mode] += sum(row.is_partly_read for row in rows)
        differing = [pair for pair in zip(*verdicts.values(), strict=True) if len({row.status for row in pair}) > 1]
        if differing:
            _add_differences(result, jobs, block, differing, store)
    return result


def _add_differences(
    result: Account,
    jobs: Mapping[Mode, VerdictJob],
    block: int,
    differing: Sequence[tuple[GradedCompletion, ...]],
    store: Store,
) -> None:
    job = next(iter(jobs.values()))
    texts: dict[tuple[str, int], Completion] = {}
    for rows in differing:
        kind = " -> ".join(row.status for row in rows)
        result.differences[kind] += 1
        shown = result.examples.setdefault(kind, [])
        if len(shown) < EXAMPLES:
            texts = texts or _texts(job, block, store)
            shown.append(_example(job, rows, list(jobs), texts, store))


def _texts(job: VerdictJob, block: int, store: Store) -> dict[tuple[str, int], Completion]:
    shards = [shard for shard in job.shards() if shard.problem_block == block]
    read = read_ahead(lambda shard: read_completions(store, job.sampling, shard)[0], shards)
    rows = chain.from_iterable(read)
    return {(row.problem_id, row.sample_index): row for row in rows}


def _example(
    job: VerdictJob,
    rows: Sequence[GradedCompletion],
    modes: Sequence[Mode],
    texts: Mapping[tuple[str, int], Completion],
    store: Store,
) -> Example:
    row_id = rows[0].problem_id, rows[0].sample_index
    problems = read_problems(store, job.sampling.problems_fingerprint)
    return Example(
        model=job.sampling.model.name,
        problem_id=row_id[0],
        sample_index=row_id[1],
        question=next(problem.question for problem in problems if problem.problem_id == row_id[0]),
        text=texts[row_id].text,
        verdicts={mode: Verdict(row.status, row.answer, row.reason) for mode, row in zip(modes, rows, strict=True)},
    )


def distinct_paths(job: PathJob, store: Store) -> DistinctPaths:
    """Numbers of distinct correct paths over all problems, from the committed selections."""
    by_model = Counter({verdicts.sampling.model.name: 0 for verdicts in job.verdicts})
    under: Counter[str] = Counter()
    union = 0
    for metadata in shard_metadata(store, job.shards()):
        counts = json.loads(metadata["counts"])
        under.update(counts["distinct_under"])
        for names, count in counts["found_by"].items():
            union += count
            by_model.update(dict.fromkeys(names.split("+"), count))
    return DistinctPaths(union, dict(by_model), dict(under))


def summarize(
    graded: Mapping[Mode, Sequence[VerdictJob]], selected: Mapping[Mode, PathJob], store: Store
) -> Comparison:
    """The comparison of the modes, from committed verdicts and paths."""
    distinct = {mode: distinct_paths(job, store) for mode, job in selected.items()}
    accounts: dict[str, Account] = {}
    kinds: Counter[str] = Counter()
    for jobs in zip(*graded.values(), strict=True):
        counted = account(dict(zip(graded, jobs, strict=True)), store)
        accounts[jobs[0].sampling.model.name] = counted
        kinds.update(counted.differences)
    return Comparison(
        ledger={model: _model_counts(model, counted, distinct) for model, counted in accounts.items()},
        distinct_paths=distinct,
        differences=Differences(
            modes=tuple(graded),
            completions=kinds.total(),
            by_status=dict(kinds.most_common()),
            examples=tuple(_chosen(accounts)),
        ),
    )


def _model_counts(model: str, counted: Account, distinct: Mapping[Mode, DistinctPaths]) -> ModelCounts:
    modes = {
        mode: ModeCounts(
            status={str(status): counts[status] for status in Status},
            accepted_share=round(counts[Status.CORRECT] / counted.completions, 6) if counted.completions else 0.0,
            distinct_paths=distinct[mode].by_model[model],
            partly_read=counted.partly_read[mode],
        )
        for mode, counts in counted.status.items()
    }
    return ModelCounts(counted.completions, counted.problems, modes)


def _chosen(accounts: Mapping[str, Account]) -> list[Example]:
    """At most EXAMPLES differences, taken from each model and kind in turn, so that rare kinds are shown too."""
    by_kind = (sorted(counted.examples.items()) for counted in accounts.values())
    groups = [examples for kinds in by_kind for _, examples in kinds]
    turns = chain.from_iterable(zip_longest(*groups))
    return [example for example in turns if example is not None][:EXAMPLES]
