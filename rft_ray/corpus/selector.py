"""Graded completions -> distinct reasoning paths, selected by stateless actors on Ray.

One shard of this stage covers one problem block and all samples of all models, in model order, because the choice of
representatives depends on all of them (paper.md, "Representative" and "Union").
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import NamedTuple

from rft_ray import paths
from rft_ray.corpus.graded import called_right, read_graded_shards
from rft_ray.corpus.path_keys import PathKeys
from rft_ray.data.problems import read_problems
from rft_ray.paths.normal_forms import normalise
from rft_ray.paths.selection import select_by_key
from rft_ray.paths.text_forms import without_near_duplicates
from rft_ray.plan.jobs import PathJob
from rft_ray.records import JudgedPath, Problem, ReasoningPath, Status, to_table
from rft_ray.runtime.actor_pool import ShardReceipt, run_missing
from rft_ray.runtime.metrics import VerifierMetrics
from rft_ray.store import Store, commit_table
from rft_ray.store.shards import Shard, key_to_write
from rft_ray.store.tables import noted


def select_paths(jobs: Sequence[PathJob], store: Store, actors: int) -> list[ShardReceipt]:
    """Select the missing paths of these jobs. Returns one receipt per job and problem block made. Raises StageError."""
    return run_missing("select paths", Selector, jobs, store=store, actors=actors)


class Candidate(NamedTuple):
    """A correct sample, with the fields that path selection needs.

    Example: Candidate("tiny-m", 17, "3+5 = <<3+5=8>>8\\n#### 8")
    """

    model: str
    sample_index: int
    text: str
    graded: str | None = None
    """The text without its reasoning, where it has any."""
    answer: str = ""
    rejected_as: str = ""
    """The verdict on a completion that the judge calls right; empty where the verdict is `correct`."""

    @property
    def read(self) -> str:
        """The text that decides which paths are equal."""
        return self.text if self.graded is None else self.graded


class Selector:
    """Selects the paths of one job in one problem block; keeps no state between calls."""

    def __init__(self, store: Store, jobs: Sequence[PathJob]) -> None:
        self._store = store
        self._jobs = {job.fingerprint: job for job in jobs}
        self._keys: dict[str, PathKeys] = {}
        self._metrics = VerifierMetrics()

    def close(self) -> None:
        """End the processes of the functions that say which paths are equal."""
        for keys in self._keys.values():
            keys.close()

    def _keys_of(self, job: PathJob) -> PathKeys:
        if job.fingerprint not in self._keys:
            self._keys[job.fingerprint] = PathKeys(job)
        return self._keys[job.fingerprint]

    def __call__(self, shard: Shard) -> ShardReceipt:
        key = key_to_write(self._store, shard)
        if key is None:
            return ShardReceipt(shard.stem)
        job = self._jobs[shard.fingerprint]
        problems = read_problems(self._store, shard.problems_fingerprint)[shard.problem_start : shard.problem_stop]
        made_from: dict[str, str] = {}
        correct = self._correct(job, shard.problem_block, made_from)
        kept: list[ReasoningPath] = []
        finders: Counter[str] = Counter()
        forms: Counter[str] = Counter()
        for problem in problems:
            candidates = correct.get(problem.problem_id, [])
            keys = path_keys(problem, candidates, job, self._keys_of)
            kept += distinct_paths(problem, candidates, job, keys)
            finders.update(found_by(candidates, job, keys))
            forms.update(paths.distinct_counts([candidate.read for candidate in candidates], job.mode))
        counts = {
            "paths": dict(Counter(path.model for path in kept)),
            "found_by": dict(finders),
            "distinct_under": dict(forms),
        }
        metadata = {"counts": json.dumps(counts)} | noted(made_from)
        record = JudgedPath if job.accepted else ReasoningPath
        receipt = commit_table(self._store, key, to_table(kept, record), metadata)
        if receipt.committed_here:
            self._metrics.selected(len(kept))
        return ShardReceipt(shard.stem, receipt.rows)

    def _correct(self, job: PathJob, problem_block: int, made_from: dict[str, str]) -> dict[str, list[Candidate]]:
        """problem_id -> all correct samples, in the order of models and then of samples.

        Also those that a judge calls right, where the job accepts them. Samples with the same text share one string,
        so memory grows with the number of different texts.
        """
        pooled: dict[str, list[Candidate]] = {}
        texts: dict[str, str] = {}
        for at, verdicts in enumerate(job.verdicts):
            model = verdicts.sampling.model.name
            shards = [shard for shard in verdicts.shards() if shard.problem_block == problem_block]
            every_graded = read_graded_shards(self._store, verdicts, shards, made_from)
            for shard, graded in zip(shards, every_graded, strict=True):
                right = called_right(self._store, job.accepted[at], shard, made_from) if job.accepted else set()
                for row, verdict in graded:
                    by_judge = (row.problem_id, row.sample_index) in right
                    if (verdict.status is Status.CORRECT or by_judge) and (job.k is None or row.sample_index < job.k):
                        text = texts.setdefault(row.text, row.text)
                        rest = verdicts.reasoning.removed(text, cut=row.finish_reason == "length")
                        read = None if rest == text else rest
                        rejected_as = str(verdict.status) if by_judge else ""
                        candidate = Candidate(model, row.sample_index, text, read, verdict.answer or "", rejected_as)
                        pooled.setdefault(row.problem_id, []).append(candidate)
        return pooled


def path_keys(
    problem: Problem, candidates: Sequence[Candidate], job: PathJob, keys_of: Callable[[PathJob], PathKeys]
) -> list[Hashable] | None:
    """The key of each candidate; None where paths are equal by their equation lists alone, as in the paper."""
    if job.by_equations_alone:
        return None
    texts, answers = [candidate.read for candidate in candidates], [candidate.answer for candidate in candidates]
    return [*keys_of(job).of(problem, texts, answers)]


def distinct_paths(
    problem: Problem, candidates: Sequence[Candidate], job: PathJob, keys: Sequence[Hashable] | None = None
) -> list[ReasoningPath]:
    """The selected paths of one problem's correct samples, in the order of the reference's output list.

    `keys`: of `path_keys`. With `dedup` "none": every correct sample, in pooled order. With "random": a fixed random
    sample of them, as many as there are distinct keys. Samples that only the judge calls right come last, where they
    have a key that no correct sample has: they replace no path.
    """
    texts = [candidate.read for candidate in candidates]
    lists = [paths.equation_list(text, job.mode) for text in texts]
    by_key = [normalise(equations, job.normal_form) for equations in lists] if keys is None else keys
    correct = [i for i, candidate in enumerate(candidates) if not candidate.rejected_as]
    taken = {by_key[i] for i in correct} if job.dedup != "none" else set()
    by_judge = [i for i, candidate in enumerate(candidates) if candidate.rejected_as and by_key[i] not in taken]
    shared = Counter(by_key[i] for i in (*correct, *by_judge))
    chosen: list[int] = []
    for group in (correct, by_judge):
        by_equations = keys is None and group is correct  # of other texts, equations need not hold
        picked = _picked(problem, [texts[i] for i in group], [by_key[i] for i in group], job, by_equations=by_equations)
        chosen += [group[at] for at in picked]
    if job.near_duplicates is not None:
        kept = without_near_duplicates([texts[i] for i in chosen], job.near_duplicates)
        chosen = [chosen[i] for i in kept]
    return [_path(problem, candidates[i], lists[i], shared[by_key[i]], job) for i in chosen]


def _picked(
    problem: Problem, texts: Sequence[str], keys: Sequence[Hashable], job: PathJob, *, by_equations: bool
) -> Sequence[int]:
    """Indices of the texts that `dedup` chooses. `by_equations`: by the reference's rule, which reads the equations."""
    if job.dedup == "none":
        return range(len(texts))
    if job.dedup == "random":
        return sorted(random.Random(problem.problem_id).sample(range(len(texts)), len(set(keys))))
    if by_equations:
        return paths.select_distinct(texts, job.mode, job.normal_form)
    key_of_text = dict(zip(texts, map(str, keys), strict=True))
    return [index for index, _ in select_by_key(texts, key_of_text.get)]


