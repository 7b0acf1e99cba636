"""Config -> the plan of a run, before anything runs: models, data, jobs and their shards.

Input: a Config, the two problem sets, and the base models' fingerprints. Output: a Plan, whose parts are the arguments
of the stages. Nothing here reads the store or starts Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rft_ray.config import BaseModelSpec, Config
from rft_ray.data.problems import ProblemSet
from rft_ray.plan.config_jobs import (
    base_evaluation,
    collecting,
    corpus_job,
    evaluation_job,
    gold_corpus,
    icl_evaluations,
    path_job,
    refuse_twins,
    training_job,
)
from rft_ray.plan.jobs import CorpusJob, EvaluationJob, JudgementJob, PathJob, SamplingJob, TrainingJob, VerdictJob
from rft_ray.plan.judges import judgement_jobs
from rft_ray.plan.samplers import learns_gold, sampler_of, with_openers
from rft_ray.store.names import fingerprint_of
from rft_ray.store.shards import Shard

BEFORE_RFT = ("icl", "base", "sft")
"""Evaluation settings of the models before RFT."""
CONTROLS = ("rft_self", "sft_same_steps")
"""Evaluation settings that `controls: true` adds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every job of one run. Tuples are in the order of the config's models."""

    config: Config
    train: ProblemSet
    test: ProblemSet
    gold: CorpusJob
    sft: tuple[TrainingJob, ...]
    collected: tuple[VerdictJob, ...]
    """One per sampling model: the verdicts on its samples of the training problems."""
    judged: tuple[JudgementJob, ...]
    """One for each of `collected`: a judge's opinions on what is rejected there. Empty without a judge."""
    paths: PathJob
    corpus: CorpusJob
    own: tuple[CorpusJob, ...]
    """Controls only: the corpus of its own paths, per sampling model that RFT trains."""
    rft: tuple[TrainingJob, ...]
    controls: tuple[TrainingJob, ...]
    """Controls only: `rft_self` on `own`, and `sft_same_steps` on gold. Evaluated greedily only."""
    evaluations: tuple[EvaluationJob, ...]
    bases: Mapping[str, str]
    openers: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    """Stems of quarantined completions that the run does without."""
    left_out: tuple[EvaluationJob, ...] = ()
    """Evaluations that need some of these completions, and are not made."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Configured source of a base model -> the one pinned to a commit, which `config` has."""

    def past(self, quarantined: Collection[str]) -> Plan:
        """The plan of the same run without these completions too."""
        without = self.without.union(quarantined)
        if without == self.without:
            return self
        plan = make_plan(self.config, self.train, self.test, self.bases, without, self.openers)
        return replace(plan, sources=self.sources)

    @property
    def fingerprint(self) -> str:
        """Names the results of the whole run: equal for two configs that differ only in how to run."""
        keys = [job.key for job in self.evaluations]
        models = [job.fingerprint for job in self.trainings]
        judged = {"judged": [job.fingerprint for job in self.judged]} if self.judged else {}
        return fingerprint_of("evaluation", models=models, corpus=self.corpus.fingerprint, evaluations=keys, **judged)

    @property
    def trainings(self) -> list[TrainingJob]:
        """Every model that the run trains, in the order of the stages."""
        return [*self.sft, *self.rft, *self.controls]

    @property
    def corpora(self) -> list[CorpusJob]:
        """Every corpus with sampled paths: the union first."""
        return [self.corpus, *self.own]

    @property
    def path_jobs(self) -> list[PathJob]:
        """The path jobs of the corpora."""
        return [job.paths for job in self.corpora if job.paths]

    def evaluations_of(self, *settings: str) -> list[EvaluationJob]:
        return [job for job in self.evaluations if job.setting in settings]

    def evaluation_verdicts(self, *settings: str) -> list[VerdictJob]:
        """The verdict jobs of the evaluations with these settings."""
        return verdicts_of(self.evaluations_of(*settings))

    @property
    def samplings(self) -> list[SamplingJob]:
        """Everything that the run samples, the judge's answers too, in the order of the stages."""
        judged: list[SamplingJob] = [job.sampling for job in self.judged]
        return [
            *(job.sampling for job in self.collected),
            *judged,
            *(job.sampling for job in verdicts_of(self.evaluations)),
        ]

    def completion_shards(self) -> Iterator[Shard]:
        """Every completion shard of the run, in the order of the stages."""
        for sampling in self.samplings:
            yield from (shard for shard in sampling.shards() if shard.stem not in self.without)


