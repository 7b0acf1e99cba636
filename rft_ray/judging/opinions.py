"""The judge's answers -> judgement shards, read by stateless actors on Ray.

There is one judgement shard for each verdict shard. It holds an opinion on each completion that the judge was asked
about, next to the verifier's verdict, which it does not change. An answer that states no opinion in the form that was
asked for, or was cut off or skipped, is no opinion.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rft_ray.corpus.graded import read_completions
from rft_ray.grading import judging
from rft_ray.judging.asking import Reject, rejects
from rft_ray.plan.jobs import JudgementJob
from rft_ray.records import Completion, Judgement, to_table
from rft_ray.runtime.actor_pool import ShardReceipt, run_missing
from rft_ray.store import Store, StoreError, commit_table
from rft_ray.store.shards import Shard, key_to_write
from rft_ray.store.tables import noted


def read_opinions(jobs: Sequence[JudgementJob], store: Store, actors: int) -> list[ShardReceipt]:
    """Make the missing judgement shards of these jobs. Returns one receipt per shard made. Raises StageError."""
    return run_missing("read opinions", OpinionReader, jobs, store=store, actors=actors)


class OpinionReader:
    """Reads one shard of answers; keeps nothing of it between calls."""

    def __init__(self, store: Store, jobs: Sequence[JudgementJob]) -> None:
        self._store = store
        self._jobs = {job.fingerprint: job for job in jobs}

    def __call__(self, shard: Shard) -> ShardReceipt:
        key = key_to_write(self._store, shard)
        if key is None:
            return ShardReceipt(shard.stem)
        sampling = self._jobs[shard.fingerprint].sampling
        made_from: dict[str, str] = {}
        asked = list(rejects(self._store, sampling, shard, made_from))
        answers, content = read_completions(self._store, sampling, shard)
        if [(row.problem_id, row.sample_index) for row in answers] != [
            (reject.problem.problem_id, reject.sample_index) for reject in asked
        ]:
            raise StoreError(
                f"{self._store.url}/{shard.stem}: the judge's answers are about other completions than those that are "
                f"rejected now: run `python -m rft_ray.store verify --repair {self._store.url}`, then the same command"
            )
        rows = [judgement(reject, answer) for reject, answer in zip(asked, answers, strict=True)]
        made_from[replace(shard, stage="completions", fingerprint=sampling.fingerprint).stem] = content
        metadata = {"counts": json.dumps(counts_of(rows))} | noted(made_from)
        receipt = commit_table(self._store, key, to_table(rows, Judgement), metadata)
        return ShardReceipt(shard.stem, receipt.rows)


def judgement(reject: Reject, answer: Completion) -> Judgement:
    """The opinion on one completion."""
    opinion, reason = judging.opinion_of(answer.text, reject.marker, cut=answer.finish_reason != "stop")
    return Judgement(reject.problem.problem_id, reject.sample_index, reject.status, opinion, reason)


def counts_of(rows: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """Verdict -> opinion -> completions. Example: {"no_answer": {"wrong": 4, "none": 1}}"""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row.status), Counter())[str(row.opinion)] += 1
    return {status: dict(sorted(opinions.items())) for status, opinions in sorted(counts.items())}
