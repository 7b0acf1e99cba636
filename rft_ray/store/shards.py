"""The plan: which shards each stage of a run must have, and the fingerprints that name them.

A name says what a file *should* hold: the recipe (model files, data, prompt, settings, seed, upstream
names, stage version), never bytes that floating point decides. So the whole plan is known before anything runs,
changed settings never mix with old results, and running again finds everything in its place.

A stage's version in `VERSIONS` is raised by hand when its meaning changes; a golden test guards the names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from rft_ray.store.base import Store
from rft_ray.store.names import committed_files, fingerprint_of, next_generation
from rft_ray.store.tables import read_table


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """What decides the distribution of one model's samples, and how they are cut into shards."""

    temperature: float
    top_p: float
    max_new_tokens: int
    samples_per_block: int
    prompt: str
    """The prompt template, with {query}."""
    shots: int = 0
    """Worked examples before the question: the first ones of `shots_from`."""
    shots_from: str = ""
    """Fingerprint of the problem set that the worked examples come from."""
    max_model_len: int | None = None
    """Bound of prompt and completion together, in tokens; None: the model's own context."""
    engine: str = "vllm"
    """What answered: the scripted engine's samples must never pass for a model's."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One model of a run. Only the fingerprint is identity; name and stage are for people.

    Example: ModelRef("tiny-m", "sft", "9c3f…", "")
    """

    name: str
    stage: str
    """`base`, `sft`, `rft`, another training's stage, or `foreign`: another sampler's, named by its rows."""
    fingerprint: str
    source: str = ""
    """Where a base model comes from; a fine-tuned one lies in the run's store under its fingerprint."""


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """All samples of one model over one problem set.

    Example: SamplingJob(ModelRef("tiny-m", "sft", "9c…"), "41…", 600, 50, settings, 8, 0)
    has 12 problem blocks x 1 sample block.
    """

    model: ModelRef
    problems_fingerprint: str
    problems: int
    """How many problems of the fixed order: a prefix, in whole blocks unless it is all of them."""
    problems_per_block: int
    settings: SamplingSettings
    samples_per_problem: int
    seed: int

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(
            "completions",
            model=self.model.fingerprint,
            problems=self.problems_fingerprint,
            settings=asdict(self.settings),
            seed=self.seed,
        )

    def shards(self, stage: str = "completions", name: str | None = None) -> Iterator[Shard]:
        """Every shard of this job, by problem block, then sample block."""
        name = self.fingerprint if name is None else name
        for block in range(math.ceil(self.problems / self.problems_per_block)):
            start = block * self.problems_per_block
            stop = min(start + self.problems_per_block, self.problems)
            for sample_block in range(self.samples_per_problem // self.settings.samples_per_block):
                yield Shard(stage, self.problems_fingerprint, name, block, start, stop, sample_block)

    @property
    def planned(self) -> int:
        """Samples that the job must have."""
        return self.problems * self.samples_per_problem


@dataclass(frozen=True, slots=True)
class Shard:
    """One immutable file of a stage: a problem block, and for sampled stages a sample block."""

    stage: str
    problems_fingerprint: str
    fingerprint: str
    problem_block: int
    problem_start: int
    problem_stop: int
    sample_block: int | None = None

    @property
    def stem(self) -> str:
        """Key of the shard without generation and ending. Shards of one problem block lie side by side."""
        sample = "" if self.sample_block is None else f".s{self.sample_block:05d}"
        return f"{self.folder}p{self.problem_block:06d}/{self.fingerprint}{sample}"

    @property
    def folder(self) -> str:
        return f"{self.stage}/{self.problems_fingerprint}/"

    def key(self, generation: int = 0) -> str:
        """Key of the shard's Parquet file in the run's store."""
        return f"{self.stem}.g{generation}.parquet"


def verdicts_fingerprint(completions: str, mode: str, purpose: str) -> str:
    """Names the verdicts on the samples that `completions` names."""
    return fingerprint_of("verdicts", completions=completions, mode=mode, purpose=purpose)


def path_shards(jobs: Sequence[SamplingJob], name: str) -> Iterator[Shard]:
    """One path-selection shard per problem block, over all samples of all jobs."""
    for shard in jobs[0].shards("paths", name):
        if shard.sample_block == 0:
            yield Shard(
                "paths",
                shard.problems_fingerprint,
                name,
                shard.problem_block,
                shard.problem_start,
                shard.problem_stop,
            )


READERS = 8


def shard_metadata(store: Store, shards: Iterable[Shard]) -> Iterator[dict[str, str]]:
    """Verified metadata of those of the shards that are committed."""
    shards = list(shards)
    committed: dict[tuple[str, str], str] = {}
    for folder in {shard.folder for shard in shards}:
        committed |= committed_files(store.list(folder))
    keys = [key for shard in shards if (key := committed.get((shard.stem, "parquet")))]
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda key: read_table(store, key)[1], keys)


def missing_shards(store: Store, shards: Iterable[Shard]) -> list[Shard]:
    """The shards that no committed file stands for yet, in order. One paged listing per folder."""
    shards = list(shards)
    committed: dict[tuple[str, str], str] = {}
    for folder in sorted({shard.folder for shard in shards}):
        committed |= committed_files(store.list(folder))
    return [shard for shard in shards if (shard.stem, "parquet") not in committed]


def committed_key(store: Store, shard: Shard) -> str | None:
    """Key of the committed file of one shard, or None."""
    return committed_files(store.list(shard.stem + ".g")).get((shard.stem, "parquet"))


def key_to_write(store: Store, shard: Shard) -> str | None:
    """Asked just before a shard is made: where to commit it, or None when somebody has."""
    keys = list(store.list(shard.stem + ".g"))
    if (shard.stem, "parquet") in committed_files(keys):
        return None
    return shard.key(next_generation(shard.stem, keys))
