"""One run, stage by stage: fine-tune, sample, verify, merge, fine-tune again, evaluate.

The first fine-tuning is the config's choice (`sft: null`): without it the base models sample, as they are.
So is a judge of what the verifier rejects (`grading.judge`).

Each block of `_run` is a stage, which commits files to the store. A stage makes only the files that are missing, so
running the same config again resumes the run, and a finished run has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

from rft_ray.config import Config
from rft_ray.config.errors import RunError
from rft_ray.corpus.builder import CorpusCounts, build_corpus
from rft_ray.corpus.selector import select_paths
from rft_ray.corpus.verifier import verify
from rft_ray.data import base_models, hub_records, problems
from rft_ray.data.prompts import stored
from rft_ray.evaluation.metrics import describe
from rft_ray.evaluation.stage import evaluate
from rft_ray.evaluation.summary import (
    complete,
    keep_seconds,
    made_same_corpus,
    read_summary,
    write_config,
    write_summary,
)
from rft_ray.evaluation.summary_records import Summary
from rft_ray.grading.spec import spec_of
from rft_ray.judging.asking import ask_about_rejects
from rft_ray.judging.opinions import read_opinions
from rft_ray.plan import prompt_kinds
from rft_ray.plan.jobs import JudgementJob, TrainingJob, VerdictJob
from rft_ray.plan.judges import judge_endpoints
from rft_ray.plan.run_plan import BEFORE_RFT, CONTROLS, Plan, make_plan
from rft_ray.plan.samplers import learns_gold, reasoning_openers, sources
from rft_ray.report.write import try_report
from rft_ray.runtime import actor_pool
from rft_ray.runtime.base_weights import commit_bases
from rft_ray.runtime.progress import Stopwatch
from rft_ray.sampling.quarantine import past_quarantine
from rft_ray.sampling.sampler import Ask
from rft_ray.sampling.stage import sample
from rft_ray.store import Store, StoreError, mark_run, open_store
from rft_ray.store.outages import kept_on_failure, through_outages
from rft_ray.store.plans import SOURCE, recorded_commits, recorded_sources, save_plan
from rft_ray.store.run_lock import run_lock
from rft_ray.training.results import TrainingError, without_rows
from rft_ray.training.stage import train

NOTHING_TO_DO = "nothing to do: every shard, model and evaluation of this run is committed"
WITHOUT_SOLUTIONS = ", or leave SFT out: --sft=null, or the preset self_improve (docs/your-data.md)"


class Incomplete(RunError, RuntimeError):
    """The run ended although planned samples are missing."""


def prepare(config: Config) -> tuple[Plan, Store]:
    """Read the problems, resolve the base models, plan the run and open its store.

    Raises DataError, ModelError or StoreError when one of them cannot be used.
    """
    store = open_store(f"{config.run.store}/{config.run.name}")
    hub_records.recall(store)
    train_set, test_set = problems.prepare_sets(config.problems, spec_of(config), recorded_commits(store))
    if any(learns_gold(config, model) for model in config.models):
        problems.check_solutions(train_set, train_set.count, WITHOUT_SOLUTIONS)
    config, pins = base_models.pin(config, recorded_sources(store))
    config = prompt_kinds.resolved(config, base_models.has_chat_template)
    bases = {name: base_models.fingerprint(source) for name, source in sources(config).items()}
    openers = reasoning_openers(config, base_models.opens_reasoning)
    return replace(make_plan(config, train_set, test_set, bases, openers=openers), sources=pins), store


def run(plan: Plan, store: Store) -> Summary:
    """Run the stages of the plan that are not done. Ray must be initialised. Returns the summary, as in the store.

    Raises NotARun when the store contains another run or is part of one, RunLocked while a repair runs on the store,
    StageError or TrainingError when a stage fails, and Incomplete when planned samples are missing at the end.
    """
    mark_run(store)
    plan = to_run(plan, store)
    save(plan, store)
    before = read_summary(store)
    previous = before if before and before.fingerprint == plan.fingerprint else None
    if previous or not before:  # while the summary of other settings stands, so does its config
        write_config(store, plan)
    if previous and previous.finished and complete(store, plan):
        print(NOTHING_TO_DO, flush=True)
        return previous
    watch = Stopwatch(before.stages if before and made_same_corpus(before, plan) else ())
    with run_lock(store, "job"), kept_on_failure(partial(keep_seconds, store, plan, watch)):
        stages = partial(_run, plan, store, watch, was_finished=bool(previous and previous.finished))
        if plan.config.engine.retry_quarantined:  # a second call would release once more what failed in the first
            return stages()
        return through_outages(stages, f"the run {plan.config.run.name}", resumes=True)


def finished(plan: Plan, store: Store) -> bool:
    """Whether nothing of a plan is left to do: its summary says that it finished, and every file is committed."""
    summary = read_summary(store)
    if not summary or not summary.finished:
        return False
    plan = to_run(plan, store)
    return summary.fingerprint == plan.fingerprint and complete(store, plan)


def to_run(plan: Plan, store: Store) -> Plan:
    """The plan without its quarantined shards, unless they are to be tried again."""
    return plan if plan.config.engine.retry_quarantined else past_quarantine(plan, store)


def save(plan: Plan, store: Store) -> None:
    """Commit the plan to the run, unless it is saved there. Raises RunLocked while a repair or a prune runs on it."""
    data = problems.origins(plan.train, plan.test)
    data |= {f"model {name}": base for name, base in plan.bases.items()}
    data |= {f"{SOURCE}{source}": pinned for source, pinned in plan.sources.items()}
    hub_records.record(store, sources(plan.config).values(), (plan.train, plan.test))
    save_plan(store, plan, job="run", config=plan.config.to_yaml(), data=data)


def _run(plan: Plan, store: Store, watch: Stopwatch, *, was_finished: bool) -> Summary:
    config, actors, form = plan.config, plan.config.grading.actors, stored(plan.config.prompt)
    with watch.stage("problems") as counts:
        problems.commit_problems(store, plan.train)
        problems.commit_problems(store, plan.test)
        counts |= asdict(build_corpus(plan.gold, store, plan.train, form))

    if config.run.base_weights == "store":
        with watch.stage("base models") as counts:
            bases = {source: plan.bases[name] for name, source in sources(config).items()}
            counts["committed"] = commit_bases(store, bases)

    if plan.sft:
        with watch.stage("sft") as counts:
            counts["trained"] = fine_tune(plan.sft, store, config)

    with watch.stage("sample") as counts:
        jobs = [*plan.collected, *plan.evaluation_verdicts(*BEFORE_RFT)]
        plan, counts["shards"] = sample_all(jobs, plan, store, watch)
        tests = plan.evaluation_verdicts(*BEFORE_RFT)

    with watch.stage("verify") as counts:
        counts["shards"] = len(verify([*plan.collected, *tests], store, actors))

    if plan.judged:
        with watch.stage("judge") as counts:
            plan, counts["shards"] = sample_all(plan.judged, plan, store, watch, ask_about_rejects)
            read_opinions(plan.judged, store, actors)

    with watch.stage("select paths") as counts:
        counts["blocks"] = len(select_paths(plan.path_jobs, store, actors))

    with watch.stage("corpus") as counts:
        built = {corpus.key: build_corpus(corpus, store, plan.train, form) for corpus in reversed(plan.corpora)}
        counts |= asdict(list(built.values())[-1])  # the union comes last, so its counts are the ones shown
    if not was_finished:
        for name, account in write_summary(store, plan, watch, finished=False).ledger.items():
            print(f"  {name}: {account.in_words()}", flush=True)
    check_rows([*plan.rft, *plan.controls], built)

    with watch.stage("rft") as counts:
        counts["trained"] = fine_tune([*plan.rft, *plan.controls], store, config)

    with watch.stage("evaluate"):
        plan, _ = sample_all(plan.evaluation_verdicts("rft", *CONTROLS), plan, store, watch)
        verify(plan.evaluation_verdicts("rft", *CONTROLS), store, actors)
        for job in plan.evaluations:
            print(f"  {job.model.name:>12} {job.setting:<14} {describe(evaluate(job, store))}", flush=True)

    summary = write_summary(store, plan, watch, finished=True)
    print(try_report(store), flush=True)
    if missing := sum(account.missing - account.quarantined for account in summary.ledger.values()):
        raise Incomplete(f"{missing} planned samples are missing; run the same command again")
    return summary


def sample_all(
    jobs: Sequence[VerdictJob] | Sequence[JudgementJob],
    plan: Plan,
    store: Store,
    watch: Stopwatch,
    ask: Ask | None = None,
) -> tuple[Plan, int]:
    """Sample the missing shards. Returns the plan without quarantined shards, and the number of shards made.

    `ask`: makes the requests of a shard; None: one for each problem. Raises StageError when shards are quarantined and
    the config does not let the run continue; the summary, which lists them, is written first.
    """
    config = plan.config
    try:
        receipts = sample(
            [job.sampling for job in jobs],
            store,
            config.engine,
            run_seed=config.run.seed,
            endpoints=config.endpoints | judge_endpoints(config),
            ask=ask,
        )
    except actor_pool.StageError:
        with suppress(StoreError):  # an outage here must not hide the stage's end, after which nothing is tried again
            write_summary(store, plan, watch, finished=False)
        raise
    plan = past_quarantine(plan, store)
    save(plan, store)
    return plan, len(receipts)


def check_rows(jobs: Sequence[TrainingJob], corpora: Mapping[str, CorpusCounts]) -> None:
    """Raises TrainingError, before workers start, where a corpus of a job has no rows. `corpora`: by their keys."""
    for job in jobs:
        if (counts := corpora.get(job.data_key)) and not counts.gold + counts.paths:
            raise TrainingError(f"{job.stage} of {job.model}: {without_rows(job.data_key)}")


def fine_tune(jobs: Sequence[TrainingJob], store: Store, config: Config) -> int:
    """Train the models that are not committed, printing progress every few seconds. Returns how many were trained."""
    results = train(jobs, store.url, config.training, on_progress=lambda progress: print(f"  {progress}", flush=True))
    for result in results:
        for note in result.notes():
            print(f"  {result.model}: {note}")
    return sum(result.committed_here for result in results)
