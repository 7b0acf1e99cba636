"""The `summary.json` of `rft-ray sample`: how many samples were planned and drawn, how fast, and what was charged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rft_ray.config import Endpoint
from rft_ray.evaluation.summary import bad_places, busy_seconds, charged_for, summed_counts
from rft_ray.evaluation.summary_records import BadPlace, Charged
from rft_ray.plan.jobs import SamplingJob
from rft_ray.store import Store
from rft_ray.store.shards import shard_metadata

JOB = "sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary:
    """What `rft-ray sample` has in its store. planned = sampled + skipped + missing.

    Example: SampleSummary(model="tiny-m", source="tiny:tiny-m", completions="5f0c…", prompts=100, planned=1600,
    sampled=1600, skipped=0, missing=0, tokens=70000, tokens_per_s=812.5)
    """

    job: str = JOB
    model: str
    source: str
    completions: str
    """Fingerprint of the sampling job."""
    prompts: int
    planned: int
    sampled: int
    skipped: int
    """Samples of prompts that exceed the model's context."""
    missing: int
    tokens: int
    tokens_per_s: float
    charged: Charged | None = None
    bad_places: tuple[BadPlace, ...] = ()
    """Where sampling did without an engine."""

    def as_json(self) -> bytes:
        """The content of `summary.json`."""
        tree = asdict(self)
        if not self.bad_places:
            del tree["bad_places"]
        return json.dumps(tree, indent=2, ensure_ascii=False).encode()


def summarize(store: Store, job: SamplingJob, endpoint: Endpoint | None) -> SampleSummary:
    """The summary of the job's committed shards. `endpoint`: None for a model that this run loads."""
    shards = list(shard_metadata(store, job.shards()))
    counts = summed_counts(shards)
    busy = busy_seconds(shards)
    return SampleSummary(
        model=job.model.name,
        source=job.model.source,
        completions=job.fingerprint,
        prompts=job.problems,
        planned=job.planned,
        sampled=counts["sampled"],
        skipped=counts["skipped"],
        missing=job.planned - counts["sampled"] - counts["skipped"],
        tokens=counts["tokens"],
        tokens_per_s=round(counts["tokens"] / busy, 1) if busy else 0.0,
        charged=charged_for(counts, endpoint) if endpoint else None,
        bad_places=bad_places(store, [job]),
    )
