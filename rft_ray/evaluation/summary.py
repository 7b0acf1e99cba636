"""What a run's committed files say: `summary.json`, and every sample accounted for.

planned = sampled + skipped + missing, and sampled = accepted + sum of rejected, per model; of what is missing,
`quarantined` is what engines failed on, listed with reasons under `quarantine`. Made from the store alone,
so it can be rebuilt at any time; `stages` (seconds per stage, summed over resumed runs) is carried from the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rft_ray.corpus.builder import counts_of
from rft_ray.evaluation.metrics import metrics, paired_difference
from rft_ray.evaluation.stage import read_records
from rft_ray.plan.jobs import CorpusJob, VerdictJob
from rft_ray.plan.run_plan import CONTROLS, Plan, verdicts_of
from rft_ray.records import REJECTIONS, Status
from rft_ray.runtime.progress import Stopwatch
from rft_ray.sampling import quarantine
from rft_ray.sampling.quarantine import held_shards
from rft_ray.store import NotFound, Store, present
from rft_ray.store.models.committed import committed_model
from rft_ray.store.names import split
from rft_ray.store.shards import missing_shards, shard_metadata


def read_summary(store: Store) -> dict[str, Any] | None:
    """The run's summary as last written, or None."""
    try:
        summary: dict[str, Any] = json.loads(store.read("summary.json"))
    except (NotFound, json.JSONDecodeError):  # a view: rebuilt when it cannot be read
        return None
    return summary


def samplers_of(store: Store) -> list[str]:
    """Fingerprints of the sampling jobs whose samples the run's summary counts; empty where there is no summary."""
    return list(((read_summary(store) or {}).get("samplers") or {}).values())


def made_same_corpus(summary: dict[str, Any], plan: Plan) -> bool:
    """Whether a summary's seconds count for this plan too: controls, say, add to a run and repeat nothing of it."""
    made = summary.get("corpus", {}).get("file") or ""
    return split(made)[0] == split(plan.corpus.jsonl_key)[0]


