"""A config -> the job of each stage: training, samples with their verdicts, paths, corpus, evaluation. Pure.

`run_plan.py` makes the plan of a run of these jobs, and `study/plan.py` that of a scaling study.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rft_ray.config import ENDPOINT, BaseModelSpec, Config, ConfigError, Recipe
from rft_ray.data.problems import ProblemSet
from rft_ray.data.prompts import shots_of
from rft_ray.grading.spec import DEFAULT, distinct_by, source_sha256, spec_of
from rft_ray.plan.jobs import (
    CorpusJob,
    EvaluationJob,
    JudgementJob,
    ModelRef,
    PathJob,
    SamplingJob,
    TrainingJob,
    VerdictJob,
)
from rft_ray.plan.samplers import opens_reasoning, prompt_of, trained_model
from rft_ray.plan.sampling_settings import SamplingSettings, settings_of
from rft_ray.store.names import FIRST_SHOTS, VERSIONS, fingerprint_of


def training_job(
    config: Config,
    model: BaseModelSpec,
    stage: str,
    bases: Mapping[str, str],
    data: CorpusJob,
    *,
    same_steps_as: CorpusJob | None = None,
    seed: int | None = None,
    start: TrainingJob | None = None,
) -> TrainingJob:
    """The training of one model on one corpus: by the SFT recipe in the stage `sft`, by the RFT recipe in other stages.

    `same_steps_as`: train as many steps as on that corpus. The fingerprint holds that corpus's, as its length is not
    known yet. `start`: the training whose model it starts from, instead of the base.
    """
    recipe: Recipe = config.sft if stage == "sft" and config.sft else config.rft.recipe
    template = prompt_of(config, model)
    seed = model.seed if seed is None else seed
    steps = {"same_steps_as": same_steps_as.fingerprint} if same_steps_as else {}
    name = fingerprint_of(
        "training",
        base=start.fingerprint if start else bases[model.name],
        data=data.fingerprint,
        recipe=recipe.identity,
        prompt=template,
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
        template=template,
        seed=seed,
        start=start.fingerprint if start else "",
        same_steps_as=same_steps_as.key if same_steps_as else "",
    )


def path_job(config: Config, collected: Sequence[VerdictJob], judged: Sequence[JudgementJob] = ()) -> PathJob:
    """The paths selected from the samples of these models, pooled. `judged`: the judgements on them, if any."""
    corpus = config.corpus
    shared = distinct_by(corpus.distinct_by, config.grading.verifier)
    return PathJob(
        tuple(collected),
        corpus.dedup,
        corpus.normal_form,
        reasoning=corpus.reasoning,
        distinct_by=shared,
        distinct_source=source_sha256(shared, "corpus.distinct_by") if ":" in shared else "",
        near_duplicates=corpus.near_duplicate_threshold,
        accepted=tuple(judged) if corpus.judge == "accept" else (),
    )


def gold_corpus(config: Config, train: ProblemSet) -> CorpusJob:
    """The corpus of the gold solutions alone."""
    return CorpusJob(train.fingerprint, train.count, gold_mode=config.grading.mode)


def corpus_job(config: Config, train: ProblemSet, paths: PathJob) -> CorpusJob:
    """The corpus of the gold solutions and these paths."""
    return CorpusJob(
        train.fingerprint, train.count, paths, config.corpus.max_paths_per_problem, gold=config.corpus.gold
    )


def collecting(
    config: Config, model: BaseModelSpec, ref: ModelRef, train: ProblemSet, openers: Collection[str] = ()
) -> VerdictJob:
    """The verdicts on a model's samples of the training problems, graded to collect paths. `ref`: what samples."""
    settings = settings_of(config, prompt_of(config, model), endpoint=ref.source.startswith(ENDPOINT))
    if model.shots:
        settings = _with_shots(settings, model.shots, train, VERSIONS["shots"])
    sampling = _sampling(config, ref, train, settings, config.sampling.samples_per_problem)
    opens = opens_reasoning(model, openers)
    return VerdictJob(sampling, config.grading.mode, "collect", rules=spec_of(config), opens_reasoning=opens)


