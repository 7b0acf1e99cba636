"""Runs the project's stages on Ray in a process that tests kill: `python -m tests.chaos.ray_run JSON`.

In: a `Run` as JSON and RAY_ADDRESS. Out: completions, verdicts, paths and a corpus of two models in the run's folder;
one line on stdout when a stage begins. `outcome` reads a folder's state, `expected` the state that it must have.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rft_ray import config
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import Selector, select_paths
from rft_ray.corpus.verifier import Verifier, verify
from rft_ray.data import base_models
from rft_ray.data.problems import ProblemSet, commit_problems, in_order
from rft_ray.data.tiny.generator import generate
from rft_ray.plan.jobs import CorpusJob, ModelRef, PathJob, SamplingJob, VerdictJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Completion, from_table
from rft_ray.runtime.actor_pool import StageError
from rft_ray.runtime.ray_cluster import check_shared, start_ray
from rft_ray.sampling import quarantine
from rft_ray.sampling.sampler import Sampler
from rft_ray.sampling.stage import sample
from rft_ray.store import mark_run, names, open_store, read_table
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models.folder import files_fingerprint
from rft_ray.store.shards import Shard, missing_shards

PER_BLOCK, SAMPLES_PER_BLOCK = 10, 20
TEMPLATE = "Question: {query}\nAnswer:"
STAGES = ("problems", "sample", "verify", "paths", "corpus", "done")


@dataclass(frozen=True)
class Run:
    """The size of a run, and its number of actors, which does not change the outcome.

    Example: Run("/tmp/run", problems=100, k=80, actors=2)
    """

    folder: str
    problems: int = 100
    k: int = 80
    actors: int = 2
    engine: str = "scripted"

    @property
    def rows(self) -> int:
        return sum(job.sampling.planned for job in self.verdicts)

    @cached_property
    def set(self) -> ProblemSet:
        problems = in_order(generate(self.problems, split="train", seed=3, steps=(1, 2)), 0)
        return ProblemSet(tuple(problems), self.problems, "c" * 16)

    @cached_property
    def verdicts(self) -> tuple[VerdictJob, ...]:
        settings = SamplingSettings(0.7, 1.0, 64, SAMPLES_PER_BLOCK, TEMPLATE, max_model_len=256, engine=self.engine)
        return tuple(
            VerdictJob(
                SamplingJob(ref, self.set.fingerprint, self.problems, PER_BLOCK, settings, self.k, 0),
                "paper",
                "collect",
            )
            for ref in _models(self.engine)
        )

    @property
    def paths(self) -> PathJob:
        return PathJob(self.verdicts, "equations", "as_written")

    @property
    def corpus(self) -> CorpusJob:
        return CorpusJob(self.set.fingerprint, self.problems, self.paths)


def _models(engine: str) -> list[ModelRef]:
    """Two shipped base models, of which the scripted engine uses only the names."""
    if engine == "scripted":
        return [ModelRef(name, "sft", name * 4) for name in ("mA", "mB")]
    sources = {name: f"tiny:{name}" for name in ("tiny-xs", "tiny-s")}
    return [
        ModelRef(name, "base", files_fingerprint(base_models.resolve(source)), source)
        for name, source in sources.items()
    ]


def work(run: Run) -> None:
    """Do everything that is missing, stage by stage, on the connected Ray."""
    store = open_store(run.folder)
    _begin("problems")
    commit_problems(store, run.set)
    _begin("sample")
    sample([job.sampling for job in run.verdicts], store, engine_of(run), run_seed=0)
    _begin("verify")
    verify(run.verdicts, store, run.actors)
    _begin("paths")
    select_paths([run.paths], store, run.actors)
    _begin("corpus")
    build_corpus(run.corpus, store, run.set, TEMPLATE)
    _begin("done")


def engine_of(run: Run) -> config.Engine:
    return config.Engine(
        min_actors=run.actors,
        max_actors=run.actors,
        shards_in_flight=2,
        threads_per_actor=1,
        kv_cache_gib=0.1,
    )


def _begin(stage: str) -> None:
    print(f"stage: {stage}", flush=True)


# --- What it came to ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Hashes of the rows, or bytes, of every file that counts, and how its samples differ from the plan.

    Example: Outcome({"completions/…": "5f…"}, [], 0, 0, 0)
    """

    files: dict[str, str]
    void: list[str]
    """Keys that do not count; a run whose processes only die has none."""
    lost: int
    duplicated: int
    phantom: int


def outcome(run: Run) -> Outcome:
    store = LocalStore(run.folder)  # without the faults of the environment
    # records of failures are not part of the outcome; a shard that they quarantine counts as lost
    keys = [key for key in store.list() if "/" in key and not key.startswith(quarantine.FOLDER)]
    counting = names.committed_files(keys)
    files: dict[str, str] = {}
    samples: Counter[tuple[str, str, int]] = Counter()
    for (_, ending), key in counting.items():
        if ending != "parquet":
            files[key] = hashlib.sha256(store.read(key)).hexdigest()
            continue
        table, metadata = read_table(store, key)
        files[key] = hashlib.sha256(json.dumps(table.to_pylist(), sort_keys=True).encode()).hexdigest()
        if key.startswith("completions/"):
            name = json.loads(metadata["model"])["name"]
            samples.update((name, row.problem_id, row.sample_index) for row in from_table(table, Completion))
    planned = {
        (job.sampling.model.name, problem.problem_id, index)
        for job in run.verdicts
        for problem in run.set.problems
        for index in range(run.k)
    }
    return Outcome(
        files,
        sorted(set(keys) - set(counting.values())),
        lost=len(planned - set(samples)),
        duplicated=samples.total() - len(samples),
        phantom=len(set(samples) - planned),
    )


def alone(run: Run, completions_of: str = "") -> Outcome:
    """The outcome of a run without Ray and faults, made by the stages' workers one after another.

    `completions_of`: a folder whose completions are copied, so that everything else is made from them again.
    """
    store = LocalStore(run.folder)
    mark_run(store)
    commit_problems(store, run.set)
    if completions_of:
        source = LocalStore(completions_of)
        for key in source.list("completions/"):
            store.create(key, source.read(key))
    sampling = [job.sampling for job in run.verdicts]
    workers: list[tuple[Iterable[Shard], Callable[[Shard], object]]] = [
        ([s for job in sampling for s in job.shards()], Sampler(store, sampling, engine_of(run), False, 0)),
        ([s for job in run.verdicts for s in job.shards()], Verifier(store, run.verdicts)),
        (run.paths.shards(), Selector(store, [run.paths])),
    ]
    for shards, worker in workers:
        for shard in missing_shards(store, shards):
            worker(shard)
    build_corpus(run.corpus, store, run.set, TEMPLATE)
    return outcome(run)


def main(argv: Sequence[str]) -> int:
    run = Run(**json.loads(argv[0]))
    start_ray()
    check_shared(LocalStore(run.folder))
    try:
        work(run)
    except StageError as error:
        print(f"error: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
