"""Config -> every point of the scaling study, known before anything runs.

In: a Config, the two problem sets, and what is known of the base models. Out: a StudyPlan, whose parts are the
arguments of the stages. A point's name is made from its fields, so two questions share equal points. Samples
are drawn once, at the largest k, and every smaller k is a prefix of them. Pure: no store, no Ray.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rft_ray.config import BaseModelSpec, Config, ConfigError
from rft_ray.data.problems import ProblemSet
from rft_ray.plan.config_jobs import (
    collecting,
    evaluation_job,
    gold_corpus,
    path_job,
    refuse_twins,
    training_job,
)
from rft_ray.plan.jobs import CorpusJob, Dedup, EvaluationJob, PathJob, TrainingJob, VerdictJob
from rft_ray.plan.samplers import learns_gold, sampler_of, with_openers
from rft_ray.store.names import fingerprint_of
from rft_ray.study.result import Model, Selection, Skipped

Schedule = Literal["epochs", "steps"]


@dataclass(frozen=True)
class Spec:
    """The fields that identify a point; `result.Point` describes them. Equal specs are one point.

    Example: Spec("tiny-m", "rft", "equations", ("tiny-s", "tiny-m"), 48)
    """

    model: str
    stage: Literal["sft", "rft"]
    selection: Selection = "gold"
    samplers: tuple[str, ...] = ()
    k: int = 0
    halvings: int = 0
    """The number of times the gold data is halved."""
    schedule: Schedule = "epochs"
    seed: int = 0
    """Added to the model's own seed."""

    @property
    def name(self) -> str:
        if self.stage == "rft":
            kept = "" if self.selection == "equations" else f" {self.selection}"
            return f"{self.model} rft {'+'.join(self.samplers)} k={self.k}{kept} #{self.seed}"
        share = f" 1/{2**self.halvings}" if self.halvings else ""
        steps = " same steps" if self.schedule == "steps" else ""
        return f"{self.model} sft{share}{steps}{' as rft' if self.control else ''} #{self.seed}"

    @property
    def control(self) -> bool:
        """Whether it is gold alone for as many steps as RFT on the union, known once the union's corpus is built."""
        return self.stage == "sft" and self.schedule == "steps" and not self.halvings

    @property
    def late(self) -> bool:
        """Whether it needs sampled paths."""
        return self.stage == "rft" or self.control


@dataclass(frozen=True)
class PlannedPoint:
    """A point and its jobs."""

    spec: Spec
    corpus: CorpusJob
    training: TrainingJob
    evaluation: EvaluationJob


