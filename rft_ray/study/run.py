"""The stages of the scaling study: train, sample once, evaluate, answer.

In: a Config. Out: `study.json`. Each stage does only what is missing, so the same command resumes a study, and a
wider grid adds to it. All trainings of a stage share one worker group, all samples one execution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rft_ray.config import Config
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import select_paths
from rft_ray.corpus.verifier import verify
from rft_ray.data import base_models, hub_records, problems
from rft_ray.data.prompts import stored
from rft_ray.evaluation.metrics import describe
from rft_ray.evaluation.stage import evaluate
from rft_ray.grading.spec import spec_of
from rft_ray.plan import prompt_kinds
from rft_ray.plan.cost import duration
from rft_ray.plan.jobs import CorpusJob, SamplingJob, VerdictJob
from rft_ray.plan.samplers import reasoning_openers
from rft_ray.runtime.base_weights import commit_bases
from rft_ray.runtime.progress import Stopwatch
from rft_ray.sampling.stage import sample
from rft_ray.store import NotFound, Store, mark_run, open_store, present
from rft_ray.store.models.committed import committed_model
from rft_ray.store.outages import kept_on_failure, through_outages
from rft_ray.store.plans import SOURCE, recorded_commits, recorded_sources, save_plan
from rft_ray.store.run_lock import run_lock
from rft_ray.study.answers import comparisons, fits, slopes
from rft_ray.study.cost import training_seconds
from rft_ray.study.findings import findings
from rft_ray.study.plan import PlannedPoint, StudyPlan, facts_of, make_study_plan
from rft_ray.study.points import read_evidence
from rft_ray.study.result import Study, StudyError, read_study, write_study
from rft_ray.study.tables import tables
from rft_ray.training.results import TrainingProgress
from rft_ray.training.stage import train

NOTHING_TO_DO = "nothing to do: every point is trained and evaluated"

OnAnswer = Callable[[Store], object]
"""Called with the store after `study.json` is written, to write the page."""


def prepare(config: Config) -> tuple[StudyPlan, Store]:
    """Read the data, find the base models, plan the study. Raises ConfigError, DataError, ModelError, StoreError."""
    store = open_store(f"{config.run.store}/{config.run.name}")
    hub_records.recall(store)
    train_set, test_set = problems.prepare_sets(config.problems, spec_of(config), recorded_commits(store))
    problems.check_solutions(train_set, max(1, train_set.count >> config.study.halvings))
    config, sources = base_models.pin(config, recorded_sources(store))
    config = prompt_kinds.resolved(config, base_models.has_chat_template)
    named = {model.name: model.source for model in config.models}
    bases = {name: base_models.fingerprint(source) for name, source in named.items()}
    folders = {name: base_models.metadata(source) for name, source in named.items()}
    facts = facts_of(config, folders, {name: base_models.size(source) for name, source in named.items()})
    openers = reasoning_openers(config, base_models.opens_reasoning)
    return replace(make_study_plan(config, train_set, test_set, bases, facts, openers), sources=sources), store


def run(plan: StudyPlan, store: Store, command: str, on_answer: OnAnswer) -> Study:
    """Run the stages that are missing; Ray must be initialised. Returns the study as written to the store.

    `on_answer` is called with the store each time that `study.json` is written.
    """
    mark_run(store)
    save(plan, store)
    watch = stopwatch(plan, store)
    with run_lock(store, "job"), kept_on_failure(partial(keep_seconds, store, plan, watch)):
        stages = partial(_run, plan, store, watch, command, on_answer)
        return through_outages(stages, f"the study {plan.config.run.name}", resumes=True)


def save(plan: StudyPlan, store: Store) -> None:
    """Commit the plan to the run, unless it is saved there. Raises RunLocked while a repair or a prune runs on it."""
    data = problems.origins(plan.train, plan.test)
    data |= {f"model {point.spec.model}": point.training.base_fingerprint for point in plan.points}
    data |= {f"{SOURCE}{source}": pinned for source, pinned in plan.sources.items()}
    hub_records.record(store, [model.source for model in plan.config.models], (plan.train, plan.test))
    save_plan(store, plan, job="study", config=plan.config.to_yaml(), data=data)


def _run(plan: StudyPlan, store: Store, watch: Stopwatch, command: str, on_answer: OnAnswer) -> Study:
    config = plan.config
    store.replace("config.yaml", config.to_yaml().encode())

    with watch.stage("problems"):
        problems.commit_problems(store, plan.train)
        problems.commit_problems(store, plan.test)
        _build([job for job in plan.corpora if job.paths is None], plan, store)

    if config.run.base_weights == "store":
        with watch.stage("base models") as counts:
            sources = {model.name: model.source for model in config.models}
            bases = {sources[point.spec.model]: point.training.base_fingerprint for point in plan.points}
            counts["committed"] = commit_bases(store, bases)

    with watch.stage("sft") as counts:
        counts["trained"] = fine_tune(plan, store, late=False)

    with watch.stage("sample") as counts:
        tests = [point.evaluation.greedy for point in plan.of(late=False)]
        counts["shards"] = _sample_and_verify([*plan.collected, *tests], plan, store)
        _evaluate(plan.of(late=False), store)
    answer(plan, store, watch, command, on_answer)

    with watch.stage("select paths") as counts:
        counts["blocks"] = len(select_paths(plan.path_jobs, store, config.grading.actors))
        _build([job for job in plan.corpora if job.paths], plan, store)

    with watch.stage("rft") as counts:
        counts["trained"] = fine_tune(plan, store, late=True)

    with watch.stage("evaluate") as counts:
        tests = [point.evaluation.greedy for point in plan.of(late=True)]
        counts["shards"] = _sample_and_verify(tests, plan, store)
        _evaluate(plan.of(late=True), store)
    return answer(plan, store, watch, command, on_answer)


def answer(plan: StudyPlan, store: Store, watch: Stopwatch, command: str, on_answer: OnAnswer) -> Study:
    """Write `study.json` from the committed files."""
    evidence = read_evidence(plan, store)
    lines, common, differences = fits(evidence), slopes(evidence), comparisons(evidence)
    study = Study(
        run=plan.config.run.name,
        fingerprint=plan.fingerprint,
        command=command,
        finished=len(evidence.points) == len(plan.points),
        planned=len(plan.points),
        train_problems=plan.train.count,
        test_problems=plan.test.count,
        k=plan.k,
        models=plan.models,
        points=tuple(evidence.points),
        fits=tuple(lines),
        slopes=tuple(common),
        comparisons=tuple(differences),
        tables=tuple(tables(evidence, lines, differences)),
        findings=tuple(findings(lines, common, differences)),
        skipped=plan.skipped,
        stages=watch.stages,
    )
    write_study(store, study)
    on_answer(store)
    return study


def complete(plan: StudyPlan, store: Store) -> bool:
    """Whether every point is evaluated, so that only `answer` is left."""
    return all(present(store, point.evaluation.key) for point in plan.points)


def missing(plan: StudyPlan, store: Store, *, late: bool) -> list[PlannedPoint]:
    """The points before or after sampling that are not trained yet."""
    return [point for point in plan.of(late=late) if committed_model(store, point.training.fingerprint) is None]


def stopwatch(plan: StudyPlan, store: Store) -> Stopwatch:
    """A stopwatch that continues from the seconds of earlier runs of this study."""
    before = earlier(plan, store)
    return Stopwatch(before.stages if before else ())


def earlier(plan: StudyPlan, store: Store) -> Study | None:
    """The study as an earlier run wrote it; None where there is none, or it is of another plan or cannot be read."""
    try:
        before = read_study(store)
    except (NotFound, StudyError):  # study.json is a view: it is rewritten when it cannot be read
        return None
    return before if before.fingerprint == plan.fingerprint else None


def keep_seconds(store: Store, plan: StudyPlan, watch: Stopwatch) -> None:
    """Write the times of a study that ends early into its result, if it has one, and leave the rest as it is."""
    if before := earlier(plan, store):
        write_study(store, replace(before, stages=watch.stages))


def fine_tune(plan: StudyPlan, store: Store, *, late: bool) -> int:
    """Train the missing points before or after sampling. Returns the number trained."""
    points = missing(plan, store, late=late)
    if not points:
        return 0
    jobs = [replace(point.training, model=point.spec.name) for point in points]
    results = train(jobs, store.url, plan.config.training, on_progress=Ticker(plan, points))
    return sum(result.committed_here for result in results)


class Ticker:
    """Prints which training runs, and the time left for all of them at the pace so far."""

    def __init__(self, plan: StudyPlan, points: Sequence[PlannedPoint]) -> None:
        self._weights = {point.spec.name: training_seconds(plan, point, gpu=False) for point in points}
        self._names = list(self._weights)
        self._done = dict.fromkeys(self._names, 0.0)
        self._started: tuple[float, float] | None = None

    def __call__(self, progress: TrainingProgress) -> None:
        place, now = self._names.index(progress.model), time.monotonic()
        self._done[progress.model] = self._weights[progress.model] * progress.step / progress.steps
        done = sum(self._done.values())
        self._started = self._started or (now, done)
        began, before = self._started
        left = ""
        if done > before:
            rest = sum(self._weights.values()) - done
            left = f"; all: {duration(rest * (now - began) / (done - before))} left"
        line = str(progress).removeprefix(f"{progress.stage} ")  # the point's name has the stage
        print(f"  {place + 1}/{len(self._names)} {line}{left}", flush=True)


def _build(jobs: Sequence[CorpusJob], plan: StudyPlan, store: Store) -> None:
    for job in jobs:
        build_corpus(job, store, plan.train, stored(plan.config.prompt))


def _sample_and_verify(jobs: Sequence[VerdictJob], plan: StudyPlan, store: Store) -> int:
    samplings: list[SamplingJob] = [job.sampling for job in jobs]
    engine = plan.config.engine.model_copy(update={"on_failed_shard": "stop"})  # a point needs all of its samples
    receipts = sample(samplings, store, engine, run_seed=plan.config.run.seed)
    verify(jobs, store, plan.config.grading.actors)
    return len(receipts)


def _evaluate(points: Sequence[PlannedPoint], store: Store) -> None:
    for point in points:
        print(f"  {point.spec.name:<44} {describe(evaluate(point.evaluation, store))}", flush=True)
