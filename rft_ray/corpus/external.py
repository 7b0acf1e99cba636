"""Completions from files, sampled elsewhere -> a run: completions, verdicts, distinct paths, corpus and summary.

In: completions by model and the gold problems (`rft_ray.data.external`). Each model's rows become the shards of one
sampling job, so that grading, path selection and the corpus read them like completions that this project samples.

Limits: the files' completions are in memory at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rft_ray.corpus import mode_comparison
from rft_ray.corpus.builder import build_corpus, jsonl_line
from rft_ray.corpus.selector import select_paths
from rft_ray.corpus.verifier import verify
from rft_ray.data.external import PER_BLOCK, Foreign, Gold
from rft_ray.data.problems import commit_problems
from rft_ray.grading import Mode
from rft_ray.paths import NormalForm
from rft_ray.plan.jobs import CorpusJob, Dedup, ModelRef, PathJob, SamplingJob, SamplingSettings, VerdictJob
from rft_ray.records import Completion, ReasoningPath, from_table, to_table
from rft_ray.runtime import ray_cluster
from rft_ray.runtime.progress import Progress, Stopwatch
from rft_ray.runtime.ray_cluster import check_shared
from rft_ray.store import Store, commit_table, present, read_table
from rft_ray.store.shards import Shard, committed_key, key_to_write, missing_shards

SAMPLES_PER_BLOCK = 20
MAX_SAMPLE_BLOCKS = 64


def verify_external(
    foreign: Foreign,
    gold: Gold,
    store: Store,
    *,
    source: str,
    files: Sequence[str],
    modes: Sequence[Mode],
    dedup: Dedup,
    normal_form: NormalForm,
    template: str,
    actors: int,
) -> dict[str, Any]:
    """Commit, grade, select and merge what is not committed yet. Returns the summary as written to the store.

    `source` and `files` name the gold and the files of completions in the summary. Raises StageError, StoreError.
    """
    watch = Stopwatch(None)
    with watch.stage("completions") as counts:
        commit_problems(store, gold.problems)
        sampled, counts["new_shards"] = commit(foreign, gold, store, template)
    graded = {mode: tuple(VerdictJob(job, mode, "collect") for job in sampled) for mode in modes}
    selected = {mode: PathJob(graded[mode], dedup, normal_form) for mode in modes}
    grade_and_select(graded, selected, store, actors, watch)
    with watch.stage("corpus"):
        corpora = {mode: merge(job, gold, store, template) for mode, job in selected.items()}
    with watch.stage("summary"):
        summary = {
            "job": "verify",
            "gold": {"source": source, "problems": gold.problems.count},
            "files": list(files),
            "unknown": {"completions": dict(foreign.unknown), "questions": foreign.unknown_questions},
            **mode_comparison.summarize(graded, selected, store),
            "corpus": corpora,
        }
    summary["stages"] = watch.stages
    store.replace("summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
    return summary


def commit(foreign: Foreign, gold: Gold, store: Store, template: str) -> tuple[list[SamplingJob], int]:
    """Commit the files' rows as completion shards. Returns one job per model and the number of new shards."""
    jobs = {model: sampling_job(model, rows, gold, template) for model, rows in foreign.by_model.items()}
    progress = Progress("commit", sum(len(list(job.shards())) for job in jobs.values()), "shards")
    for model, job in jobs.items():
        for _ in commit_completions(job, foreign.by_model[model], gold, store):
            progress.advance(1)
    return list(jobs.values()), progress.done


def grade_and_select(
    graded: Mapping[Mode, Sequence[VerdictJob]],
    selected: Mapping[Mode, PathJob],
    store: Store,
    actors: int,
    watch: Stopwatch,
) -> None:
    """Grade the completions and select their paths; starts Ray only if shards of these stages are missing."""
    jobs = [job for of_mode in graded.values() for job in of_mode]
    planned = [shard for job in jobs for shard in job.shards()]
    planned += [shard for job in selected.values() for shard in job.shards()]
    if missing_shards(store, planned):
        ray_cluster.start_ray()
        check_shared(store)
    with watch.stage("verify") as counts:
        counts["new_shards"] = len(verify(jobs, store, actors))
    with watch.stage("select paths") as counts:
        counts["new_blocks"] = len(select_paths(list(selected.values()), store, actors))


