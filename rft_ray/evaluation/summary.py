"""A run's `summary.json`, made from its committed files, with an account of every planned sample.

The records and their JSON are in `summary_records.py`. The summary is made from the store and can be rebuilt at any
time, except `stages` (seconds per stage, summed over resumed runs), which is carried over from the previous summary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rft_ray.config import Endpoint
from rft_ray.corpus.builder import counts_of
from rft_ray.corpus.verify_summary import JOB as VERIFY
from rft_ray.evaluation.gpu_use import gpu_use, union_seconds
from rft_ray.evaluation.metrics import Difference, metrics, paired_difference
from rft_ray.evaluation.model_index import write_index
from rft_ray.evaluation.stage import read_records
from rft_ray.evaluation.summary_records import (
    Account,
    BadPlace,
    Charged,
    Complementarity,
    Corpus,
    Evaluation,
    Judged,
    ModelEntry,
    ModelPaths,
    ProblemCounts,
    QuarantinedShard,
    Summary,
    parse_summary,
    summary_json,
)
from rft_ray.grading import MODES, Mode
from rft_ray.plan.cost import price
from rft_ray.plan.jobs import CorpusJob, SamplingJob, VerdictJob
from rft_ray.plan.judges import JUDGE, judge_endpoints
from rft_ray.plan.run_plan import CONTROLS, Plan, verdicts_of
from rft_ray.records import REJECTIONS, Opinion, Status
from rft_ray.runtime.progress import StageTime, Stopwatch
from rft_ray.sampling import places
from rft_ray.sampling.engine_load import EngineLoad, merged
from rft_ray.sampling.quarantine import Held, held_shards
from rft_ray.store import NotFound, Store, StoreError, present
from rft_ray.store.models.committed import committed_model
from rft_ray.store.names import split
from rft_ray.store.shards import committed_keys, missing_shards, shard_metadata

SUMMARY = "summary.json"
CONFIG = "config.yaml"
"""The config of the plan that the summary is of."""


def read_summary(store: Store) -> Summary | None:
    """The run's summary as last written; None when there is none, it cannot be read, or another job wrote it."""
    try:
        return parse_summary(store.read(SUMMARY))
    except (NotFound, ValueError):  # the next run rebuilds it
        return None


def required_summary(store: Store, lacks: str) -> Summary:
    """The run's summary. Raises StoreError, which says why there is none.

    `lacks`: what is said of the run of another job. Example: "has no report: its figures are in its summary.json"
    """
    if summary := read_summary(store):
        return summary
    if (job := job_of(store)) not in (None, "pipeline"):
        raise StoreError(f"{store.url} is of `rft-ray {job}`, which {lacks}")
    if store.exists(SUMMARY):
        raise StoreError(f"{store.url}/{SUMMARY} is damaged: run the run's command again, which rebuilds it")
    raise StoreError(
        f"{store.url} has no {SUMMARY}: give the folder or s3:// address of a run that has built its corpus"
    )


def job_of(store: Store) -> str | None:
    """The job that wrote the store's summary: `pipeline`, or the job that the summary names (`verify`).

    None when there is no summary, or it is not a JSON object.
    """
    tree = _tree(store)
    return None if tree is None else str(tree.get("job", "pipeline"))


def samplers_of(store: Store) -> dict[str, str]:
    """Model -> fingerprint of its sampling job, of those that the summary of a run or of `rft-ray verify` counts.

    Empty when there is no summary, or an earlier version of `rft-ray verify` wrote it.
    """
    if summary := read_summary(store):
        return summary.samplers
    tree = _tree(store) or {}
    return dict(tree.get("samplers", {})) if tree.get("job") == VERIFY else {}


