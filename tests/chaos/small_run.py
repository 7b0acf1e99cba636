"""A small run without Ray: calls the stages' workers one after another, with a scripted engine.

`run(url)` does only what is missing, as the main job does; `outcome(url)` reads the state of the run.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from rft_ray import config
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import Selector
from rft_ray.corpus.verifier import Verifier
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import CorpusJob, ModelRef, PathJob, SamplingJob, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Completion, from_table
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import Store, mark_run, names, open_store, read_table
from rft_ray.store.shards import Shard, missing_shards

K, PER_BLOCK = 4, 2
PROBLEMS = ProblemSet(tuple(in_order(generate(4, split="train", seed=3, steps=(1, 1)), 0)), 4, "c" * 16)
SETTINGS = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine="scripted")
ENGINE = config.Engine()
MODELS = ("mA", "mB")


def verdict_job(model: str) -> VerdictJob:
    sampling = SamplingJob(
        ModelRef(model, "sft", model * 4), PROBLEMS.fingerprint, PROBLEMS.count, PER_BLOCK, SETTINGS, K, 0
    )
    return VerdictJob(sampling, "paper", "collect")


JOBS = tuple(map(verdict_job, MODELS))
PATHS = PathJob(JOBS, "equations", "as_written")
CORPUS = CorpusJob(PROBLEMS.fingerprint, PROBLEMS.count, PATHS)
ROWS = sum(job.sampling.planned for job in JOBS)


def run(url: str) -> None:
    """Do everything that is missing, stage by stage."""
    store = open_store(url)
    mark_run(store)
    commit_problems(store, PROBLEMS)
    for job in JOBS:
        _work(store, list(job.sampling.shards()), lambda job=job: sampler(store, job.sampling))  # type: ignore[misc]
    _work(store, [shard for job in JOBS for shard in job.shards()], lambda: Verifier(store, JOBS))
    _work(store, PATHS.shards(), lambda: Selector(store, [PATHS]))
    build_corpus(CORPUS, store, PROBLEMS, SETTINGS.prompt)
    store.replace("summary.json", json.dumps(counts(store)).encode())


def sampler(store: Store, job: SamplingJob) -> Sampler:
    return Sampler(store, [job], ENGINE, False, 0)


def _work(store: Store, shards: list[Shard], make: object) -> None:
    if missing := missing_shards(store, shards):
        worker = make()  # type: ignore[operator]
        for shard in missing:
            worker(shard)


def counts(store: Store) -> dict[str, int]:
    """Number of rows that count, by stage."""
    return dict(Counter(key.split("/")[0] for key in names.committed_files(store.list()).values() if "/" in key))


@dataclass(frozen=True)
class Outcome:
    """The state of a run: every file that counts, and how its samples differ from the plan."""

    files: dict[str, object]
    """Key -> rows or bytes of every file that counts; for other files, only that they exist."""
    lost: int
    duplicated: int
    phantom: int


def outcome(url: str) -> Outcome:
    store = open_store(url)
    keys = [key for key in store.list() if "/" in key]
    present = names.committed_files(keys)
    files = dict.fromkeys(keys) | {
        key: read_table(store, key)[0].to_pylist() if ending == "parquet" else store.read(key)
        for (_, ending), key in present.items()
    }
    samples: Counter[tuple[str, str, int]] = Counter()
    for key in present.values():
        if key.startswith("completions/"):
            table, metadata = read_table(store, key)
            name = json.loads(metadata["model"])["name"]
            samples.update((name, row.problem_id, row.sample_index) for row in from_table(table, Completion))
    planned = {(name, p.problem_id, i) for name in MODELS for p in PROBLEMS.problems for i in range(K)}
    return Outcome(
        files,
        lost=len(planned - set(samples)),
        duplicated=sum(count - 1 for count in samples.values()),
        phantom=len(set(samples) - planned),
    )