@dataclass(frozen=True)
class StudyPlan:
    """All jobs of a study. Points are sorted by model size, so that equal architectures follow each other."""

    config: Config
    train: ProblemSet
    test: ProblemSet
    models: tuple[Model, ...]
    collected: tuple[VerdictJob, ...]
    """One job per sampler: all its samples of the training problems. Empty when no question needs samples."""
    points: tuple[PlannedPoint, ...]
    skipped: tuple[Skipped, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    """Configured source of a base model -> the one pinned to a commit, which `config` has."""

    @property
    def k(self) -> int:
        return self.config.sampling.samples_per_problem

    @property
    def samplers(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models if model.sampler)

    @property
    def fingerprint(self) -> str:
        """Equal for two configs that differ only in how to run."""
        return fingerprint_of("evaluation", study=[point.evaluation.key for point in self.points])

    def of(self, *, late: bool) -> list[PlannedPoint]:
        """The points before or after sampling, one per trained model: two names of one base and seed train once."""
        by_fingerprint: dict[str, PlannedPoint] = {}
        for point in self.points:
            if point.spec.late == late:
                by_fingerprint.setdefault(point.training.fingerprint, point)
        return list(by_fingerprint.values())

    @property
    def corpora(self) -> list[CorpusJob]:
        """Every corpus once, each after the corpus that sets its size."""
        by_fingerprint: dict[str, CorpusJob] = {}
        for point in self.points:
            for job in (point.corpus.as_many_as, point.corpus):
                if job is not None:
                    by_fingerprint.setdefault(job.fingerprint, job)
        return list(by_fingerprint.values())

    @property
    def path_jobs(self) -> list[PathJob]:
        return list({job.paths.fingerprint: job.paths for job in self.corpora if job.paths}.values())


def _check_method(config: Config) -> None:
    """Raises ConfigError where the config asks for another method than the paper's, which the questions are about."""
    if other := [model.name for model in config.models if not learns_gold(config, model)]:
        raise ConfigError(
            f"the scaling study compares SFT with RFT, so every model is fine-tuned on gold, and {other[0]!r} is not: "
            "give the section sft, and no sample_from or openai: source"
        )
    if not config.corpus.gold or config.rft.from_ != "base":
        raise ConfigError("the scaling study needs corpus.gold: true and rft.from: base, as in the paper")
    if config.corpus.judge == "accept":
        raise ConfigError("the scaling study asks no judge: set corpus.judge=ignore")
    if config.corpus.dedup != "equations":
        raise ConfigError(
            "the scaling study compares the kinds of corpus.dedup by itself, in question 3: leave out "
            f"corpus.dedup={config.corpus.dedup}"
        )


def make_study_plan(
    config: Config,
    train: ProblemSet,
    test: ProblemSet,
    bases: Mapping[str, str],
    models: Sequence[Model],
    openers: Collection[str] = (),
) -> StudyPlan:
    """`bases`: model name -> fingerprint of its files; `openers`: as in `make_plan`. Raises ConfigError."""
    _check_method(config)
    if train.count >> config.study.halvings < 1:
        raise ConfigError(
            f"study.halvings={config.study.halvings} leaves none of {train.count} training problems: lower it"
        )
    maker = _Maker(config, train, test, bases, openers)
    collected = tuple(maker.collected[model.name] for model in models if model.sampler)
    refuse_twins(collected)
    wanted = dict.fromkeys([*(Spec(model.name, "sft") for model in models if model.sampler), *specs(config, models)])
    order = {model.name: (model.parameters, place) for place, model in enumerate(models)}
    points = tuple(maker.point(spec) for spec in sorted(wanted, key=lambda spec: order[spec.model]))
    needed = collected if any(spec.late for spec in wanted) else ()
    return StudyPlan(config, train, test, tuple(models), needed, points, tuple(skipped(config, models)))


# --- Which points each question asks for ----------------------------------------------------------


def specs(config: Config, models: Sequence[Model]) -> Iterator[Spec]:
    """The points of the config's questions; several questions may yield the same point.

    A model with `rft: false` has points of gold data alone.
    """
    study, k = config.study, config.sampling.samples_per_problem
    samplers = tuple(model.name for model in models if model.sampler)
    on_paths = {model.name for model in config.models if model.rft}
    ask = {1: _headline, 2: _by_data, 3: _by_paths, 4: _by_samplers, 5: _headline}
    for question in study.questions:
        for model in models:
            for spec in ask[question](config, model, samplers, k):
                if spec.late and model.name not in on_paths:
                    continue
                seeds = study.seeds if study.full_grid else _seeds(spec, model, samplers, config)
                yield from (replace(spec, seed=seed) for seed in range(seeds))


def _seeds(spec: Spec, model: Model, samplers: tuple[str, ...], config: Config) -> int:
    """Several seeds for the headline points only: SFT on all gold data, RFT on the union at the largest k."""
    union = Spec(model.name, "rft", "equations", samplers, config.sampling.samples_per_problem)
    return config.study.seeds if model.headline and spec in (Spec(model.name, "sft"), union) else 1


def _headline(config: Config, model: Model, samplers: tuple[str, ...], k: int) -> Iterator[Spec]:
    yield Spec(model.name, "sft")
    yield Spec(model.name, "rft", "equations", samplers, k)
    if model.headline:
        yield Spec(model.name, "sft", schedule="steps")


def _by_data(config: Config, model: Model, samplers: tuple[str, ...], k: int) -> Iterator[Spec]:
    yield Spec(model.name, "sft")
    for halvings in range(1, config.study.halvings + 1):
        yield Spec(model.name, "sft", halvings=halvings)
        if config.study.equal_steps:
            yield Spec(model.name, "sft", halvings=halvings, schedule="steps")


def _by_paths(config: Config, model: Model, samplers: tuple[str, ...], k: int) -> Iterator[Spec]:
    """RFT on the model's own samples; only for models that sample."""
    if not model.headline or not model.sampler:
        return
    yield from _headline(config, model, samplers, k)
    for size in sorted({k, *(size for size in config.study.k if size < k)}):
        yield Spec(model.name, "rft", "equations", (model.name,), size)
    for selection in ("none", "random", "thinned"):
        yield Spec(model.name, "rft", selection, (model.name,), k)


def _by_samplers(config: Config, model: Model, samplers: tuple[str, ...], k: int) -> Iterator[Spec]:
    """RFT on each sampler's paths alone, on all, and on all but one sampler's."""
    if not model.headline or len(samplers) < 2:
        return
    yield from _headline(config, model, samplers, k)
    for sampler in samplers:
        yield Spec(model.name, "rft", "equations", (sampler,), k)
        yield Spec(model.name, "rft", "equations", tuple(other for other in samplers if other != sampler), k)


def skipped(config: Config, models: Sequence[Model]) -> Iterator[Skipped]:
    """The questions, or parts of them, that cannot be answered with these models and settings."""
    study = config.study
    for question in sorted({1, 2, 3, 4, 5} - set(study.questions)):
        yield Skipped(question, "study.questions does not include it")
    losses = {model.pretraining_loss for model in models if model.pretraining_loss is not None}
    few = f"a line over pre-training loss needs 3 models with different known losses; there are {len(losses)}"
    if len(losses) < 3:
        yield from (Skipped(question, few) for question in (1, 2) if question in study.questions)
    if 2 in study.questions and study.halvings < 2:
        yield Skipped(2, f"a line over data sizes needs at least 3, more than study.halvings={study.halvings} gives")
    if 4 in study.questions and sum(model.sampler for model in models) < 2:
        yield Skipped(4, "pooling needs two models that sample; there is one")


# --- The jobs of a point --------------------------------------------------------------------------


class _Maker:
    """Turns specs into jobs; holds what the jobs share."""

    def __init__(
        self, config: Config, train: ProblemSet, test: ProblemSet, bases: Mapping[str, str], openers: Collection[str]
    ) -> None:
        self._config, self._train, self._test, self._bases, self._openers = config, train, test, bases, openers
        self._specs = {model.name: model for model in config.models}
        self._gold = gold_corpus(config, train)
        self.collected = {
            name: collecting(config, model, sampler_of(model, self._sft(model), bases), train, openers)
            for name, model in self._specs.items()
        }

    def _sft(self, model: BaseModelSpec) -> TrainingJob:
        return training_job(self._config, model, "sft", self._bases, self._gold)

    def point(self, spec: Spec) -> PlannedPoint:
        model, corpus = self._specs[spec.model], self._corpus(spec)
        steps = self._gold if spec.schedule == "steps" else None
        if spec.control:
            samplers = tuple(name for name, model in self._specs.items() if model.samples)
            k = self._config.sampling.samples_per_problem
            steps = self._corpus(Spec(spec.model, "rft", "equations", samplers, k))
        training = training_job(
            self._config,
            model,
            "sft_same_steps" if spec.control else spec.stage,
            self._bases,
            corpus,
            same_steps_as=steps,
            seed=model.seed + spec.seed,
        )
        evaluation = evaluation_job(self._config, training, self._test, samples=False)
        return PlannedPoint(spec, corpus, training, with_openers(evaluation, self._openers))

    def _corpus(self, spec: Spec) -> CorpusJob:
        if spec.selection == "gold":
            return replace(self._gold, problems=self._train.count >> spec.halvings)
        dedup: Dedup = "none" if spec.selection == "thinned" else spec.selection
        pooled = [prefix(self.collected[name], spec.k) for name in spec.samplers]
        block = self._config.sampling.samples_per_block
        paths = replace(path_job(self._config, pooled), dedup=dedup, k=spec.k if spec.k % block else None)
        size = self._corpus(replace(spec, selection="equations")) if spec.selection == "thinned" else None
        return CorpusJob(
            self._train.fingerprint, self._train.count, paths, self._config.corpus.max_paths_per_problem, size
        )


def prefix(job: VerdictJob, k: int) -> VerdictJob:
    """The sample blocks that hold each problem's first k samples. Their names do not depend on later blocks."""
    block = job.sampling.settings.samples_per_block
    return replace(job, sampling=replace(job.sampling, samples_per_problem=math.ceil(k / block) * block))


# --- The base models ------------------------------------------------------------------------------


def facts_of(config: Config, folders: Mapping[str, Path], parameters: Mapping[str, int]) -> tuple[Model, ...]:
    """`folders`: model name -> its files, whose pretraining.json has the loss unless the config has it."""
    study = config.study
    headline = study.headline or tuple(model.name for model in config.models if model.samples)
    return tuple(
        Model(
            model.name,
            model.source,
            parameters[model.name],
            study.pretraining_losses.get(model.name, _loss(folders[model.name])),
            study.full_grid or model.name in headline,
            model.samples,
        )
        for model in config.models
    )


def _loss(folder: Path) -> float | None:
    path = folder / "pretraining.json"
    if not path.is_file():
        return None
    loss = json.loads(path.read_text()).get("held_out_loss")
    return None if loss is None else float(loss)