def refuse_twins(collected: Sequence[VerdictJob]) -> None:
    """Raises ConfigError where two names stand for one sampler: each of its samples would count twice."""
    first: dict[str, str] = {}
    for job in collected:
        name = job.sampling.model.name
        if (other := first.setdefault(job.sampling.fingerprint, name)) != name:
            raise ConfigError(
                f"models {other!r} and {name!r} are the same sampler: give one of them another seed, source, or prompt"
            )


def evaluation_job(config: Config, job: TrainingJob, test: ProblemSet, *, samples: bool = True) -> EvaluationJob:
    """The evaluation of a trained model. `samples`: draw samples for maj@k and pass@k too."""
    k = config.evaluation.samples_per_problem if samples else 0
    return _evaluation(config, trained_model(job), job.stage, test, settings_of(config, job.template), k)


def base_evaluation(config: Config, model: BaseModelSpec, test: ProblemSet, bases: Mapping[str, str]) -> EvaluationJob:
    """The evaluation of a base model as it is, to compare with what RFT makes of it."""
    ref = ModelRef(model.name, "base", bases[model.name], model.source)
    settings = settings_of(config, prompt_of(config, model))
    return _evaluation(config, ref, "base", test, settings, config.evaluation.samples_per_problem)


def icl_evaluations(
    config: Config, train: ProblemSet, test: ProblemSet, bases: Mapping[str, str]
) -> list[EvaluationJob]:
    """In-context evaluation of each distinct base model (two samplers of one base share it), greedy only."""
    shots = config.evaluation.icl_shots
    local = [model for model in reversed(config.models) if not model.is_endpoint]
    distinct = {bases[model.name]: model for model in local} if shots else {}
    tested = {problem.problem_id for problem in test.problems}
    shown_itself = any(shot.problem_id in tested for shot in shots_of(train.problems, shots)[:shots])
    version = VERSIONS["shots"] if shown_itself else FIRST_SHOTS
    evaluations = []
    for name, model in distinct.items():
        ref = ModelRef(model.name, "base", name, model.source)
        settings = _with_shots(settings_of(config, prompt_of(config, model)), shots, train, version)
        evaluations.append(_evaluation(config, ref, "icl", test, settings, 0))
    return evaluations


def _with_shots(settings: SamplingSettings, shots: int, train: ProblemSet, version: int) -> SamplingSettings:
    return replace(settings, shots=shots, shots_from=train.fingerprint, shots_version=version)


def _evaluation(
    config: Config, model: ModelRef, setting: str, test: ProblemSet, settings: SamplingSettings, k: int
) -> EvaluationJob:
    """One greedy answer for each test problem, and k samples. `settings`: those of the model's samples for a corpus."""
    evaluation = config.evaluation
    sampled = replace(
        settings, temperature=evaluation.temperature, top_p=1.0, samples_per_block=evaluation.samples_per_block
    )
    greedy = replace(sampled, temperature=0.0, samples_per_block=1, top_k=None, min_p=0.0, repetition_penalty=1.0)
    rules = replace(spec_of(config), unread=DEFAULT.unread)  # equations are not read
    one, many = (
        VerdictJob(_sampling(config, model, test, how, count), config.grading.mode, "evaluate", rules=rules)
        for how, count in ((greedy, 1), (sampled, k))
    )
    return EvaluationJob(model, setting, one, many if k else None)


def _sampling(config: Config, model: ModelRef, problems: ProblemSet, settings: SamplingSettings, k: int) -> SamplingJob:
    per_block = config.problems.per_block
    return SamplingJob(model, problems.fingerprint, problems.count, per_block, settings, k, config.run.seed)
