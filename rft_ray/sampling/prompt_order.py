"""The committed completions of one sampling job in the order of its prompts, as files for people and other programs.

In: a store with the job's shards. Out: the views `completions.jsonl` and `completions.parquet`, a row for each prompt,
with the columns that `rft-ray verify` and `rft-ray grade` read. Limits: the rows are held in memory.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rft_ray.plan.jobs import SamplingJob
from rft_ray.records import Completion, Problem, from_table
from rft_ray.store import Store, read_table
from rft_ray.store.shards import Shard, committed_keys, read_ahead

JSONL, PARQUET = "completions.jsonl", "completions.parquet"
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("model", pa.string()),
        ("completion", pa.list_(pa.string())),
        ("finish_reason", pa.list_(pa.string())),
        ("completion_tokens", pa.list_(pa.int64())),
        ("prompt_tokens", pa.int64()),
    ]
)


def write_in_prompt_order(store: Store, job: SamplingJob, prompts: Sequence[Problem]) -> int:
    """Write both views of the committed completions. Returns the number of prompts that have one or more."""
    written = list(_rows(store, job, prompts))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    store.replace(JSONL, lines.encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(written, schema=SCHEMA), sink, compression="zstd")
    store.replace(PARQUET, sink.getvalue().to_pybytes())
    return len(written)


def _rows(store: Store, job: SamplingJob, prompts: Sequence[Problem]) -> Iterator[dict[str, Any]]:
    """A row for each prompt with completions; its samples in the order of their indices."""
    for _, shards in groupby(job.shards(), key=lambda shard: shard.problem_block):
        block = list(shards)
        samples = _samples(store, block)
        for problem in prompts[block[0].problem_start : block[0].problem_stop]:
            if drawn := sorted(samples[problem.problem_id], key=lambda row: row.sample_index):
                yield {
                    "prompt": problem.question,
                    "model": job.model.name,
                    "completion": [row.text for row in drawn],
                    "finish_reason": [row.finish_reason for row in drawn],
                    "completion_tokens": [row.completion_tokens for row in drawn],
                    "prompt_tokens": drawn[0].prompt_tokens,
                }


def _samples(store: Store, shards: Sequence[Shard]) -> defaultdict[str, list[Completion]]:
    """Problem id -> the committed completions of these shards."""
    samples: defaultdict[str, list[Completion]] = defaultdict(list)
    keys = committed_keys(store, shards).values()
    for table in read_ahead(lambda key: read_table(store, key)[0], keys):
        for row in from_table(table, Completion):
            samples[row.problem_id].append(row)
    return samples
