"""External completions as shards of a run: committed, graded, selected and merged in the same way as sampled ones."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from rft_ray.corpus.builder import build_corpus, jsonl_line
from rft_ray.corpus.selector import select_paths
from rft_ray.corpus.verifier import verify
from rft_ray.data import external
from rft_ray.data.external import PER_BLOCK, Gold
from rft_ray.grading import Mode
from rft_ray.plan.jobs import CorpusJob, ModelRef, PathJob, SamplingJob, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Completion, ReasoningPath, from_table, to_table
from rft_ray.runtime.progress import Progress, Stopwatch
from rft_ray.store import Store, commit_table, present, read_table
from rft_ray.store.shards import Shard, committed_keys, key_to_write, missing_shards, read_ahead


def sampling_jobs(foreign: external.Foreign, gold: external.Gold, template: str) -> dict[str, SamplingJob]:
    """Model -> a sampling job that stands for the completions of this model in the files."""
    return {model: sampling_job(model, rows, gold, template) for model, rows in foreign.by_model.items()}


def commit(jobs: Mapping[str, SamplingJob], foreign: external.Foreign, gold: external.Gold, store: Store) -> int:
    """Commit the files' completions as shards of these jobs. Returns the number of shards that were missing."""
    progress = Progress("commit", sum(len(list(job.shards())) for job in jobs.values()), "shards")
    for model, job in jobs.items():
        for _ in commit_completions(job, foreign.by_model[model], gold, store):
            progress.advance(1)
    return progress.done


def shards_of(graded: Mapping[Mode, Sequence[VerdictJob]], selected: Mapping[Mode, PathJob]) -> list[Shard]:
    """The verdict shards and path shards of these jobs, which need Ray."""
    shards = [shard for jobs in graded.values() for job in jobs for shard in job.shards()]
    return shards + [shard for job in selected.values() for shard in job.shards()]


def grade_and_select(
    graded: Mapping[Mode, Sequence[VerdictJob]],
    selected: Mapping[Mode, PathJob],
    store: Store,
    actors: int,
    watch: Stopwatch,
) -> None:
    """Make the missing verdicts and paths. Ray must be initialised when any are missing."""
    with watch.stage("verify") as counts:
        counts["new_shards"] = len(verify(list(chain.from_iterable(graded.values())), store, actors))
    with watch.stage("select paths") as counts:
        counts["new_blocks"] = len(select_paths(list(selected.values()), store, actors))


@dataclass(frozen=True, slots=True)
class MergedCorpus:
    """The training corpus of one mode.

    Example: MergedCorpus(100, 190, "corpus/5f0c….jsonl", {"mistral": 120, "llama": 70}, "corpus/5f0c….parquet")
    """

    gold: int
    paths: int
    file: str | None
    """Key of the corpus as JSONL."""
    by_model: dict[str, int] | None = None
    """Model -> its paths; None, like `table`, when gold has no solutions."""
    table: str | None = None
    """Key of the corpus as Parquet."""

    def as_data(self) -> dict[str, object]:
        """The corpus in JSON; without `by_model` and `table` when gold has no solutions."""
        counts = {"gold": self.gold, "paths": self.paths}
        if self.by_model is None:
            return {**counts, "file": self.file}
        return {**counts, "by_model": self.by_model, "file": self.file, "table": self.table}


def merge(job: PathJob, gold: external.Gold, store: Store, template: str) -> MergedCorpus:
    """Write the training corpus of one mode, without gold rows if gold has no solutions."""
    if gold.solved:
        corpus = CorpusJob(gold.problems.fingerprint, gold.problems.count, job)
        counts = build_corpus(corpus, store, gold.problems, template)
        file, table = present(store, corpus.jsonl_key), present(store, corpus.key)
        return MergedCorpus(counts.gold, counts.paths, file, counts.by_model, table)
    tables = read_ahead(lambda key: read_table(store, key)[0], committed_keys(store, job.shards()).values())
    rows = [row for table in tables for row in from_table(table, ReasoningPath)]
    key = f"corpus/{job.fingerprint}.jsonl"
    store.create(key, "".join(jsonl_line(row, template) for row in rows).encode())
    return MergedCorpus(0, len(rows), key)


SAMPLES_PER_BLOCK = 20
"""Samples per shard and problem, as long as MAX_SAMPLE_BLOCKS shards hold them all."""
MAX_SAMPLE_BLOCKS = 64


# --- Shards ---------------------------------------------------------------------------------------


def sampling_job(model: str, completions: Sequence[Completion], gold: Gold, template: str) -> SamplingJob:
    """A sampling job that stands for these completions. Problems with fewer than k samples give shorter shards."""
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
        settings=SamplingSettings(0.0, 1.0, 0, per_block, template),  # the real settings are not known
        samples_per_problem=math.ceil(most / per_block) * per_block,
        seed=0,
    )


def commit_completions(
    job: SamplingJob, completions: Iterable[Completion], gold: Gold, store: Store
) -> Iterator[Shard]:
    """Commit the job's missing shards, including empty ones. Yields each shard once it is committed."""
    blocks = _blocks(job, completions, gold)
    for shard in missing_shards(store, job.shards()):
        rows = blocks.get((shard.problem_block, shard.sample_block), [])
        if key := key_to_write(store, shard):
            commit_table(store, key, to_table(rows, Completion), _metadata(job, len(rows)))
        yield shard


def _blocks(
    job: SamplingJob, completions: Iterable[Completion], gold: Gold
) -> Mapping[tuple[int, int | None], list[Completion]]:
    """(problem block, sample block) -> its completions, in the order of the problems."""
    position = {problem.problem_id: at for at, problem in enumerate(gold.problems.problems)}
    blocks: dict[tuple[int, int | None], list[Completion]] = defaultdict(list)
    for row in sorted(completions, key=lambda row: (position[row.problem_id], row.sample_index)):
        sample_block = row.sample_index // job.settings.samples_per_block
        blocks[position[row.problem_id] // job.problems_per_block, sample_block].append(row)
    return blocks


def _metadata(job: SamplingJob, sampled: int) -> dict[str, str]:
    """Metadata as a sampler writes it for its shard; unknown times are 0, so the same rows give the same metadata."""
    return {
        "model": json.dumps(asdict(job.model)),
        "settings": json.dumps(asdict(job.settings)),
        "seconds": "0.000",
        "ended_unix": "0.000",
        "counts": json.dumps({"sampled": sampled, "skipped": 0, "tokens": 0}),
    }
