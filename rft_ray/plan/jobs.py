"""The jobs of the stages: frozen dataclasses with fingerprints and shards, without Ray.

A job holds everything that decides its results. Its fingerprint names the files with these results, so all names of a
plan are known before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rft_ray.config import Recipe
from rft_ray.grading import Mode, judging
from rft_ray.grading.reasoning import Reasoning
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.paths import NormalForm
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.store.names import FIRST_STRICT_RULES, FIRST_VERIFIER_RULES, VERSIONS, fingerprint_of
from rft_ray.store.shards import Shard


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """One training corpus: the gold solutions, and the paths of a PathJob if it has one."""

    problems_fingerprint: str
    problems: int
    paths: PathJob | None = None
    max_paths: int | None = None
    """At most so many paths per problem, without gold."""
    as_many_as: CorpusJob | None = None
    """Keep as many paths over all problems as this corpus has, drawn at random; that corpus is built first."""
    gold_mode: Mode = "paper"
    """The mode that reads the equations of gold solutions in a corpus without paths; with paths it is theirs."""
    gold: bool = True
    """Whether the gold solutions are in it."""

    @property
    def mode(self) -> Mode:
        """The mode that reads the equations of all rows."""
        return self.paths.mode if self.paths else self.gold_mode

    @property
    def fingerprint(self) -> str:
        """Identifies the texts to train on. Without paths they are the same in both modes, and so is an SFT model."""
        return fingerprint_of("corpus", **self._texts())

    @property
    def _stem(self) -> str:
        """Names the files. They hold equations too; those of paper mode keep the name that they had without a mode."""
        read_by: dict[str, object] = {}
        if self.paths:
            read_by = self.paths.rules_of_equations
        elif self.gold_mode != "paper":
            read_by = {"gold_mode": self.gold_mode, **strict_rules(self.gold_mode)}
        return f"corpus/{fingerprint_of('corpus', **self._texts(), **read_by)}"

    def _texts(self) -> dict[str, object]:
        return {
            "problems": self.problems_fingerprint,
            "count": self.problems,
            "paths": self.paths.texts_fingerprint if self.paths else None,
            "max_paths": self.max_paths,
            **({"limited": "correct first"} if self.max_paths and self.paths and self.paths.accepted else {}),
            **({"as_many_as": self.as_many_as.fingerprint} if self.as_many_as else {}),
            **({} if self.gold else {"gold": False}),
        }

    @property
    def key(self) -> str:
        return f"{self._stem}.parquet"

    @property
    def jsonl_key(self) -> str:
        return f"{self._stem}.jsonl"


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """One model on the test problems: one greedy answer per problem, and k samples where k > 0."""

    model: ModelRef
    setting: str
    """Key in the summary: `icl`, `base` (where the model is not fine-tuned on gold), `sft`, `rft`, and with controls
    `rft_self`, `sft_same_steps`."""
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
class ModelRef:
    """One model of a run. Only the fingerprint is its identity; name and stage are for display.

    Example: ModelRef("tiny-m", "sft", "9c3f…", "")
    """

    name: str
    stage: str
    """`base`, `sft`, `rft` or the stage of another training; `foreign`: samples from outside, named by their rows."""
    fingerprint: str
    source: str = ""
    """Where a base model comes from; empty for a fine-tuned one, which is in the run's store by its fingerprint."""


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """All samples of one model over one problem set.

    Example: SamplingJob(ModelRef("tiny-m", "sft", "9c…"), "41…", 600, 50, settings, 8, 0)
    has 12 problem blocks x 1 sample block.
    """

    model: ModelRef
    problems_fingerprint: str
    problems: int
    """How many problems of the fixed order: a prefix in whole blocks, or all of them."""
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
            settings=self.settings.identity(),
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

    def stems_in(self, quarantined: Collection[str]) -> tuple[str, ...]:
        """The stems of those of the job's shards that are among `quarantined`."""
        return tuple(shard.stem for shard in self.shards() if shard.stem in quarantined) if quarantined else ()

    @property
    def planned(self) -> int:
        """Number of samples that the job must have."""
        return self.problems * self.samples_per_problem


def strict_rules(mode: str, version: int | None = None) -> dict[str, object]:
    """What the strict rules add to the names of files that they decide: nothing in paper mode.

    `version`: that of the rules; None: the current one.
    """
    version = VERSIONS["strict_rules"] if version is None else version
    return {} if mode == "paper" or version == FIRST_STRICT_RULES else {"strict_rules": version}


