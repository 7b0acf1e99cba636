"""Config -> the plan of a run, before anything runs: models, data, jobs and their shards.

Input: a Config, the two problem sets, and the base models' fingerprints. Output: a Plan, whose parts are the arguments
of the stages. Nothing here reads the store or starts Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rft_ray.config import BaseModelSpec, Config, ConfigError, Recipe
from rft_ray.data.problems import ProblemSet
from rft_ray.plan.jobs import (
    CorpusJob,
    EvaluationJob,
    ModelRef,
    PathJob,
    Purpose,
    SamplingJob,
    SamplingSettings,
    TrainingJob,
    VerdictJob,
)
from rft_ray.store.names import fingerprint_of
from rft_ray.store.shards import Shard

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
    paths: PathJob
    corpus: CorpusJob
    own: tuple[CorpusJob, ...]
    """Controls only: the corpus of its own paths, per sampling model that RFT trains."""
    rft: tuple[TrainingJob, ...]
    controls: tuple[TrainingJob, ...]
    """Controls only: `rft_self` on `own`, and `sft_same_steps` on gold. Evaluated greedily only."""
    evaluations: tuple[EvaluationJob, ...]
    bases: Mapping[str, str]
    without: frozenset[str] = frozenset()
    """Stems of quarantined completions that the run does without."""
    left_out: tuple[EvaluationJob, ...] = ()
    """Evaluations that need some of these completions, and are not made."""

    def past(self, quarantined: Collection[str]) -> Plan:
        """The plan of the same run without these completions too."""
        without = self.without.union(quarantined)
        if without == self.without:
            return self
        return make_plan(self.config, self.train, self.test, self.bases, without)

    @property
    def fingerprint(self) -> str:
        """Names the results of the whole run: equal for two configs that differ only in how to run."""
        keys = [job.key for job in self.evaluations]
        models = [job.fingerprint for job in self.trainings]
        return fingerprint_of("evaluation", models=models, corpus=self.corpus.fingerprint, evaluations=keys)

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

    def completion_shards(self) -> Iterator[Shard]:
        """Every completion shard of the run, in the order of the stages."""
        for job in [*self.collected, *verdicts_of(self.evaluations)]:
            yield from (shard for shard in job.sampling.shards() if shard.stem not in self.without)


def verdicts_of(evaluations: Sequence[EvaluationJob]) -> list[VerdictJob]:
    """The verdict jobs that evaluations are computed from."""
    return [verdicts for job in evaluations for verdicts in (job.greedy, job.samples) if verdicts]


def make_plan(
    config: Config, train: ProblemSet, test: ProblemSet, bases: Mapping[str, str], without: Collection[str] = ()
) -> Plan:
    """The plan of a run. `bases`: model name -> fingerprint of its base. `without`: as in Plan. Raises ConfigError."""
    gold = gold_corpus(config, train)
    sft = tuple(training_job(config, model, "sft", bases, gold) for model in config.models)
    collected = tuple(
        collecting(config, job, train).past(without)
        for job, model in zip(sft, config.models, strict=True)
        if model.samples
    )
    refuse_twins(collected)
    paths = path_job(config, collected)
    corpus = corpus_job(config, train, paths)
    trained = [model for model in config.models if model.rft]
    rft = tuple(training_job(config, model, "rft", bases, corpus) for model in trained)
    own = _own_corpora(config, train, collected, trained) if config.controls else {}
    controls = tuple(_controls(config, trained, bases, gold, corpus, own)) if config.controls else ()
    evaluations = (
        *_icl(config, train, test, bases),
        *(evaluation_job(config, job, test) for job in (*sft, *rft)),
        *(evaluation_job(config, job, test, samples=False) for job in controls),
    )
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
        paths=paths,
        corpus=corpus,
        own=tuple(own.values()),
        rft=rft,
        controls=controls,
        evaluations=tuple(job for job in evaluations if job not in left_out),
        bases=bases,
        without=frozenset(without),
        left_out=left_out,
    )


def _own_corpora(
    config: Config, train: ProblemSet, collected: Sequence[VerdictJob], trained: Sequence[BaseModelSpec]
) -> dict[str, CorpusJob]:
    """Model name -> the corpus of its own paths. Empty where one model samples: its paths are the union."""
    if len(collected) == 1:
        return {}
    names = {model.name for model in trained}
    return {
        job.sampling.model.name: corpus_job(config, train, path_job(config, [job]))
        for job in collected
        if job.sampling.model.name in names
    }


def _controls(
    config: Config,
    trained: Sequence[BaseModelSpec],
    bases: Mapping[str, str],
    gold: CorpusJob,
    union: CorpusJob,
    own: Mapping[str, CorpusJob],
) -> Iterator[TrainingJob]:
    for model in trained:
        if model.name in own:
            yield training_job(config, model, "rft_self", bases, own[model.name])
        yield training_job(config, model, "sft_same_steps", bases, gold, same_steps_as=union)


def refuse_twins(collected: Sequence[VerdictJob]) -> None:
    """Raises ConfigError where two names stand for one sampler: each of its samples would count twice."""
    first: dict[str, str] = {}
    for job in collected:
        name = job.sampling.model.name
        if (other := first.setdefault(job.sampling.fingerprint, name)) != name:
            raise ConfigError(
                f"models {other!r} and {name!r} are the same base with the same seed: give one of them another seed"
            )


def training_job(
    config: Config,
    model: BaseModelSpec,
    stage: str,
    bases: Mapping[str, str],
    data: CorpusJob,
    *,
    same_steps_as: CorpusJob | None = None,
    seed: int | None = None,
) -> TrainingJob:
    """The training of one model on one corpus: by the SFT recipe in the stage `sft`, by the RFT recipe in other stages.

    `same_steps_as`: train as many steps as on that corpus. The fingerprint holds that corpus's, as its length is not
    known yet.
    """
    recipe: Recipe = config.sft if stage == "sft" else config.rft
    seed = model.seed if seed is None else seed
    steps = {"same_steps_as": same_steps_as.fingerprint} if same_steps_as else {}
    name = fingerprint_of(
        "training",
        base=bases[model.name],
        data=data.fingerprint,
        recipe=recipe.model_dump(mode="json"),
        prompt=config.prompt.template,
        seed=seed,
        **steps,
    )
    return TrainingJob(
        model=model.name,
        stage=stage,
        fingerprint=name,
        base=model.source,
        base_fingerprint=bases[model.name],
        data_key=data.key,
        recipe=recipe,
        template=config.prompt.template,
        seed=seed,
        same_steps_as=same_steps_as.key if same_steps_as else "",
    )


def path_job(config: Config, collected: Sequence[VerdictJob]) -> PathJob:
    """The paths selected from the samples of these models, pooled."""
    return PathJob(tuple(collected), config.corpus.dedup, config.corpus.normal_form)


def gold_corpus(config: Config, train: ProblemSet) -> CorpusJob:
    """The corpus of the gold solutions alone."""
    return CorpusJob(train.fingerprint, train.count, gold_mode=config.grading.mode)


def corpus_job(config: Config, train: ProblemSet, paths: PathJob) -> CorpusJob:
    """The corpus of the gold solutions and these paths."""
    return CorpusJob(train.fingerprint, train.count, paths, config.corpus.max_paths_per_problem)


def collecting(config: Config, sampler: TrainingJob, train: ProblemSet) -> VerdictJob:
    """The verdicts on a trained model's samples of the training problems, graded to collect paths."""
    return _verdicts(config, _trained(sampler), train, _collect(config), "collect")


