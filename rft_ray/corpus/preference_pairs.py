"""Preference pairs (chosen, rejected) for DPO, made from a problem's correct and wrong completions.

In: a run's store with completions and the verdicts made to collect paths (test problems have none). Out: dictionaries
with `prompt`, `chosen`, `rejected` (TRL's explicit-prompt preference format) and the provenance of both texts. The
prompt is the one that the model of the chosen text was sampled with, with its worked examples; of a chat, all three are
lists of messages (TRL's conversational form). Chosen texts are first the problem's selected paths, then its other
correct completions. The same store gives the same pairs in the same order. Needs no Ray cluster.

Limits: the completions of one problem block are in memory at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from rft_ray import paths
from rft_ray.corpus.graded import GradedSample, read_block, verified_blocks
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.grading import Mode
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.records import Problem, Status
from rft_ray.store import Store

REJECTED = frozenset({Status.WRONG_ANSWER, Status.BAD_EQUATION})
"""Statuses of completions that are certainly wrong."""


def export(
    store: Store,
    *,
    samplers: Mapping[str, str],
    mode: Mode | None = None,
    rules: VerifierSpec = DEFAULT,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
    note: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the pairs of a run, problem by problem, with at most `most` pairs per problem.

    `samplers`: model -> fingerprint of the sampling job to include; empty: all in the store. `mode`: the mode of the
    verdicts; None: strict, or paper if more samples have such verdicts. `rules`: their verifier. `note`: called with
    a line where samples have no verdicts yet, and so give no pairs. Raises StoreError when there are no verdicts.
    """
    verified = verified_blocks(store, mode, samplers.values(), rules)
    mode, blocks = verified.mode, verified.blocks
    if note and verified.note:
        note(verified.note)
    for block in blocks:
        samples = {
            problem: sorted(rows, key=lambda row: (row.model, row.completions))
            for problem, rows in read_block(store, block, samplers).items()
        }
        for problem in read_problems(store, block[0].problems_fingerprint):
            if problem.problem_id in samples:
                pairs = make_pairs(
                    samples[problem.problem_id], mode, rejected=rejected, most=most, same_model=same_model
                )
                yield from (_row(store, problem, good, bad) for good, bad in pairs)


def make_pairs(
    samples: Sequence[GradedSample],
    mode: Mode,
    *,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
) -> list[tuple[GradedSample, GradedSample]]:
    """(chosen, rejected) pairs of one problem; no pair of texts appears twice.

    Both sides are used round-robin: a text is used again only after all others of its side. Models alternate, in the
    order of their samples. The number of pairs is the number of texts on the larger side, but at most `most`.
    """
    correct = [sample for sample in samples if sample.status is Status.CORRECT]
    selected = {id(correct[at]) for at in paths.select_distinct([sample.text for sample in correct], mode)}
    not_rejected = {"", *(sample.text.strip() for sample in correct)}
    good = _alternate([sample for sample in correct if id(sample) in selected])
    good += _alternate([sample for sample in correct if id(sample) not in selected])
    wrong = [sample for sample in samples if sample.status in rejected and sample.text.strip() not in not_rejected]
    bad = _alternate(wrong)
    if not same_model:
        return list(_round_robin(good, bad))[:most]
    models = dict.fromkeys(sample.completions for sample in samples)
    turns = zip_longest(*(_round_robin(_of_model(good, model), _of_model(bad, model)) for model in models))
    first: dict[tuple[str, str], tuple[GradedSample, GradedSample]] = {}
    for pair in chain.from_iterable(turns):
        if pair:
            first.setdefault((pair[0].text.strip(), pair[1].text.strip()), pair)
    return list(first.values())[:most]


def _alternate(samples: Sequence[GradedSample]) -> list[GradedSample]:
    """The samples with models alternating; each model's samples keep their order."""
    by_model: dict[str, list[GradedSample]] = defaultdict(list)
    for sample in samples:
        by_model[sample.completions].append(sample)
    return [sample for sample in chain.from_iterable(zip_longest(*by_model.values())) if sample is not None]


def _unique(samples: Sequence[GradedSample]) -> list[GradedSample]:
    """The first sample of each text, ignoring white space around it."""
    first: dict[str, GradedSample] = {}
    for sample in samples:
        first.setdefault(sample.text.strip(), sample)
    return list(first.values())


def _of_model(samples: Sequence[GradedSample], completions: str) -> list[GradedSample]:
    return [sample for sample in samples if sample.completions == completions]


def _round_robin(
    good: Sequence[GradedSample], bad: Sequence[GradedSample]
) -> Iterator[tuple[GradedSample, GradedSample]]:
    """Pairs of the texts of both sides, each text once on its side until the other side has no more."""
    good, bad = _unique(good), _unique(bad)
    if good and bad:
        for turn in range(max(len(good), len(bad))):
            yield good[turn % len(good)], bad[turn % len(bad)]


def _row(store: Store, problem: Problem, good: GradedSample, bad: GradedSample) -> dict[str, Any]:
    candidates = prompts.shots_of(read_problems(store, good.shots_from), good.shots) if good.shots else []
    prompt = prompts.build_few_shot(good.prompt, problem, candidates, good.shots, good.shots_version)
    row: dict[str, Any] = {"prompt": prompt, "chosen": good.text, "rejected": bad.text}
    if isinstance(prompt, prompts.Chat):
        row = {"prompt": prompt.as_data(), "chosen": _answer(good), "rejected": _answer(bad)}
    row["problem_id"] = problem.problem_id
    for side, sample in (("chosen", good), ("rejected", bad)):
        row |= {
            f"{side}_model": sample.model,
            f"{side}_completions": sample.completions,
            f"{side}_sample_index": sample.sample_index,
            f"{side}_verdict": str(sample.status),
            f"{side}_detail": sample.detail,
        }
    return row


def _answer(sample: GradedSample) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": sample.text}]
