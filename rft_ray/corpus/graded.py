"""Committed completions joined with their verdicts: the one reader of graded samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from rft_ray.evaluation.summary import read_summary
from rft_ray.grading import MODES, Mode
from rft_ray.plan.jobs import SamplingJob, VerdictJob, verdicts_fingerprint
from rft_ray.records import Completion, GradedCompletion, Status, from_table
from rft_ray.sampling.stage import SKIPPED
from rft_ray.store import Store, StoreError, read_table
from rft_ray.store.names import committed_files
from rft_ray.store.parquet import content_hash
from rft_ray.store.shards import Shard, committed_key
from rft_ray.store.tables import identity


@dataclass(frozen=True, slots=True)
class Source:
    """Two shards over the same completions: texts and verdicts.

    Example: Source("41…", 3, "9c3f…", "completions/41…/p000003/9c3f….s00000.g0.parquet", "verdicts/…")
    """

    problems_fingerprint: str
    problem_block: int
    completions: str
    completions_key: str
    verdicts_key: str


# --- The run's shards -----------------------------------------------------------------------------


def verified_blocks(store: Store, mode: Mode | None) -> tuple[Mode, list[list[Source]]]:
    """The mode whose verdicts are used, and the shards of each problem block that have them, in order.

    `mode` None: strict where the run has such verdicts, else paper. Raises StoreError where there are none.
    """
    samplers = set(((read_summary(store) or {}).get("samplers") or {}).values())
    completions = _by_block(store, "completions")
    verdicts = _by_block(store, "verdicts")
    for one in [mode] if mode else MODES:
        if found := [block for key in completions if (block := _sources(key, completions, verdicts, one, samplers))]:
            return one, found
    modes = mode or " or ".join(MODES)
    raise StoreError(f"{store.url} has no {modes} verdicts on training problems: name a run that has been verified")


def _by_block(store: Store, stage: str) -> dict[tuple[str, int], dict[str, str]]:
    """(problem set, problem block) -> `<fingerprint>.s<sample block>` -> key, all sorted."""
    blocks: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for (stem, _), key in sorted(committed_files(store.list(f"{stage}/")).items()):
        _, problems_fingerprint, block, name = stem.split("/")
        blocks[problems_fingerprint, int(block.removeprefix("p"))][name] = key
    return dict(blocks)


def _sources(
    block: tuple[str, int],
    completions: Mapping[tuple[str, int], Mapping[str, str]],
    verdicts: Mapping[tuple[str, int], Mapping[str, str]],
    mode: Mode,
    samplers: Collection[str],
) -> list[Source]:
    """The shards of one block that were graded to collect paths; of these samplers only, where any are given."""
    sources = []
    for name, key in completions[block].items():
        sampled, _, sample_block = name.partition(".")
        if samplers and sampled not in samplers:
            continue  # of earlier settings of this run
        graded = verdicts_fingerprint(sampled, mode, "collect")
        if verdict := verdicts.get(block, {}).get(f"{graded}.{sample_block}"):
            sources.append(Source(*block, sampled, key, verdict))
    return sources


@dataclass(frozen=True, slots=True)
class Sampled:
    """One graded sample of a training problem, with what the report needs of it.

    Example: Sampled("tiny-m", 17, "3+2 = …", Status.CORRECT, "", 24, "stop")
    """

    model: str
    sample_index: int
    text: str
    status: Status
    detail: str
    tokens: int
    finish_reason: str


def read_completions(store: Store, job: SamplingJob, shard: Shard) -> tuple[list[Completion], str]:
    """The committed completions that a shard of a later stage stands on, and the hash of their content.

    Raises StoreError where they are missing.
    """
    table, _ = read_table(store, _committed(store, replace(shard, stage="completions", fingerprint=job.fingerprint)))
    return from_table(table, Completion), content_hash(table)


def read_graded(
    store: Store, job: VerdictJob, shard: Shard, made_from: dict[str, str] | None = None
) -> list[tuple[Completion, GradedCompletion]]:
    """Each sampled completion of a verdict shard with its verdict, in order; notes in `made_from` what was read.

    Raises StoreError where one is missing, or where the verdicts are of other completions than those that are there
    now: an engine never repeats itself, so a shard of completions that was made anew needs new verdicts.
    """
    key = _committed(store, shard)
    table, metadata = read_table(store, key)
    samples, content = read_completions(store, job.sampling, shard)
    if metadata["completions"] != content:
        raise StoreError(
            f"{store.url}/{key}: verdicts on other completions than those there are now: run "
            f"`python -m rft_ray.store verify --repair {store.url}`, then the same command again"
        )
    if made_from is not None:
        made_from[shard.stem] = identity(table)
        made_from[replace(shard, stage="completions", fingerprint=job.sampling.fingerprint).stem] = content
    sampled = [row for row in samples if row.finish_reason != SKIPPED]
    return list(zip(sampled, from_table(table, GradedCompletion), strict=True))


def read_verdicts(
    store: Store, job: VerdictJob, problem_block: int | None = None, made_from: dict[str, str] | None = None
) -> list[GradedCompletion]:
    """All committed verdicts of a job, or those of one problem block, in shard order. Raises StoreError."""
    shards = [shard for shard in job.shards() if problem_block in (None, shard.problem_block)]
    return [verdict for shard in shards for _, verdict in read_graded(store, job, shard, made_from)]


def _committed(store: Store, shard: Shard) -> str:
    key = committed_key(store, shard)
    if key is None:
        raise StoreError(f"{store.url}/{shard.stem}: not committed yet; run the stage {shard.stage!r} first")
    return key