def _trained(job: TrainingJob) -> ModelRef:
    return ModelRef(job.model, job.stage, job.fingerprint)


def _collect(config: Config) -> tuple[SamplingSettings, int]:
    """Settings and number per problem of the samples for the corpus."""
    sampling = config.sampling
    settings = SamplingSettings(
        sampling.temperature,
        sampling.top_p,
        sampling.max_new_tokens,
        sampling.samples_per_block,
        config.prompt.template,
        max_model_len=sampling.max_model_len,
        engine=sampling.engine,
    )
    return settings, sampling.samples_per_problem


def _verdicts(
    config: Config,
    model: ModelRef,
    problems: ProblemSet,
    settings_and_k: tuple[SamplingSettings, int],
    purpose: Purpose,
) -> VerdictJob:
    settings, k = settings_and_k
    job = SamplingJob(
        model, problems.fingerprint, problems.count, config.problems.per_block, settings, k, config.run.seed
    )
    return VerdictJob(job, config.grading.mode, purpose)


def evaluation_job(config: Config, job: TrainingJob, test: ProblemSet, *, samples: bool = True) -> EvaluationJob:
    """The evaluation of a trained model. `samples`: draw samples for maj@k and pass@k too."""
    return _evaluation(config, _trained(job), job.stage, test, config.evaluation.samples_per_problem if samples else 0)


def _evaluation(
    config: Config, model: ModelRef, setting: str, test: ProblemSet, k: int, shots: int = 0, shots_from: str = ""
) -> EvaluationJob:
    evaluation = config.evaluation
    greedy = replace(
        _collect(config)[0], temperature=0.0, top_p=1.0, samples_per_block=1, shots=shots, shots_from=shots_from
    )
    sampled = replace(greedy, temperature=evaluation.temperature, samples_per_block=evaluation.samples_per_block)
    return EvaluationJob(
        model,
        setting,
        _verdicts(config, model, test, (greedy, 1), "evaluate"),
        _verdicts(config, model, test, (sampled, k), "evaluate") if k else None,
    )


def _icl(config: Config, train: ProblemSet, test: ProblemSet, bases: Mapping[str, str]) -> list[EvaluationJob]:
    """In-context evaluation of each distinct base model (two samplers of one base share it)."""
    shots = config.evaluation.icl_shots
    distinct = {bases[model.name]: model for model in reversed(config.models)} if shots else {}
    return [
        _evaluation(config, ModelRef(model.name, "base", name, model.source), "icl", test, 0, shots, train.fingerprint)
        for name, model in distinct.items()
    ]