def verdicts_of(evaluations: Sequence[EvaluationJob]) -> list[VerdictJob]:
    """The verdict jobs that evaluations are computed from."""
    return [verdicts for job in evaluations for verdicts in (job.greedy, job.samples) if verdicts]


def make_plan(
    config: Config,
    train: ProblemSet,
    test: ProblemSet,
    bases: Mapping[str, str],
    without: Collection[str] = (),
    openers: Collection[str] = (),
) -> Plan:
    """The plan of a run. Raises ConfigError.

    `bases`: model name -> fingerprint of its base, and `sampler_name` -> that of the model that samples for it.
    `without`: as in Plan. `openers`: those of these names whose chat template opens reasoning (`reasoning_openers`).
    """
    gold = gold_corpus(config, train)
    sft = tuple(
        training_job(config, model, "sft", bases, gold) for model in config.models if learns_gold(config, model)
    )
    by_name = {job.model: job for job in sft}
    collected = tuple(
        collecting(config, model, sampler_of(model, by_name.get(model.name), bases), train, openers).past(without)
        for model in config.models
        if model.samples
    )
    refuse_twins(collected)
    judged = tuple(job.past(without) for job in judgement_jobs(config, collected, bases))
    paths = path_job(config, collected, judged)
    corpus = corpus_job(config, train, paths)
    trained = [model for model in config.models if model.rft]
    starts = {name: job for name, job in by_name.items() if config.rft.from_ == "sampler"}
    rft = tuple(training_job(config, model, "rft", bases, corpus, start=starts.get(model.name)) for model in trained)
    own = _own_corpora(config, train, collected, judged, trained) if config.controls else {}
    controls = tuple(_controls(config, trained, bases, gold, corpus, own, starts)) if config.controls else ()
    planned = (
        *icl_evaluations(config, train, test, bases),
        *(base_evaluation(config, model, test, bases) for model in trained if model.name not in by_name),
        *(evaluation_job(config, job, test) for job in (*sft, *rft)),
        *(evaluation_job(config, job, test, samples=False) for job in controls),
    )
    evaluations = [with_openers(job, openers) for job in planned]
    left_out = tuple(
        job for job in evaluations if any(verdicts.past(without).without for verdicts in verdicts_of([job]))
    )
    return Plan(
        config=config,
        train=train,
        test=test,
        gold=gold,
        sft=sft,
        collected=collected,
        judged=judged,
        paths=paths,
        corpus=corpus,
        own=tuple(own.values()),
        rft=rft,
        controls=controls,
        evaluations=tuple(job for job in evaluations if job not in left_out),
        bases=bases,
        openers=frozenset(openers),
        without=frozenset(without),
        left_out=left_out,
    )


def _own_corpora(
    config: Config,
    train: ProblemSet,
    collected: Sequence[VerdictJob],
    judged: Sequence[JudgementJob],
    trained: Sequence[BaseModelSpec],
) -> dict[str, CorpusJob]:
    """Model name -> the corpus of its own paths. Empty where one model samples: its paths are the union."""
    if len(collected) == 1:
        return {}
    names = {model.name for model in trained}
    return {
        job.sampling.model.name: corpus_job(config, train, path_job(config, [job], judged[at : at + 1]))
        for at, job in enumerate(collected)
        if job.sampling.model.name in names
    }


def _controls(
    config: Config,
    trained: Sequence[BaseModelSpec],
    bases: Mapping[str, str],
    gold: CorpusJob,
    union: CorpusJob,
    own: Mapping[str, CorpusJob],
    starts: Mapping[str, TrainingJob],
) -> Iterator[TrainingJob]:
    for model in trained:
        if model.name in own:
            yield training_job(config, model, "rft_self", bases, own[model.name], start=starts.get(model.name))
        if learns_gold(config, model):
            yield training_job(config, model, "sft_same_steps", bases, gold, same_steps_as=union)