def _path(
    problem: Problem, candidate: Candidate, equations: tuple[str, ...], shared_by: int, job: PathJob
) -> ReasoningPath:
    path = ReasoningPath(
        problem_id=problem.problem_id,
        question=problem.question,
        text=candidate.read if job.reasoning == "drop" else candidate.text,
        equations=equations,
        model=candidate.model,
        sample_index=candidate.sample_index,
        shared_by=shared_by,
        gold=False,
    )
    return JudgedPath(**asdict(path), rejected_as=candidate.rejected_as) if job.accepted else path


def found_by(candidates: Sequence[Candidate], job: PathJob, keys: Sequence[Hashable] | None = None) -> Counter[str]:
    """Number of distinct paths of one problem per exact set of models that found them: `tiny-m`, `tiny-m+tiny-s`, …

    `keys`: of `path_keys`. `evaluation.summary.complementarity` derives from these counts how the models complement
    each other.
    """
    finders: dict[Hashable, set[str]] = {}
    for index, candidate in enumerate(candidates):
        equations = paths.equation_list(candidate.read, job.mode) if keys is None else ()
        form = normalise(equations, job.normal_form) if keys is None else keys[index]
        finders.setdefault(form, set()).add(candidate.model)
    return Counter("+".join(sorted(models)) for models in finders.values())
