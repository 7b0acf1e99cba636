"""What each stage is asked to do, as pure names: jobs know their fingerprints and their shards, and nothing of Ray.

A job is a frozen dataclass of all that decides its results. Its fingerprint names the files that hold them, so the
whole plan is known before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from rft_ray.config import Recipe
from rft_ray.grading import Mode
from rft_ray.paths import NormalForm
from rft_ray.store.names import fingerprint_of
from rft_ray.store.shards import Shard


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """The training data of one recipe: gold solutions, and the paths of a PathJob where there is one."""

    problems_fingerprint: str
    problems: int
    paths: PathJob | None = None
    max_paths: int | None = None
    """At most so many paths of one problem, gold not counted."""
    as_many_as: CorpusJob | None = None
    """Keep only as many paths, over all problems, as this corpus has, drawn at random; it must be built before."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(
            "corpus",
            problems=self.problems_fingerprint,
            count=self.problems,
            paths=self.paths.fingerprint if self.paths else None,
            max_paths=self.max_paths,
            **({"as_many_as": self.as_many_as.fingerprint} if self.as_many_as else {}),
        )

    @property
    def key(self) -> str:
        return f"corpus/{self.fingerprint}.parquet"

    @property
    def jsonl_key(self) -> str:
        return f"corpus/{self.fingerprint}.jsonl"


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """One model on the test problems: greedy, and k samples where k > 0."""

    model: ModelRef
    setting: str
    """Key in the summary: `icl`, `sft`, `rft`, and with controls `rft_self`, `sft_same_steps`."""
    greedy: VerdictJob
    samples: VerdictJob | None

    @property
    def k(self) -> int:
        return self.samples.sampling.samples_per_problem if self.samples else 0

    @property
    def key(self) -> str:
        name = fingerprint_of(
            "evaluation",
            greedy=self.greedy.fingerprint,
            problems=self.greedy.sampling.problems,
            samples=self.samples.fingerprint if self.samples else None,
            k=self.k,
        )
        return f"evaluation/{name}.parquet"


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


@dataclass(frozen=True)
class TrainingJob:
    """One model to train.

    Example: TrainingJob("tiny-s", "sft", "9c…", "tiny:tiny-s", "training/41….parquet", Recipe(), ALPACA, 0)
    """

    model: str
    """The name that people read."""
    stage: str
    """`sft`, `rft`, …"""
    fingerprint: str
    base: str
    """What `models.resolve` takes."""
    data_key: str
    """Store key of a table with the text columns `question` and `text`, in training order."""
    recipe: Recipe
    template: str
    seed: int
    base_fingerprint: str = ""
    """What `models.files_fingerprint` must say of the base on every node; empty: not asked."""
    same_steps_as: str = ""
    """Store key of another training table: as many optimizer steps are made as the recipe would make on that one, in
    place of the recipe's epochs. Its rows are counted when training begins; the name says only which table."""


Purpose = Literal["collect", "evaluate"]


Dedup = Literal["equations", "none", "random"]
"""Which correct samples are kept: a representative of each equation list; all; or as many as there are lists, drawn."""


@dataclass(frozen=True, slots=True)
class VerdictJob:
    """The verdicts on all samples of one sampling job."""

    sampling: SamplingJob
    mode: Mode
    purpose: Purpose
    """`collect` (exact equality with gold in paper mode) or `evaluate` (within 1e-4)."""
    without: tuple[str, ...] = ()
    """Stems of completions that are quarantined and gone without: what is made of the others has another name."""

    @property
    def fingerprint(self) -> str:
        return verdicts_fingerprint(self.sampling.fingerprint, self.mode, self.purpose)

    def shards(self) -> list[Shard]:
        pairs = zip(self.sampling.shards(), self.sampling.shards("verdicts", self.fingerprint), strict=True)
        return [verdicts for completions, verdicts in pairs if completions.stem not in self.without]

    def past(self, quarantined: Collection[str]) -> VerdictJob:
        """The same job, without its share of these completions."""
        mine = [shard.stem for shard in self.sampling.shards() if shard.stem in quarantined] if quarantined else []
        return replace(self, without=tuple(mine))


@dataclass(frozen=True, slots=True)
class PathJob:
    """The paths chosen from the correct samples of several models, pooled in the order given."""

    verdicts: tuple[VerdictJob, ...]
    dedup: Dedup
    normal_form: NormalForm
    k: int | None = None
    """Only each model's first k samples of a problem; None: all that the verdict jobs have, in whole sample blocks."""

    @property
    def mode(self) -> Mode:
        return self.verdicts[0].mode

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the models whose samples are pooled."""
        return tuple(job.sampling.model.name for job in self.verdicts)

    @property
    def fingerprint(self) -> str:
        lacking = [stem for job in self.verdicts for stem in job.without]
        return fingerprint_of(
            "paths",
            pooled=[[j.sampling.model.name, j.fingerprint, j.sampling.samples_per_problem] for j in self.verdicts],
            dedup=self.dedup,
            normal_form=self.normal_form,
            **({} if self.k is None else {"k": self.k}),
            **({"without": sorted(lacking)} if lacking else {}),
        )

    def shards(self) -> list[Shard]:
        return list(path_shards([job.sampling for job in self.verdicts], self.fingerprint))