def verdicts_fingerprint(
    completions: str,
    mode: str,
    purpose: str,
    rules: VerifierSpec = DEFAULT,
    version: int | None = None,
    *,
    opens_reasoning: bool = False,
) -> str:
    """Fingerprint of the verdicts on the samples with the fingerprint `completions`. `opens_reasoning`: of VerdictJob.

    `version`: that of the strict rules, which decide the verdicts of gsm8k in strict mode alone, or of another
    verifier's own rules; None: the current one.
    """
    others: dict[str, object] = {"opens_reasoning": True} if opens_reasoning else {}
    others |= {"verifier": identity} if (identity := rules.identity()) else {}
    if rules.is_gsm8k:
        others |= strict_rules(mode, version)
    if rules.versioned in VERSIONS:
        version = VERSIONS[rules.versioned] if version is None else version
        others |= {} if version == FIRST_VERIFIER_RULES else {rules.versioned: version}
    return fingerprint_of("verdicts", completions=completions, mode=mode, purpose=purpose, **others)


def path_shards(jobs: Sequence[SamplingJob], name: str) -> Iterator[Shard]:
    """One path-selection shard per problem block, over all samples of all jobs."""
    for shard in jobs[0].shards("paths", name):
        if shard.sample_block == 0:
            block = shard.problem_block, shard.problem_start, shard.problem_stop
            yield Shard("paths", shard.problems_fingerprint, name, *block)


@dataclass(frozen=True)
class TrainingJob:
    """One model to train.

    Example: TrainingJob("tiny-s", "sft", "9c…", "tiny:tiny-s", "training/41….parquet", Recipe(), ALPACA, 0)
    """

    model: str
    """Its name in the config, for display."""
    stage: str
    """`sft`, `rft`, …"""
    fingerprint: str
    base: str
    """Source of the base model, as `base_models.resolve` takes it."""
    data_key: str
    """Store key of a table with the text columns `question` and `text`, in training order."""
    recipe: Recipe
    template: str
    """The prompt in its stored form (`data/prompts.py`)."""
    seed: int
    base_fingerprint: str = ""
    """What `files_fingerprint` of the base must be on every node; empty: not checked."""
    start: str = ""
    """Fingerprint of the committed model of this run whose weights the training starts from; empty: the base."""
    same_steps_as: str = ""
    """Store key of another training table: training makes as many optimizer steps as the recipe would make on that
    table, instead of the recipe's epochs. Its rows are counted when training begins."""


Purpose = Literal["collect", "evaluate"]
Dedup = Literal["equations", "none", "random"]
"""Which correct samples are kept: one per equation list; all; or as many as there are lists, drawn at random."""


@dataclass(frozen=True, slots=True)
class VerdictJob:
    """The verdicts on all samples of one sampling job."""

    sampling: SamplingJob
    mode: Mode
    purpose: Purpose
    """`collect` (exact equality with gold in paper mode) or `evaluate` (within 1e-4)."""
    without: tuple[str, ...] = ()
    """Stems of quarantined completions that the run does without: what is made from the others has other names."""
    rules: VerifierSpec = DEFAULT
    """The verifier; `mode` is the mode of gsm8k."""
    opens_reasoning: bool = False
    """Whether the chat template of what samples opens reasoning, which the prompt in its stored form does not show."""

    @property
    def fingerprint(self) -> str:
        graded = self.sampling.fingerprint, self.mode, self.purpose, self.rules
        return verdicts_fingerprint(*graded, opens_reasoning=self.opens_reasoning)

    @property
    def reasoning(self) -> Reasoning:
        """The reasoning of the job's samples, which is not graded."""
        return Reasoning.after(self.sampling.settings.prompt, self.rules.reasoning_tags, self.opens_reasoning)

    def shards(self) -> list[Shard]:
        pairs = zip(self.sampling.shards(), self.sampling.shards("verdicts", self.fingerprint), strict=True)
        return [verdicts for completions, verdicts in pairs if completions.stem not in self.without]

    def past(self, quarantined: Collection[str]) -> VerdictJob:
        """The same job without those of its completions that are among `quarantined`."""
        return replace(self, without=self.sampling.stems_in(quarantined))


