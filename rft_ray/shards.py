"""The plan: which shards each stage of a run must have, and the fingerprints that name them.

A name says what a file *should* hold: the recipe (model files, data, prompt, settings, seed, upstream
names, stage version), never bytes that floating point decides. So the whole plan is known before anything runs,
changed settings never mix with old results, and running again finds everything in its place.

A stage's version in `VERSIONS` is raised by hand when its meaning changes; a golden test guards the names.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

VERSIONS = {
    "problems": 1,
    "model": 1,
    "training": 1,
    "completions": 1,
    "verdicts": 2,
    "paths": 1,
    "corpus": 1,
    "evaluation": 1,
}


def fingerprint(stage: str, **recipe: Any) -> str:
    """16 hex digits that name a recipe: SHA-256 of its canonical JSON with the stage's version."""
    body = json.dumps([stage, VERSIONS[stage], recipe], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


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
        return fingerprint(
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
    return fingerprint("verdicts", completions=completions, mode=mode, purpose=purpose)


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


def committed_keys(keys: Iterable[str]) -> dict[str, str]:
    """Stem -> key of the newest generation that no tombstone voids, from a store's listing.

    A corrupt file of generation g is voided by `<stem>.g<g>.tombstone`; generation g+1 takes its place.
    """
    found: dict[str, dict[int, str]] = {}
    void: set[tuple[str, int]] = set()
    for key in keys:
        stem, generation, ending = _split(key)
        if ending == "tombstone":
            void.add((stem, generation))
        elif ending == "parquet":
            found.setdefault(stem, {})[generation] = key
    chosen = {}
    for stem, generations in found.items():
        alive = [g for g in generations if (stem, g) not in void]
        if alive:
            chosen[stem] = generations[min(alive)]
    return chosen


def next_generation(stem: str, keys: Iterable[str]) -> int:
    """The generation that a missing shard must be written as: one past the newest tombstone."""
    void = [g for s, g, ending in map(_split, keys) if s == stem and ending == "tombstone"]
    return max(void, default=-1) + 1


def _split(key: str) -> tuple[str, int, str]:
    stem, _, rest = key.rpartition(".g")
    generation, _, ending = rest.partition(".")
    return (stem, int(generation), ending) if generation.isdigit() else (key, -1, "")
