"""One problem's correct and wrong completions -> preference pairs (chosen, rejected) for DPO.

In: a run's store, which holds completions and the verdicts that were made to collect paths (test problems have none).
Out: dictionaries with `prompt`, `chosen`, `rejected` (TRL's explicit-prompt preference format) and where both texts
come from. Chosen: first the representatives that path selection takes of the problem's correct completions, then the
other correct ones. The same store gives the same pairs in the same order. Needs no Ray cluster.

Limits: the completions of one problem block are in memory at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import Any

from rft_ray import paths
from rft_ray.corpus.graded import GradedSample, read_block, verified_blocks
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.grading import Mode
from rft_ray.records import Problem, Status
from rft_ray.store import Store

REJECTED = frozenset({Status.WRONG_ANSWER, Status.BAD_EQUATION})
"""Statuses of a completion that is known to be wrong."""


def export(
    store: Store,
    *,
    samplers: Collection[str],
    mode: Mode | None = None,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
) -> Iterator[dict[str, Any]]:
    """All pairs of a run, problem by problem; at most `most` of one problem.

    `samplers`: fingerprints of the sampling jobs that count; empty: all of the store. `mode`: whose verdicts; None:
    strict where the run has them, else paper. Raises StoreError where there are none.
    """
    mode, blocks = verified_blocks(store, mode, samplers)
    for block in blocks:
        samples = {
            problem: sorted(rows, key=lambda row: (row.model, row.completions))
            for problem, rows in read_block(store, block).items()
        }
        for problem in read_problems(store, block[0].problems_fingerprint):
            if problem.problem_id in samples:
                pairs = make_pairs(
                    samples[problem.problem_id], mode, rejected=rejected, most=most, same_model=same_model
                )
                yield from (_row(problem, good, bad) for good, bad in pairs)


def make_pairs(
    samples: Sequence[GradedSample],
    mode: Mode,
    *,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
) -> list[tuple[GradedSample, GradedSample]]:
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


def _in_turn(samples: Sequence[GradedSample]) -> list[GradedSample]:
    """One of each model in turn, in their order."""
    by_model: dict[str, list[GradedSample]] = defaultdict(list)
    for sample in samples:
        by_model[sample.completions].append(sample)
    return [sample for sample in chain.from_iterable(zip_longest(*by_model.values())) if sample is not None]


def _unique(samples: Sequence[GradedSample]) -> list[GradedSample]:
    """The first sample of each text; white space around it makes no difference."""
    return list({sample.text.strip(): sample for sample in reversed(samples)}.values())[::-1]


def _of_model(samples: Sequence[GradedSample], completions: str) -> list[GradedSample]:
    return [sample for sample in samples if sample.completions == completions]


def _round_robin(
    good: Sequence[GradedSample], bad: Sequence[GradedSample]
) -> Iterator[tuple[GradedSample, GradedSample]]:
    if good and bad:
        for turn in range(max(len(good), len(bad))):
            yield good[turn % len(good)], bad[turn % len(bad)]


def _row(problem: Problem, good: GradedSample, bad: GradedSample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prompt": prompts.render(good.prompt, problem.question),
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