@dataclass(frozen=True, slots=True)
class JudgeSampling(SamplingJob):
    """A judge's answers on the rejected completions of one verdict job: one for each, with its sample's index.

    Its shards are those of the verdicts; how many answers they have is known when the verdicts are.
    """

    judged: VerdictJob
    statuses: tuple[str, ...]
    """The verdicts on whose completions the judge is asked, sorted."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(
            "completions",
            model=self.model.fingerprint,
            settings=self.settings.identity(),
            seed=self.seed,
            judged=self.judged.fingerprint,
            statuses=self.statuses,
            asks=judging.WORDING,
        )

    def shards(self, stage: str = "completions", name: str | None = None) -> Iterator[Shard]:
        for shard in self.judged.shards():
            yield replace(shard, stage=stage, fingerprint=self.fingerprint if name is None else name)


@dataclass(frozen=True, slots=True)
class JudgementJob:
    """The opinions of a judge on the rejected completions of one verdict job."""

    sampling: JudgeSampling
    without: tuple[str, ...] = ()
    """Stems of quarantined answers of the judge that the run does without."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of("judgements", answers=self.sampling.fingerprint)

    def shards(self) -> list[Shard]:
        return list(filter(None, map(self.shard_for, self.sampling.judged.shards())))

    def shard_for(self, verdicts: Shard) -> Shard | None:
        """The shard with the opinions on the completions of a verdict shard; None where the run does without it."""
        if replace(verdicts, stage="completions", fingerprint=self.sampling.fingerprint).stem in self.without:
            return None
        return replace(verdicts, stage="judgements", fingerprint=self.fingerprint)

    def past(self, quarantined: Collection[str]) -> JudgementJob:
        """The same job without those of the judge's answers that are among `quarantined`."""
        return replace(self, without=self.sampling.stems_in(quarantined))


@dataclass(frozen=True, slots=True)
class PathJob:
    """The paths chosen from the correct samples of several models, pooled in the order given."""

    verdicts: tuple[VerdictJob, ...]
    dedup: Dedup
    normal_form: NormalForm
    k: int | None = None
    """Only the first k samples of each model and problem; None: all samples of the verdict jobs."""
    reasoning: Literal["keep", "drop"] = "keep"
    """Whether the texts of paths keep their reasoning, which decides no path."""
    distinct_by: str = "equations"
    """What equal paths share: `equations`, `normalised_text`, `answer_and_length`, or `module:function`."""
    distinct_source: str = ""
    """Of `module:function`: SHA-256 of the module's source file."""
    near_duplicates: float | None = None
    """Leave out a path that shares so much of its word 4-grams with one kept before it; None: none."""
    accepted: tuple[JudgementJob, ...] = ()
    """The judgements whose right completions are candidates too, one job for each of `verdicts`; empty: none."""

    @property
    def mode(self) -> Mode:
        return self.verdicts[0].mode

    @property
    def by_equations_alone(self) -> bool:
        """Whether paths are equal as in the paper: by their equation lists, the empty one too."""
        return self.distinct_by == "equations" and self.verdicts[0].rules.is_gsm8k

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the models whose samples are pooled, in order."""
        return tuple(job.sampling.model.name for job in self.verdicts)

    @property
    def fingerprint(self) -> str:
        """Names the shards. Their rows hold equations, whatever decides which paths are equal."""
        return fingerprint_of("paths", **self._selection(), **self.rules_of_equations)

    @property
    def texts_fingerprint(self) -> str:
        """Identifies the texts of the paths: `fingerprint`, but for strict rules that decide only their equations."""
        decided = self.rules_of_equations if self.distinct_by == "equations" else {}
        return fingerprint_of("paths", **self._selection(), **decided)

    @property
    def rules_of_equations(self) -> dict[str, object]:
        """The version of the rules that read the equations, where it is not in the names of the verdicts."""
        return {} if self.verdicts[0].rules.is_gsm8k else strict_rules(self.mode)

    def _selection(self) -> dict[str, object]:
        without = [stem for job in self.verdicts for stem in job.without]
        without += [stem for job in self.accepted for stem in job.without]
        return {
            "pooled": [[j.sampling.model.name, j.fingerprint, j.sampling.samples_per_problem] for j in self.verdicts],
            "dedup": self.dedup,
            "normal_form": self.normal_form,
            **({} if self.k is None else {"k": self.k}),
            **({"without": sorted(without)} if without else {}),
            **({"reasoning": self.reasoning} if self.reasoning != "keep" else {}),
            **({"distinct_by": self.distinct_by + self.distinct_source} if self.distinct_by != "equations" else {}),
            **({} if self.near_duplicates is None else {"near_duplicates": self.near_duplicates}),
            **({"accepted": [job.fingerprint for job in self.accepted]} if self.accepted else {}),
        }

    def shards(self) -> list[Shard]:
        return list(path_shards([job.sampling for job in self.verdicts], self.fingerprint))
