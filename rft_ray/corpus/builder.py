"""Distinct paths of many models -> one training corpus, with provenance.

Each problem, in the fixed order, has its gold solution first, if it has one, and then its selected paths. Sampled paths
are not deduplicated against gold (paper.md, "Corpus"). Two files hold the same rows: Parquet for training here, and
JSONL for other SFT tools.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rft_ray.data import prompts
from rft_ray.data.problems import ProblemSet
from rft_ray.grading import Mode
from rft_ray.paths import NormalForm, equation_list
from rft_ray.paths.normal_forms import normalise
from rft_ray.plan.jobs import CorpusJob
from rft_ray.records import JudgedPath, Problem, ReasoningPath, paths_in, to_table
from rft_ray.store import Store, StoreError, commit_table, names, present, read_table, writable
from rft_ray.store.shards import committed_keys, read_ahead
from rft_ray.store.tables import identity, noted, read_part


@dataclass(frozen=True, slots=True)
class CorpusCounts:
    """The rows of a corpus, as its table's metadata records them.

    Example: CorpusCounts(500, 2042, {"tiny-s": 529, "tiny-m": 1513})
    """

    gold: int
    paths: int
    """Sampled paths, gold not counted."""
    by_model: dict[str, int]
    """Model -> the paths that it sampled."""


def build_corpus(job: CorpusJob, store: Store, problems: ProblemSet, form: str) -> CorpusCounts:
    """Write the corpus unless it is committed, also as JSONL when it has paths. Returns its counts.

    `form`: the prompt of the JSONL, in its stored form. It need not be in the corpus's name, so the table records it,
    and a JSONL that is missing gets the prompt of its table. Raises StoreError when its paths are not committed yet.
    """
    if not present(store, job.key):
        made_from: dict[str, str] = {}
        rows = list(_rows(job, store, problems.problems[: job.problems], made_from))
        if job.as_many_as:
            reference, about = read_table(store, job.as_many_as.key)
            made_from[names.split(job.as_many_as.key)[0]] = identity(reference)
            rows = subsample(rows, json.loads(about["counts"])["paths"])
        judged = bool(job.paths and job.paths.accepted)
        rows = _marked(rows) if judged else rows
        lines = "".join(jsonl_line(row, form) for row in rows) if job.paths else ""
        by_model = dict(Counter(row.model for row in rows if not row.gold))
        counts = CorpusCounts(sum(row.gold for row in rows), sum(not row.gold for row in rows), by_model)
        metadata = {
            "counts": json.dumps(asdict(counts)),
            **({"prompt": form} if job.paths else {}),
            "jsonl_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        }
        table = to_table(rows, JudgedPath if judged else ReasoningPath)
        commit_table(store, job.key, table, metadata | noted(made_from))
    table, metadata = read_table(store, job.key)
    if job.paths and not present(store, job.jsonl_key):
        form = metadata.get("prompt", form)  # tables of earlier versions do not record it
        lines = "".join(jsonl_line(row, form) for row in paths_in(table))
        store.create(writable(store, job.jsonl_key), lines.encode())
    return CorpusCounts(**json.loads(metadata["counts"]))


def counts_of(job: CorpusJob, store: Store) -> CorpusCounts:
    """The counts that `build_corpus` returned for a committed corpus. Raises NotFound when it is not committed."""
    return CorpusCounts(**json.loads(read_part(store, job.key).metadata["counts"]))


def subsample(rows: Sequence[ReasoningPath], paths: int) -> list[ReasoningPath]:
    """All gold rows and a fixed pseudo-random sample of `paths` of the others, in the original order."""

    def random_key(row: ReasoningPath) -> bytes:
        return hashlib.sha256(f"{row.problem_id} {row.model} {row.sample_index}".encode()).digest()

    chosen = sorted((row for row in rows if not row.gold), key=random_key)[:paths]
    kept = {(row.problem_id, row.model, row.sample_index) for row in chosen}
    return [row for row in rows if row.gold or (row.problem_id, row.model, row.sample_index) in kept]


def jsonl_line(row: ReasoningPath, form: str) -> str:
    """One example as a JSON line: prompt, completion and the fields of its row, which hold the provenance.

    Prompt and completion are texts, or of a chat lists of messages (`role`, `content`).
    """
    prompt = prompts.build(form, row.question)
    if isinstance(prompt, prompts.Chat):
        answer = [{"role": "assistant", "content": row.text}]
        return json.dumps({"prompt": prompt.as_data(), "completion": answer, **asdict(row)}, ensure_ascii=False) + "\n"
    return json.dumps({"prompt": prompt, "completion": row.text, **asdict(row)}, ensure_ascii=False) + "\n"


def _rows(
    job: CorpusJob, store: Store, problems: Sequence[Problem], made_from: dict[str, str]
) -> Iterator[ReasoningPath]:
    """The gold row, if there is a solution, and the path rows of each problem, one block of paths in memory at a time.

    Adds each table that it reads to `made_from`, as stem -> identity.
    """
    for start, stop, chosen in _path_blocks(job, store, made_from):
        by_problem: dict[str, list[ReasoningPath]] = {}
        for path in chosen:
            by_problem.setdefault(path.problem_id, []).append(path)
        for problem in problems[start:stop]:
            sampled = by_problem.get(problem.problem_id, [])
            alike = sampled if job.paths and job.paths.by_equations_alone else []  # others have no equations to share
            if problem.solution and job.gold:
                yield gold_path(problem, alike, job.mode, job.paths.normal_form if job.paths else "as_written")
            yield from limit_paths(sampled, job.max_paths)


def _path_blocks(
    job: CorpusJob, store: Store, made_from: dict[str, str]
) -> Iterator[tuple[int, int, list[ReasoningPath]]]:
    if job.paths is None:
        yield 0, job.problems, []
        return
    shards = list(job.paths.shards())
    keys = committed_keys(store, shards)
    if missing := next((shard for shard in shards if shard.stem not in keys), None):
        raise StoreError(
            f"{store.url}/{missing.stem}: the paths of this block are not committed yet: select paths first"
        )
    for shard, (table, _) in zip(shards, read_ahead(lambda key: read_table(store, key), keys.values()), strict=True):
        made_from[shard.stem] = identity(table)
        yield shard.problem_start, shard.problem_stop, paths_in(table)


def _marked(rows: Sequence[ReasoningPath]) -> list[ReasoningPath]:
    """The rows with the mark of paths that only the judge calls right, which gold does not have."""
    return [row if isinstance(row, JudgedPath) else JudgedPath(**asdict(row), rejected_as="") for row in rows]


def gold_path(problem: Problem, sampled: Sequence[ReasoningPath], mode: Mode, form: NormalForm) -> ReasoningPath:
    """The gold solution as a corpus row. `shared_by` counts the correct samples with the same equation list."""
    equations = equation_list(problem.solution, mode)
    own = normalise(equations, form)
    shared = next((path.shared_by for path in sampled if normalise(path.equations, form) == own), 0)
    return ReasoningPath(problem.problem_id, problem.question, problem.solution, equations, "", -1, shared, True)


def limit_paths(candidates: Sequence[ReasoningPath], most: int | None) -> list[ReasoningPath]:
    """At most `most` of one problem's paths, taken from each model in turn, in the original order.

    Paths that only the judge calls right are taken where correct ones leave room.
    """
    if most is None or len(candidates) <= most:
        return list(candidates)
    taken: Counter[str] = Counter()
    ranked = []
    for position, path in enumerate(candidates):
        ranked.append((isinstance(path, JudgedPath) and path.rejected_as != "", taken[path.model], position))
        taken[path.model] += 1
    return [candidates[position] for position in sorted(position for *_, position in sorted(ranked)[:most])]