def merge(job: PathJob, gold: Gold, store: Store, template: str) -> dict[str, Any]:
    """Write the training corpus of one mode: gold solutions and paths, or paths alone if gold has no solutions."""
    if gold.solved:
        corpus = CorpusJob(gold.problems.fingerprint, gold.problems.count, job)
        counts = build_corpus(corpus, store, gold.problems, template, job.mode)
        return counts | {"file": present(store, corpus.jsonl_key), "table": present(store, corpus.key)}
    tables = [read_table(store, key)[0] for shard in job.shards() if (key := committed_key(store, shard))]
    rows = [row for table in tables for row in from_table(table, ReasoningPath)]
    key = f"corpus/{job.fingerprint}.jsonl"
    store.create(key, "".join(jsonl_line(row, template) for row in rows).encode())
    return {"gold": 0, "paths": len(rows), "file": key}


def sampling_job(model: str, completions: Sequence[Completion], gold: Gold, template: str) -> SamplingJob:
    """Returns the sampling job of one model's completions; a problem with fewer than k has shorter shards."""
    most = 1 + max(row.sample_index for row in completions)
    per_block = max(min(most, SAMPLES_PER_BLOCK), math.ceil(most / MAX_SAMPLE_BLOCKS))
    content = hashlib.sha256()
    for row in completions:
        content.update(json.dumps([row.problem_id, row.text, row.finish_reason]).encode() + b"\n")
    return SamplingJob(
        model=ModelRef(model, "foreign", content.hexdigest()[:16]),
        problems_fingerprint=gold.problems.fingerprint,
        problems=gold.problems.count,
        problems_per_block=PER_BLOCK,
        settings=SamplingSettings(0.0, 1.0, 0, per_block, template),  # how they were sampled is not known
        samples_per_problem=math.ceil(most / per_block) * per_block,
        seed=0,
    )


def commit_completions(
    job: SamplingJob, completions: Iterable[Completion], gold: Gold, store: Store
) -> Iterator[Shard]:
    """Commit the job's shards that are missing, empty ones too; yields each as it is committed."""
    blocks = _cut(job, completions, gold)
    for shard in missing_shards(store, job.shards()):
        rows = blocks.get((shard.problem_block, shard.sample_block), [])
        if key := key_to_write(store, shard):
            commit_table(store, key, to_table(rows, Completion), _metadata(job, len(rows)))
        yield shard


def _cut(
    job: SamplingJob, completions: Iterable[Completion], gold: Gold
) -> Mapping[tuple[int, int | None], list[Completion]]:
    """(problem block, sample block) -> its completions, in the problems' order."""
    position = {problem.problem_id: at for at, problem in enumerate(gold.problems.problems)}
    blocks: dict[tuple[int, int | None], list[Completion]] = defaultdict(list)
    for row in sorted(completions, key=lambda row: (position[row.problem_id], row.sample_index)):
        sample_block = row.sample_index // job.settings.samples_per_block
        blocks[position[row.problem_id] // job.problems_per_block, sample_block].append(row)
    return blocks


def _metadata(job: SamplingJob, sampled: int) -> dict[str, str]:
    """Returns the shard metadata that a sampler writes; unknown times are zero, so equal rows give equal bytes."""
    return {
        "model": json.dumps(asdict(job.model)),
        "settings": json.dumps(asdict(job.settings)),
        "seconds": "0.000",
        "ended_unix": "0.000",
        "counts": json.dumps({"sampled": sampled, "skipped": 0, "tokens": 0}),
    }