def write_summary(store: Store, plan: Plan, watch: Stopwatch, *, finished: bool) -> dict[str, Any]:
    """Rebuild `summary.json` from the store (a view: replaced atomically) and return it."""
    summary = summarize(store, plan) | {
        "finished": finished,
        "stages": watch.stages,
        "seconds": round(sum(stage["seconds"] for stage in watch.stages), 3),
    }
    store.replace("summary.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
    return summary


def summarize(store: Store, plan: Plan) -> dict[str, Any]:
    """Everything a report would show, from committed files; see README, "A run's anatomy"."""
    found = complementarity(store, plan)
    held = held_shards(store, plan)
    evaluation: dict[str, dict[str, Any]] = {}
    for job in plan.evaluations:
        if present(store, job.key):
            evaluation.setdefault(job.model.name, {})[job.setting] = metrics(read_records(job, store), job.k)
    return {
        "run": plan.config.run.name,
        "fingerprint": plan.fingerprint,
        "problems": {"train": plan.train.count, "test": plan.test.count},
        "samplers": {job.sampling.model.name: job.sampling.fingerprint for job in plan.collected},
        "models": [
            {"model": job.model, "stage": job.stage, "fingerprint": job.fingerprint, "base": job.base}
            for job in plan.trainings
        ],
        "ledger": {job.sampling.model.name: ledger_of(store, job, found, held) for job in plan.collected},
        "quarantine": quarantine.as_data(held),
        "corpus": _corpus(store, plan.corpus),
        "own_corpora": {job.paths.samplers[0]: _corpus(store, job) for job in plan.own if job.paths},
        "complementarity": found,
        "evaluation": evaluation,
        "paired": _paired(store, plan),
    }


def ledger_of(
    store: Store, job: VerdictJob, found: dict[str, Any], held: Sequence[quarantine.Held] = ()
) -> dict[str, Any]:
    """The account of one model's samples of the training problems. `found`: what `complementarity` returned."""
    completions = list(shard_metadata(store, job.sampling.shards()))
    counts: Counter[str] = Counter()
    for metadata in completions:
        counts.update(json.loads(metadata["counts"]))
    verdicts: Counter[str] = Counter()
    for metadata in shard_metadata(store, job.shards()):
        verdicts.update(json.loads(metadata["counts"]))
    busy = busy_seconds(completions)
    return {
        "planned": job.sampling.planned,
        "skipped": counts["skipped"],
        "missing": job.sampling.planned - counts["sampled"] - counts["skipped"],
        "quarantined": sum(one.samples for one in held if one.shard.fingerprint == job.sampling.fingerprint),
        "sampled": counts["sampled"],
        "accepted": verdicts[Status.CORRECT],
        "rejected": {str(status): verdicts[status] for status in REJECTIONS},
        "ungraded": counts["sampled"] - sum(verdicts.values()),
        "distinct_paths": found["by_model"].get(job.sampling.model.name, {}).get("distinct", 0),
        "tokens": counts["tokens"],
        "tokens_per_s": round(counts["tokens"] / busy, 1) if busy else 0.0,
    }


def complementarity(store: Store, plan: Plan) -> dict[str, Any]:
    """How the models' distinct paths complement each other, over all problems.

    `by_model`: distinct (found by this model), exclusive (by no other), marginal_gain (what the union would lose
    without it: the same number, as a share of the union). `overlap`: distinct paths that both models found.
    `distinct_under`: paths of the union under each normal form, gold not counted.
    """
    found: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    for metadata in shard_metadata(store, plan.paths.shards()):
        counts = json.loads(metadata["counts"])
        found.update(counts["found_by"])
        forms.update(counts["distinct_under"])
    names = [job.sampling.model.name for job in plan.collected]
    union = sum(found.values())
    groups = {tuple(key.split("+")): count for key, count in found.items()}
    by_model = {
        name: {
            "distinct": sum(count for group, count in groups.items() if name in group),
            "exclusive": groups.get((name,), 0),
            "marginal_gain": round(groups.get((name,), 0) / union, 4) if union else 0.0,
        }
        for name in names
    }
    overlap = {
        a: {b: sum(count for group, count in groups.items() if a in group and b in group) for b in names} for a in names
    }
    return {"union": union, "by_model": by_model, "overlap": overlap, "distinct_under": dict(forms)}


def busy_seconds(completions: Iterable[dict[str, str]]) -> float:
    """Length of the union of the intervals in which the shards were being sampled."""
    spans = sorted((float(m["ended_unix"]) - float(m["seconds"]), float(m["ended_unix"])) for m in completions)
    total, end = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _corpus(store: Store, job: CorpusJob) -> dict[str, Any]:
    if not present(store, job.key):
        return {}
    return counts_of(job, store) | {"file": present(store, job.jsonl_key)}


def _paired(store: Store, plan: Plan) -> dict[str, Any]:
    """Per model: greedy accuracy of RFT minus that of each setting that it is held against, on the same problems."""
    done = [job for job in plan.evaluations_of("sft", "rft", *CONTROLS) if present(store, job.key)]
    rft = {job.model.name: job for job in done if job.setting == "rft"}
    found: dict[str, Any] = {}
    for job in done:
        name = job.model.name
        if job.setting != "rft" and name in rft:
            difference = paired_difference(read_records(rft[name], store), read_records(job, store))
            found.setdefault(name, {})[f"rft_minus_{job.setting}"] = difference
    return found


def complete(store: Store, plan: Plan) -> bool:
    """Whether everything that the plan names is committed: nothing is left to do."""
    verdicts = [*plan.collected, *verdicts_of(plan.evaluations)]
    shards = [*plan.completion_shards(), *(shard for job in verdicts for shard in job.shards())]
    shards += [shard for job in plan.path_jobs for shard in job.shards()]
    corpora = [key for job in plan.corpora for key in (job.key, job.jsonl_key)]
    return (
        all(committed_model(store, job.fingerprint) for job in plan.trainings)
        and all(present(store, key) for key in (plan.gold.key, *corpora))
        and all(present(store, job.key) for job in plan.evaluations)
        and not missing_shards(store, shards)
    )
