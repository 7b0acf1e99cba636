"""Config -> the whole run, known before anything runs: models, data, jobs, and the shards they must have.

Input: a Config, the two problem sets, and the base models' fingerprints. Output: a Plan, whose parts are the
arguments of the stages. Nothing here reads the store or starts Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rft_ray.config import BaseModelSpec, Config, ConfigError, Recipe
from rft_ray.corpus import CorpusJob
from rft_ray.evaluation import EvaluationJob
from rft_ray.problems import ProblemSet
from rft_ray.shards import ModelRef, SamplingJob, SamplingSettings, Shard, fingerprint
from rft_ray.training import TrainingJob, check
from rft_ray.verification import PathJob, Purpose, VerdictJob


@dataclass(frozen=True)
class Plan:
    """Everything that one run will make. Order of the lists is the order of the config's models."""

    config: Config
    train: ProblemSet
    test: ProblemSet
    gold: CorpusJob
    sft: tuple[TrainingJob, ...]
    collected: tuple[VerdictJob, ...]
    """One per sampling model: its samples of the training problems, and how they are graded."""
    paths: PathJob
    corpus: CorpusJob
    rft: tuple[TrainingJob, ...]
    evaluations: tuple[EvaluationJob, ...]

    @property
    def fingerprint(self) -> str:
        """Names the outcome of the whole run: equal for two configs that differ only in how to run."""
        keys = [job.key for job in self.evaluations]
        models = [job.fingerprint for job in (*self.sft, *self.rft)]
        return fingerprint("evaluation", models=models, corpus=self.corpus.fingerprint, evaluations=keys)

    def evaluations_of(self, *settings: str) -> list[EvaluationJob]:
        return [job for job in self.evaluations if job.setting in settings]

    def evaluation_verdicts(self, *settings: str) -> list[VerdictJob]:
        """The verdict jobs that those evaluations stand on."""
        jobs = self.evaluations_of(*settings)
        return [verdicts for job in jobs for verdicts in (job.greedy, job.samples) if verdicts]

    def completion_shards(self) -> Iterator[Shard]:
        """Every completion shard of the run, in the order of the stages."""
        for job in [*self.collected, *self.evaluation_verdicts("icl", "sft", "rft")]:
            yield from job.sampling.shards()


def make_plan(config: Config, train: ProblemSet, test: ProblemSet, bases: Mapping[str, str]) -> Plan:
    """`bases`: model name -> fingerprint of the base model's files. Raises ConfigError for what cannot run."""
    for recipe in (config.sft, config.rft):
        check(config.training, recipe)
    gold = CorpusJob(train.fingerprint, train.count)
    sft = tuple(_training(config, model, "sft", bases, gold) for model in config.models)
    collected = tuple(
        _verdicts(config, ModelRef(job.model, "sft", job.fingerprint), train, _collect(config), "collect")
        for job, model in zip(sft, config.models, strict=True)
        if model.samples
    )
    _refuse_twins(collected)
    paths = PathJob(collected, config.corpus.dedup, config.corpus.normal_form)
    corpus = CorpusJob(train.fingerprint, train.count, paths, config.corpus.max_paths_per_problem)
    rft = tuple(_training(config, model, "rft", bases, corpus) for model in config.models if model.rft)
    evaluations = [
        *_icl(config, train, test, bases),
        *(_evaluation(config, ModelRef(job.model, "sft", job.fingerprint), "sft", test) for job in sft),
        *(_evaluation(config, ModelRef(job.model, "rft", job.fingerprint), "rft", test) for job in rft),
    ]
    return Plan(config, train, test, gold, sft, collected, paths, corpus, rft, tuple(evaluations))


def _refuse_twins(collected: Sequence[VerdictJob]) -> None:
    """Two names for one sampler would count each sample twice. Raises ConfigError."""
    first: dict[str, str] = {}
    for job in collected:
        name = job.sampling.model.name
        if (other := first.setdefault(job.sampling.fingerprint, name)) != name:
            raise ConfigError(f"models {other!r} and {name!r} are one base with one seed: change one seed")


def _training(
    config: Config, model: BaseModelSpec, stage: str, bases: Mapping[str, str], data: CorpusJob
) -> TrainingJob:
    recipe: Recipe = config.sft if stage == "sft" else config.rft
    name = fingerprint(
        "training",
        base=bases[model.name],
        data=data.fingerprint,
        recipe=recipe.model_dump(mode="json"),
        prompt=config.prompt.template,
        seed=model.seed,
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
        seed=model.seed,
    )


def _collect(config: Config) -> tuple[SamplingSettings, int]:
    """Settings and k of the samples that make the corpus."""
    sampling = config.sampling
    settings = SamplingSettings(
        sampling.temperature,
        sampling.top_p,
        sampling.max_new_tokens,
        sampling.samples_per_block,
        config.prompt.template,
        max_model_len=config.engine.max_model_len,
        engine=config.engine.kind,
    )
    return settings, sampling.samples_per_problem


def _verdicts(
    config: Config,
    model: ModelRef,
    problems: ProblemSet,
    how: tuple[SamplingSettings, int],
    purpose: Purpose,
) -> VerdictJob:
    settings, k = how
    job = SamplingJob(
        model, problems.fingerprint, problems.count, config.problems.per_block, settings, k, config.run.seed
    )
    return VerdictJob(job, config.grading.mode, purpose)


def _evaluation(
    config: Config, model: ModelRef, setting: str, test: ProblemSet, shots: int = 0, shots_from: str = ""
) -> EvaluationJob:
    evaluation, k = config.evaluation, 0 if shots else config.evaluation.samples_per_problem
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
        _evaluation(config, ModelRef(model.name, "base", name, model.source), "icl", test, shots, train.fingerprint)
        for name, model in distinct.items()
    ]
