"""One problem's correct and wrong completions -> preference pairs (chosen, rejected) for DPO.

In: a run's store, which holds completions and the verdicts that were made to collect paths (test problems have none).
Out: dictionaries with `prompt`, `chosen`, `rejected` (TRL's explicit-prompt preference format) and where both texts
come from. Chosen: first the representatives that path selection takes of the problem's correct completions, then the
other correct ones. The same store gives the same pairs in the same order. Needs no Ray cluster.

Limits: the completions of one problem block are in memory at a time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any

from rft_ray import paths
from rft_ray.corpus.graded import Source, verified_blocks
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.grading import Mode
from rft_ray.plan.jobs import SamplingSettings
from rft_ray.records import Completion, GradedCompletion, Problem, Status, from_table
from rft_ray.store import Store, StoreError, read_table
from rft_ray.store.parquet import content_hash

REJECTED = frozenset({Status.WRONG_ANSWER, Status.BAD_EQUATION})
"""Statuses of a completion that is known to be wrong."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A graded completion with its text.

    Example: Sample("tiny-m", "9c3f…", 17, "3+2 = <<3+2=5>>5\\n#### 5", Status.CORRECT, "", "Question: {query}")
    """

    model: str
    completions: str
    """Fingerprint of the sampling job: with sample_index and problem, it names the completion in the run."""
    sample_index: int
    text: str
    status: Status
    detail: str
    template: str


def export(
    store: Store,
    *,
    mode: Mode | None = None,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
) -> Iterator[dict[str, Any]]:
    """All pairs of a run, problem by problem; at most `most` of one problem.

    `mode`: whose verdicts; None: strict where the run has them, else paper. Raises StoreError where there are none.
    """
    mode, found = verified_blocks(store, mode)
    for block in found:
        samples = _samples(store, block)
        for problem in read_problems(store, block[0].problems_fingerprint):
            if problem.problem_id in samples:
                pairs = make_pairs(
                    samples[problem.problem_id], mode, rejected=rejected, most=most, same_model=same_model
                )
                yield from (_row(problem, good, bad) for good, bad in pairs)


def make_pairs(
    samples: Sequence[Sample],
    mode: Mode,
    *,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
) -> list[tuple[Sample, Sample]]:
    """(chosen, rejected) pairs of one problem, without a pair of texts twice.

    Round-robin on both sides: no path is used again before every other one of its side was. Models take turns, in the
    order of their samples. There are as many pairs as the larger side has texts, and at most `most`.
    """
    correct = [sample for sample in samples if sample.status is Status.CORRECT]
    selected = {id(correct[at]) for at in paths.select_distinct([one.text for one in correct], mode)}
    right = {one.text.strip() for one in correct}
    good = _in_turn([one for one in correct if id(one) in selected])
    good = _unique([*good, *_in_turn([one for one in correct if id(one) not in selected])])
    wrong = [one for one in samples if one.status in rejected and one.text.strip() not in right | {""}]
    bad = _unique(_in_turn(wrong))
    if not same_model:
        return list(_round_robin(good, bad))[:most]
    models = dict.fromkeys(sample.completions for sample in samples)
    turns = zip_longest(*(_round_robin(_of_model(good, one), _of_model(bad, one)) for one in models))
    return list(islice((pair for pair in chain.from_iterable(turns) if pair), most))


def _in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """One of each model in turn, in their order."""
    by_model: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_model[sample.completions].append(sample)
    return [sample for sample in chain.from_iterable(zip_longest(*by_model.values())) if sample is not None]


def _unique(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample of each text; white space around it makes no difference."""
    return list({sample.text.strip(): sample for sample in reversed(samples)}.values())[::-1]


def _of_model(samples: Sequence[Sample], completions: str) -> list[Sample]:
    return [sample for sample in samples if sample.completions == completions]


def _round_robin(good: Sequence[Sample], bad: Sequence[Sample]) -> Iterator[tuple[Sample, Sample]]:
    if good and bad:
        for turn in range(max(len(good), len(bad))):
            yield good[turn % len(good)], bad[turn % len(bad)]


def _samples(store: Store, block: Sequence[Source]) -> dict[str, list[Sample]]:
    """problem_id -> its graded completions, by model name, then in sampling order."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for source in block:
        table, metadata = read_table(store, source.completions_key)
        model = json.loads(metadata["model"])["name"]
        template = SamplingSettings(**json.loads(metadata["settings"])).prompt
        judged, about = read_table(store, source.verdicts_key)
        if about["completions"] != content_hash(table):
            raise StoreError(f"{store.url}/{source.verdicts_key}: verdicts on other completions than those there now")
        graded = from_table(judged, GradedCompletion)
        verdicts = {(row.problem_id, row.sample_index): row for row in graded}
        for row in from_table(table, Completion):
            if verdict := verdicts.get((row.problem_id, row.sample_index)):
                found[row.problem_id].append(
                    Sample(
                        model, source.completions, row.sample_index, row.text, verdict.status, verdict.detail, template
                    )
                )
    return {one: sorted(rows, key=lambda row: (row.model, row.completions)) for one, rows in found.items()}


def _row(problem: Problem, good: Sample, bad: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prompt": prompts.render(good.template, problem.question),
        "chosen": good.text,
        "rejected": bad.text,
        "problem_id": problem.problem_id,
    }
    for side, sample in (("chosen", good), ("rejected", bad)):
        row |= {
            f"{side}_model": sample.model,
            f"{side}_completions": sample.completions,
            f"{side}_sample_index": sample.sample_index,
            f"{side}_verdict": str(sample.status),
            f"{side}_detail": sample.detail,
        }
    return row