def corpora_of(store: Store, config: Mapping[str, Any]) -> dict[Mode, str]:
    """Mode of the verdicts -> key of the JSONL of the corpus made from them, of those that the summary counts.

    `config`: the run's saved config, as a tree; empty for `rft-ray verify`. Empty when there is no such corpus yet, or
    the summary, of an earlier version, does not name its samplers.
    """
    if summary := read_summary(store):
        file = summary.corpus.file if summary.corpus and summary.samplers else None
        return {config["grading"]["mode"]: file} if file and config else {}
    corpora = (_tree(store) or {}).get("corpus") or {}
    return {mode: corpora[mode]["file"] for mode in MODES if mode in corpora} if samplers_of(store) else {}


def _tree(store: Store) -> dict[str, Any] | None:
    """The JSON object in the store's summary; None where there is none."""
    try:
        tree: Any = json.loads(store.read(SUMMARY))
    except (NotFound, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def made_same_corpus(summary: Summary, plan: Plan) -> bool:
    """Whether a summary's seconds per stage belong to this plan too, because it describes the same run or corpus.

    Controls that were added to a run, for example, do not change its corpus. A run that ended before it had a corpus is
    known by its plan.
    """
    file = summary.corpus.file if summary.corpus else None
    return summary.fingerprint == plan.fingerprint or split(file or "")[0] == split(plan.corpus.jsonl_key)[0]


def write_summary(store: Store, plan: Plan, watch: Stopwatch, *, finished: bool) -> Summary:
    """Rebuild `summary.json` from the store, its config and the index of models. Returns the summary.

    Each file is replaced atomically.
    """
    summary = summarize(store, plan, watch.stages, finished=finished)
    write_config(store, plan)
    store.replace(SUMMARY, summary_json(summary))
    write_index(store, summary)
    return summary


def write_config(store: Store, plan: Plan) -> None:
    """Write the plan's config as that of the run's summary, unless it is that already."""
    config = plan.config.to_yaml().encode()
    if not store.exists(CONFIG) or store.read(CONFIG) != config:
        store.replace(CONFIG, config)


def keep_seconds(store: Store, plan: Plan, watch: Stopwatch) -> None:
    """Write the times of a run that ends early into its summary, if it has one, and leave the rest as it is."""
    summary = read_summary(store)
    if summary and made_same_corpus(summary, plan):
        store.replace(SUMMARY, summary_json(replace(summary, stages=tuple(watch.stages), seconds=_total(watch.stages))))


def _total(stages: Sequence[StageTime]) -> float:
    return round(sum(stage.seconds for stage in stages), 3)


def summarize(store: Store, plan: Plan, stages: Sequence[StageTime] = (), *, finished: bool = False) -> Summary:
    """The summary of the committed files, with the given times of the stages."""
    overlaps = complementarity(store, plan)
    held = held_shards(store, plan)
    return Summary(
        run=plan.config.run.name,
        fingerprint=plan.fingerprint,
        problems=_problems(plan),
        samplers={job.sampling.model.name: job.sampling.fingerprint for job in plan.collected},
        models=tuple(ModelEntry(job.model, job.stage, job.fingerprint, job.base) for job in plan.trainings),
        ledger={
            job.sampling.model.name: _with_opinions(
                account_of(store, job, overlaps, held, plan.config.endpoints), store, plan, at
            )
            for at, job in enumerate(plan.collected)
        },
        quarantine=tuple(_quarantined(shard) for shard in held),
        corpus=_corpus(store, plan.corpus),
        own_corpora={job.paths.samplers[0]: _corpus(store, job) for job in plan.own if job.paths},
        complementarity=overlaps,
        evaluation=_evaluation(store, plan),
        paired=_paired(store, plan),
        finished=finished,
        stages=tuple(stages),
        seconds=_total(stages),
        gpu_use=gpu_use(store, plan, stages) if finished and _may_use_gpus(plan) else (),
        bad_places=bad_places(store, plan.samplings),
    )


def bad_places(store: Store, jobs: Iterable[SamplingJob]) -> tuple[BadPlace, ...]:
    """The places that could not load a model of these jobs, by name. A model that nobody could load is left out."""
    failures = places.noted(store)
    failed = {failure.model for failure in failures}
    of_failed = [job for job in jobs if job.model.fingerprint in failed]
    sampled = [job.model for job in of_failed if committed_keys(store, job.shards())]
    names = {model.fingerprint: f"{model.name} ({model.stage})" for model in sampled}
    by_place: dict[str, dict[str, str]] = {}
    for failure in failures:
        if failure.model in names:
            by_place.setdefault(str(failure.place), {})[names[failure.model]] = failure.reason
    return tuple(BadPlace(place, tuple(why), next(iter(why.values()))) for place, why in sorted(by_place.items()))


def _may_use_gpus(plan: Plan) -> bool:
    return {plan.config.training.device, plan.config.engine.device} != {"cpu"}


def _problems(plan: Plan) -> ProblemCounts:
    dropped = {
        name: asdict(part.dropped) for name, part in (("train", plan.train), ("test", plan.test)) if part.dropped
    }
    return ProblemCounts(plan.train.count, plan.test.count, plan.train.count - plan.train.solved, dropped)


def account_of(
    store: Store,
    job: VerdictJob,
    overlaps: Complementarity,
    held: Sequence[Held] = (),
    endpoints: Mapping[str, Endpoint] | None = None,
) -> Account:
    """The account of one model's samples of training problems. `overlaps`: the result of `complementarity`."""
    completions = list(shard_metadata(store, job.sampling.shards()))
    graded = list(shard_metadata(store, job.shards()))
    counts, verdicts = summed_counts(completions), summed_counts(graded)
    busy = busy_seconds(completions)
    loads = [EngineLoad(**json.loads(metadata["load"])) for metadata in completions if "load" in metadata]
    name = job.sampling.model.name
    paths = overlaps.by_model.get(name)
    return Account(
        planned=job.sampling.planned,
        skipped=counts["skipped"],
        missing=job.sampling.planned - counts["sampled"] - counts["skipped"],
        quarantined=sum(entry.samples for entry in held if entry.shard.fingerprint == job.sampling.fingerprint),
        sampled=counts["sampled"],
        accepted=verdicts[Status.CORRECT],
        rejected={str(status): verdicts[status] for status in REJECTIONS},
        partly_read=sum(int(metadata.get("partly_read", 0)) for metadata in graded),
        ungraded=counts["sampled"] - sum(verdicts.values()),
        distinct_paths=paths.distinct if paths else 0,
        tokens=counts["tokens"],
        tokens_per_s=round(counts["tokens"] / busy, 1) if busy else 0.0,
        load=merged(loads) if loads else None,
        charged=charged_for(counts, endpoints[name]) if endpoints and name in endpoints else None,
    )


def summed_counts(shards: Iterable[Mapping[str, str]]) -> Counter[str]:
    """The counts in the metadata of shards, added up by name."""
    total: Counter[str] = Counter()
    for metadata in shards:
        total.update(json.loads(metadata["counts"]))
    return total


def _with_opinions(account: Account, store: Store, plan: Plan, at: int) -> Account:
    """The account with the judge's opinions on what is rejected, where the plan has a judge. `at`: in `collected`."""
    if not plan.judged:
        return account
    opinions: dict[str, Counter[str]] = {status: Counter() for status in plan.judged[at].sampling.statuses}
    for metadata in shard_metadata(store, plan.judged[at].shards()):
        for status, counts in json.loads(metadata["counts"]).items():
            opinions[status].update(counts)
    judged = {status: _judged(counts) for status, counts in opinions.items()}
    endpoint = judge_endpoints(plan.config).get(JUDGE)
    charged = summed_counts(shard_metadata(store, plan.judged[at].sampling.shards()))
    return replace(account, judged=judged, judge_charged=charged_for(charged, endpoint) if endpoint else None)


def _judged(opinions: Mapping[str, int]) -> Judged:
    wrong, right, none = (opinions[opinion] for opinion in (Opinion.WRONG, Opinion.RIGHT, Opinion.NONE))
    return Judged(wrong + right + none, agreed=wrong, disagreed=right, no_opinion=none)


def charged_for(counts: Mapping[str, int], endpoint: Endpoint) -> Charged:
    """What an endpoint charged for the samples with these counts."""
    prompt_tokens, completion_tokens = counts["prompt_tokens"], counts["completion_tokens"]
    cost = price(endpoint.price_per_million_tokens, prompt_tokens, completion_tokens)
    return Charged(prompt_tokens, completion_tokens, None if cost is None else round(cost, 4))


def _quarantined(entry: Held) -> QuarantinedShard:
    shard = entry.shard
    problems = shard.problem_start, shard.problem_stop
    return QuarantinedShard(entry.model, shard.stem, problems, entry.samples, entry.failures, entry.reason)


def complementarity(store: Store, plan: Plan) -> Complementarity:
    """How the models' distinct paths complement each other, over all problems."""
    finders: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    for metadata in shard_metadata(store, plan.paths.shards()):
        counts = json.loads(metadata["counts"])
        finders.update(counts["found_by"])
        forms.update(counts["distinct_under"])
    names = [job.sampling.model.name for job in plan.collected]
    union = sum(finders.values())
    groups = {tuple(key.split("+")): count for key, count in finders.items()}
    by_model = {
        name: ModelPaths(
            distinct=sum(count for group, count in groups.items() if name in group),
            exclusive=groups.get((name,), 0),
            marginal_gain=round(groups.get((name,), 0) / union, 4) if union else 0.0,
        )
        for name in names
    }
    overlap = {
        a: {b: sum(count for group, count in groups.items() if a in group and b in group) for b in names} for a in names
    }
    return Complementarity(union, by_model, overlap, dict(forms))


def busy_seconds(completions: Iterable[dict[str, str]]) -> float:
    """Seconds during which at least one of the shards was being sampled: the length of the union of their intervals."""
    return union_seconds((float(m["ended_unix"]) - float(m["seconds"]), float(m["ended_unix"])) for m in completions)


def _corpus(store: Store, job: CorpusJob) -> Corpus | None:
    if not present(store, job.key):
        return None
    return Corpus(**asdict(counts_of(job, store)), file=present(store, job.jsonl_key))


def _evaluation(store: Store, plan: Plan) -> Evaluation:
    evaluation: Evaluation = {}
    for job in plan.evaluations:
        if present(store, job.key):
            evaluation.setdefault(job.model.name, {})[job.setting] = metrics(read_records(job, store), job.k)
    return evaluation


def _paired(store: Store, plan: Plan) -> dict[str, dict[str, Difference]]:
    """Per model: greedy accuracy of RFT minus that of base or SFT and of each control, on the same problems."""
    done = [job for job in plan.evaluations_of("base", "sft", "rft", *CONTROLS) if present(store, job.key)]
    rft = {job.model.name: job for job in done if job.setting == "rft"}
    differences: dict[str, dict[str, Difference]] = {}
    for job in done:
        name = job.model.name
        if job.setting != "rft" and name in rft:
            difference = paired_difference(read_records(rft[name], store), read_records(job, store))
            differences.setdefault(name, {})[f"rft_minus_{job.setting}"] = difference
    return differences


def complete(store: Store, plan: Plan) -> bool:
    """Whether every model, shard, corpus and evaluation of the plan is committed."""
    verdicts = [*plan.collected, *verdicts_of(plan.evaluations)]
    shards = [*plan.completion_shards(), *(shard for job in verdicts for shard in job.shards())]
    shards += [shard for opinions in plan.judged for shard in opinions.shards()]
    shards += [shard for job in plan.path_jobs for shard in job.shards()]
    corpora = [key for job in plan.corpora for key in (job.key, job.jsonl_key)]
    return (
        all(committed_model(store, job.fingerprint) for job in plan.trainings)
        and all(present(store, key) for key in (plan.gold.key, *corpora))
        and all(present(store, job.key) for job in plan.evaluations)
        and not missing_shards(store, shards)
    )
