"""Distinct paths of many models -> one training corpus, with provenance.

Per problem of the fixed order: the gold solution first, then the selected paths. Sampled paths are not deduplicated
against gold (paper.md, "Corpus"). Two files hold the same rows: Parquet, which training reads, and JSONL, which any
SFT tool reads.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rft_ray.data import prompts
from rft_ray.data.problems import ProblemSet
from rft_ray.grading import Mode
from rft_ray.paths import NormalForm, equation_list
from rft_ray.paths.normal_forms import normalise
from rft_ray.plan.jobs import CorpusJob
from rft_ray.records import Problem, ReasoningPath, from_table, to_table
from rft_ray.store import Store, StoreError, commit_table, names, present, read_table, writable
from rft_ray.store.shards import committed_key
from rft_ray.store.tables import identity, noted


def build_corpus(job: CorpusJob, store: Store, problems: ProblemSet, template: str, mode: Mode) -> dict[str, Any]:
    """Write the corpus where it is missing; as JSONL too where it has paths. Returns {gold, paths, by_model}."""
    if not present(store, job.key):
        made_from: dict[str, str] = {}
        rows = list(_rows(job, store, problems.problems[: job.problems], mode, made_from))
        if job.as_many_as:
            other, about = read_table(store, job.as_many_as.key)
            made_from[names.split(job.as_many_as.key)[0]] = identity(other)
            rows = thinned(rows, json.loads(about["counts"])["paths"])
        lines = "".join(jsonl_line(row, template) for row in rows) if job.paths else ""
        counts = {
            "gold": sum(row.gold for row in rows),
            "paths": sum(not row.gold for row in rows),
            "by_model": dict(Counter(row.model for row in rows if not row.gold)),
        }
        metadata = {"counts": json.dumps(counts), "jsonl_sha256": hashlib.sha256(lines.encode()).hexdigest()}
        commit_table(store, job.key, to_table(rows, ReasoningPath), metadata | noted(made_from))
    table, metadata = read_table(store, job.key)
    if job.paths and not present(store, job.jsonl_key):
        lines = "".join(jsonl_line(row, template) for row in from_table(table, ReasoningPath))
        store.create(writable(store, job.jsonl_key), lines.encode())
    counts = json.loads(metadata["counts"])
    return dict(counts)


def counts_of(job: CorpusJob, store: Store) -> dict[str, Any]:
    """What `build_corpus` returned for a corpus that is committed. Raises NotFound."""
    return dict(json.loads(read_table(store, job.key)[1]["counts"]))


def thinned(rows: Sequence[ReasoningPath], paths: int) -> list[ReasoningPath]:
    """All gold rows, and `paths` of the others, drawn at random but always the same ones; the order is kept."""

    def draw(row: ReasoningPath) -> bytes:
        return hashlib.sha256(f"{row.problem_id} {row.model} {row.sample_index}".encode()).digest()

    chosen = sorted((row for row in rows if not row.gold), key=draw)[:paths]
    kept = {(row.problem_id, row.model, row.sample_index) for row in chosen}
    return [row for row in rows if row.gold or (row.problem_id, row.model, row.sample_index) in kept]


def jsonl_line(row: ReasoningPath, template: str) -> str:
    """One example as prompt and completion, with everything that is known of where it came from."""
    example = {"prompt": prompts.render(template, row.question), "completion": row.text, **asdict(row)}
    return json.dumps(example, ensure_ascii=False) + "\n"


def _rows(
    job: CorpusJob, store: Store, problems: Sequence[Problem], mode: Mode, made_from: dict[str, str]
) -> Iterator[ReasoningPath]:
    """Gold first, then the paths, problem by problem; one block of paths in memory at a time.

    Fills `made_from` with what it reads: stem -> identity.
    """
    for start, stop, chosen in _path_blocks(job, store, made_from):
        by_problem: dict[str, list[ReasoningPath]] = {}
        for path in chosen:
            by_problem.setdefault(path.problem_id, []).append(path)
        for problem in problems[start:stop]:
            found = by_problem.get(problem.problem_id, [])
            yield gold_path(problem, found, mode, job.paths.normal_form if job.paths else "as_written")
            yield from fair_share(found, job.max_paths)


def _path_blocks(
    job: CorpusJob, store: Store, made_from: dict[str, str]
) -> Iterator[tuple[int, int, list[ReasoningPath]]]:
    if job.paths is None:
        yield 0, job.problems, []
        return
    for shard in job.paths.shards():
        key = committed_key(store, shard)
        if key is None:
            raise StoreError(f"{store.url}/{shard.stem}: the paths of this block are not committed yet")
        table = read_table(store, key)[0]
        made_from[shard.stem] = identity(table)
        yield shard.problem_start, shard.problem_stop, from_table(table, ReasoningPath)


def gold_path(problem: Problem, found: Sequence[ReasoningPath], mode: Mode, form: NormalForm) -> ReasoningPath:
    """The gold solution as a corpus row; `shared_by` says how many samples found the same equation list."""
    equations = equation_list(problem.solution, mode)
    own = normalise(equations, form)
    shared = next((path.shared_by for path in found if normalise(path.equations, form) == own), 0)
    return ReasoningPath(problem.problem_id, problem.question, problem.solution, equations, "", -1, shared, True)


def fair_share(found: Sequence[ReasoningPath], cap: int | None) -> list[ReasoningPath]:
    """At most `cap` of one problem's paths: one of each model in turn, in their order; the order is kept."""
    if cap is None or len(found) <= cap:
        return list(found)
    turn: Counter[str] = Counter()
    ranked = []
    for position, path in enumerate(found):
        ranked.append((turn[path.model], position))
        turn[path.model] += 1
    return [found[position] for position in sorted(position for _, position in sorted(ranked)[:cap])]
