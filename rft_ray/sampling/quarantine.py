"""Shards that engines fail on: how often and why, on record; after so many failures a shard is left alone.

In: a store. Out: small create-only records `failures/<stem>.a<number>.<failed|retried>.json`, data only, never deleted.
A shard's failures are those since its last `retried`. So the count outlives actors, drivers and clusters, and trying
again is a record too. A shard that is committed is not quarantined, whatever was noted before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rft_ray.plan.jobs import SamplingJob
from rft_ray.plan.run_plan import Plan, verdicts_of
from rft_ray.store import Store
from rft_ray.store.shards import Shard, missing_shards

FOLDER = "failures/"
FAILED, RETRIED = "failed", "retried"


@dataclass(frozen=True, slots=True)
class History:
    """What is on record of one shard. Example: History(3, 4, "failures/completions/…s00001.a003.failed.json")"""

    failures: int = 0
    """Since the shard was last given another chance."""
    next_number: int = 0
    last_failure: str = ""
    """Key of the newest record of a failure."""


@dataclass(frozen=True, slots=True)
class Held:
    """A quarantined shard. Example: Held(shard, "tiny-m (sft)", 100, 3, "no answer for 1800 s while sampling")"""

    shard: Shard
    model: str
    samples: int
    failures: int
    reason: str


def histories(store: Store, prefix: str = "") -> dict[str, History]:
    """Stem -> history, of the shards whose stems start with `prefix` and that have one. One listing."""
    found: dict[str, History] = {}
    for key in store.list(FOLDER + prefix):  # sorted: the records of a shard come by number
        stem, _, rest = key.removeprefix(FOLDER).rpartition(".a")
        number, kind, _ = rest.split(".")
        before = found.get(stem, History())
        failures = before.failures + 1 if kind == FAILED else 0
        last = key if kind == FAILED else before.last_failure
        found[stem] = History(failures, int(number) + 1, last)
    return found


def note(store: Store, stem: str, kind: str, reason: str) -> int:
    """Put a failure, or another chance, on record. Returns the shard's failures since its last chance."""
    record = json.dumps({"reason": reason, "at_unix": round(time.time(), 3)}, ensure_ascii=False).encode()
    while True:  # another writer may take the number
        before = histories(store, f"{stem}.a").get(stem, History())
        if store.create(f"{FOLDER}{stem}.a{before.next_number:03d}.{kind}.json", record):
            return before.failures + 1 if kind == FAILED else 0


def held(store: Store, jobs: Iterable[SamplingJob], missing: Sequence[Shard], limit: int) -> list[Held]:
    """Those of the missing shards that have failed `limit` times, with what is known of the last failure."""
    known = {stem: history for stem, history in histories(store).items() if history.failures >= limit}
    if not known:
        return []
    job_of = {job.fingerprint: job for job in jobs}
    return [_held(store, job_of[s.fingerprint], s, known[s.stem]) for s in missing if s.stem in known]


def retry(store: Store, shards: Iterable[Held]) -> None:
    """Give quarantined shards another chance."""
    for one in shards:
        note(store, one.shard.stem, RETRIED, "asked for")


def _held(store: Store, job: SamplingJob, shard: Shard, history: History) -> Held:
    samples = (shard.problem_stop - shard.problem_start) * job.settings.samples_per_block
    reason = str(json.loads(store.read(history.last_failure))["reason"])
    return Held(shard, f"{job.model.name} ({job.model.stage})", samples, history.failures, reason)


def table(shards: Sequence[Held]) -> str:
    """What is missing and why, for people: one line per shard, the first twenty."""
    lines = [("model", "problems", "sample block", "samples", "failures", "why")]
    lines += [
        (
            one.model,
            f"{one.shard.problem_start}-{one.shard.problem_stop - 1}",
            str(one.shard.sample_block),
            str(one.samples),
            str(one.failures),
            one.reason,
        )
        for one in shards[:20]
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    text = "\n".join("  " + "  ".join([*map(str.ljust, line, widths), line[-1]]) for line in lines)
    return text + (f"\n  and {len(shards) - 20} more" if len(shards) > 20 else "")


def as_data(shards: Iterable[Held]) -> list[dict[str, object]]:
    """For `summary.json`."""
    return [
        {
            "model": one.model,
            "shard": one.shard.stem,
            "problems": [one.shard.problem_start, one.shard.problem_stop],
            "samples": one.samples,
            "failures": one.failures,
            "reason": one.reason,
        }
        for one in shards
    ]


def told(shards: Sequence[Held]) -> str:
    """One line that says what is missing and what to do."""
    return (
        f"{len(shards)} shards ({sum(one.samples for one in shards):,} samples) are quarantined: the table above says "
        "why; run the same command with --engine.retry_quarantined=true to try them again, or with "
        "--engine.on_failed_shard=continue to go on without them"
    )


def held_shards(store: Store, plan: Plan) -> list[Held]:
    """The run's quarantined shards of completions, those it goes on without included."""
    if not histories(store):
        return []
    jobs = [job.sampling for job in [*plan.collected, *verdicts_of([*plan.evaluations, *plan.left_out])]]
    shards = [shard for job in dict.fromkeys(jobs) for shard in job.shards()]
    return held(store, jobs, missing_shards(store, shards), plan.config.engine.max_failures)


def past_quarantine(plan: Plan, store: Store) -> Plan:
    """The plan without its quarantined shards, where it is to go on without: other paths, corpus and models."""
    if plan.config.engine.on_failed_shard == "stop" or not histories(store):
        return plan
    for _ in range(2):  # models that are trained without some samples have shards of their own
        plan = plan.past([one.shard.stem for one in held_shards(store, plan)])
    return plan
