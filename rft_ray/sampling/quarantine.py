"""Quarantine: shards on which engines have failed so often that they are no longer tried.

In: a store. Out: small create-only records `failures/<stem>.a<number>.<failed|retried>.json`, which are never deleted.
A shard's failures are those since its newest `retried` record, so the count outlives actors, drivers and clusters. A
shard that is committed is not quarantined, whatever its records are.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rft_ray.plan.jobs import SamplingJob
from rft_ray.plan.run_plan import Plan, verdicts_of
from rft_ray.store import Store
from rft_ray.store.shards import Shard, missing_shards

FOLDER = "failures/"
FAILED, RETRIED = "failed", "retried"
_RECORD = re.compile(rf"{FOLDER}(?P<stem>.+)\.a(?P<number>[0-9]+)\.(?P<kind>{FAILED}|{RETRIED})\.json")


@dataclass(frozen=True, slots=True)
class History:
    """The records of one shard. Example: History(3, 4, "failures/completions/…s00001.a003.failed.json")"""

    failures: int = 0
    """Since the newest `retried` record."""
    next_number: int = 0
    """Number of the next record."""
    last_failure: str = ""
    """Key of the newest `failed` record; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Held:
    """A quarantined shard. Example: Held(shard, "tiny-m (sft)", 100, 3, "no progress for 1800 s while sampling")"""

    shard: Shard
    model: str
    samples: int
    failures: int
    reason: str


def histories(store: Store, prefix: str = "") -> dict[str, History]:
    """Stem -> history, of the shards with records whose stems start with `prefix`. Lists the store once."""
    by_stem: dict[str, History] = {}
    records = filter(None, map(_RECORD.fullmatch, store.list(FOLDER + prefix)))  # other files are none of ours
    for record in sorted(records, key=lambda record: int(record["number"])):
        stem, kind = record["stem"], record["kind"]
        before = by_stem.get(stem, History())
        failures = before.failures + 1 if kind == FAILED else 0
        last = record.string if kind == FAILED else before.last_failure
        by_stem[stem] = History(failures, int(record["number"]) + 1, last)
    return by_stem


def failures(store: Store) -> dict[str, int]:
    """Stem -> failures, of the shards that have failed since their newest `retried` record. Lists the store once."""
    return {stem: past.failures for stem, past in histories(store).items() if past.failures}


@dataclass(frozen=True, slots=True)
class Record:
    """A record that is written once, however often and by whichever process `write` is called.

    Example: Record(shard.stem, FAILED, "out of memory").write(store)
    """

    stem: str
    kind: str
    """FAILED or RETRIED."""
    reason: str
    at_unix: float = field(default_factory=lambda: round(time.time(), 3))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """No other record's."""

    def write(self, store: Store) -> None:
        """Write the record after those that the shard has, unless one of them is it: an answer may have been lost.

        Raises ValueError where the record could not be found again, because its stem or kind is none.
        """
        body = {"reason": self.reason, "at_unix": self.at_unix, "id": self.id}
        data = json.dumps(body, ensure_ascii=False).encode()
        written = False
        while not written:  # until no other writer has taken the number
            past = list(filter(None, map(_RECORD.fullmatch, store.list(f"{FOLDER}{self.stem}.a"))))
            number = max((int(record["number"]) + 1 for record in past), default=0)
            key = f"{FOLDER}{self.stem}.a{number:03d}.{self.kind}.json"
            if not _RECORD.fullmatch(key):
                raise ValueError(f"{key!r} names no record")
            written = any(store.read(record.string) == data for record in past) or store.create(key, data)


def held(store: Store, jobs: Iterable[SamplingJob], missing: Sequence[Shard], limit: int) -> list[Held]:
    """The missing shards that have failed at least `limit` times, with the reason of the last failure."""
    failed = {stem: history for stem, history in histories(store).items() if history.failures >= limit}
    if not failed:
        return []
    job_of = {job.fingerprint: job for job in jobs}
    return [_held(store, job_of[s.fingerprint], s, failed[s.stem]) for s in missing if s.stem in failed]


def retry(store: Store, shards: Iterable[Held]) -> None:
    """Release shards from quarantine: their failures are counted from zero again."""
    for entry in shards:
        Record(entry.shard.stem, RETRIED, "asked for").write(store)


def _held(store: Store, job: SamplingJob, shard: Shard, history: History) -> Held:
    samples = (shard.problem_stop - shard.problem_start) * job.settings.samples_per_block
    reason = _reason(store, history.last_failure)
    return Held(shard, f"{job.model.name} ({job.model.stage})", samples, history.failures, reason)


def _reason(store: Store, key: str) -> str:
    try:
        return str(json.loads(store.read(key))["reason"])
    except (ValueError, KeyError, TypeError):
        return f"unknown: {key} is damaged"


def table(shards: Sequence[Held]) -> str:
    """A table for people of the first twenty quarantined shards: what is missing, and why."""
    lines = [("model", "problems", "sample block", "samples", "failures", "why")]
    lines += [
        (
            row.model,
            f"{row.shard.problem_start}-{row.shard.problem_stop - 1}",
            str(row.shard.sample_block),
            str(row.samples),
            str(row.failures),
            row.reason,
        )
        for row in shards[:20]
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    text = "\n".join("  " + "  ".join([*map(str.ljust, line, widths), line[-1]]) for line in lines)
    return text + (f"\n  and {len(shards) - 20} more" if len(shards) > 20 else "")


def message(shards: Sequence[Held]) -> str:
    """One line that says how much is missing and what to do."""
    return (
        f"{len(shards)} shards ({sum(entry.samples for entry in shards):,} samples) are quarantined, for the reasons "
        "in the table above; run the same command with --engine.retry_quarantined=true to try them again, or with "
        "--engine.on_failed_shard=continue to run without them"
    )


def held_shards(store: Store, plan: Plan) -> list[Held]:
    """The run's quarantined shards of completions, also those that the plan leaves out."""
    if not histories(store):
        return []
    jobs = [*plan.samplings, *(job.sampling for job in verdicts_of(plan.left_out))]
    shards = [shard for job in dict.fromkeys(jobs) for shard in job.shards()]
    return held(store, jobs, missing_shards(store, shards), plan.config.engine.max_failures)


def past_quarantine(plan: Plan, store: Store) -> Plan:
    """The plan without its quarantined shards where `on_failed_shard` is `continue`, else the same plan.

    Without them the paths, the corpus and the models that follow are other ones.
    """
    if plan.config.engine.on_failed_shard == "stop" or not histories(store):
        return plan
    for _ in range(2):  # models trained on fewer samples are other models, with shards of their own
        plan = plan.past([entry.shard.stem for entry in held_shards(store, plan)])
    return plan
