"""Preference pairs (chosen, rejected) for DPO, made from a problem's committed paths and wrong completions.

In: a run's store with its corpus, completions, and the verdicts made to collect paths (test problems have none). Out:
dictionaries with `prompt`, `chosen`, `rejected` (TRL's explicit-prompt preference format) and the provenance of both
texts. Chosen are the paths of the corpus, in its order; rejected are completions known to be wrong, each text once. The
prompt is the one that the model of the chosen text was sampled with, with its worked examples; the model of the
rejected text was asked in the same form. Of a chat, all three are lists of messages (TRL's conversational form). The
same store gives the same pairs in the same order. Needs no Ray cluster.

Limits: in memory at a time are the completions of one problem block, the problems, and a model and an index for each
path of the corpus.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from operator import itemgetter
from typing import Any

from rft_ray.corpus.graded import GradedSample, read_block, verified_blocks
from rft_ray.data import prompts
from rft_ray.data.problems import read_problems
from rft_ray.grading import Mode
from rft_ray.grading.reasoning import Reasoning
from rft_ray.grading.spec import DEFAULT, VerifierSpec
from rft_ray.records import Problem, Status
from rft_ray.store import Store, present
from rft_ray.store.names import split
from rft_ray.store.tables import read_part

REJECTED = frozenset({Status.WRONG_ANSWER, Status.BAD_EQUATION})
"""Statuses of completions that are certainly wrong, unless they were cut at the token limit."""
NO_CORPUS = (
    "there is no corpus of these verdicts, so chosen are all correct completions, not one for each distinct path: "
    "finish the run to have its paths"
)
MIXED = (
    "rows of models that are asked by their chat template hold messages and the others texts: load_dataset reads files "
    "of one kind, so split this one by the kind of prompt"
)
Paths = dict[str, list[tuple[str, int]]]
"""problem_id -> (model, sample_index) of each sampled path of a corpus, in its order."""


def export(
    store: Store,
    *,
    samplers: Mapping[str, str],
    corpus: str | None = None,
    drop_reasoning: bool = False,
    mode: Mode | None = None,
    rules: VerifierSpec = DEFAULT,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
    note: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the pairs of a run, problem by problem, with at most `most` pairs per problem.

    `samplers`: model -> fingerprint of the sampling job to include; empty: all in the store. `corpus`: key of the JSONL
    of the corpus that was made from these samples and verdicts; None: there is none. `drop_reasoning`: whether its
    paths are without their reasoning, as both texts then are. `mode`: the mode of the verdicts; None: strict, or paper
    if more samples have such verdicts. `rules`: their verifier. `note`: called with a line where samples have no
    verdicts yet, and so give no pairs, where there is no corpus, and where texts and messages are mixed. Raises
    StoreError when there are no verdicts.
    """
    verified = verified_blocks(store, mode, samplers.values(), rules)
    paths = corpus_paths(store, corpus) if corpus else None
    for line in (verified.note, NO_CORPUS if paths is None else ""):
        if note and line:
            note(line)
    chats: set[bool] = set()
    read, problems, places = "", dict[str, Problem](), dict[str, int]()
    for block in verified.blocks:
        if block[0].problems_fingerprint != read:
            read = block[0].problems_fingerprint
            problems = {problem.problem_id: problem for problem in read_problems(store, read)}
            places = {name: place for place, name in enumerate(problems)}
        samples = read_block(store, block, samplers)
        for name in sorted(samples, key=places.__getitem__):
            rows = sorted(samples[name], key=lambda row: (row.model, row.completions))
            pairs = make_pairs(
                [_without_reasoning(row, rules.reasoning_tags) for row in rows] if drop_reasoning else rows,
                None if paths is None else paths.get(name, ()),
                rejected=rejected,
                most=most,
                same_model=same_model,
            )
            for good, bad in pairs:
                chats.add(prompts.is_chat(good.prompt))
                yield _row(store, problems[name], good, bad)
    if note and len(chats) > 1:
        note(MIXED)


def corpus_paths(store: Store, file: str) -> Paths | None:
    """The sampled paths of a corpus by the key of its JSONL; None where it does not count any more.

    The JSONL itself is read where no table has the same rows, as `rft-ray verify` writes none for gold without
    solutions.
    """
    stem = split(file)[0]
    columns = ("problem_id", "model", "sample_index", "gold")
    rows: Iterable[tuple[Any, ...]]
    if table := present(store, f"{stem}.parquet"):
        part = read_part(store, table, columns).table
        rows = zip(*(part.column(name).to_pylist() for name in columns), strict=True)
    elif lines := present(store, f"{stem}.jsonl"):
        rows = map(itemgetter(*columns), map(json.loads, store.read(lines).splitlines()))
    else:
        return None
    paths: Paths = defaultdict(list)
    for problem, model, index, gold in rows:
        if not gold:
            paths[problem].append((sys.intern(model), index))
    return paths


def make_pairs(
    samples: Sequence[GradedSample],
    paths: Sequence[tuple[str, int]] | None,
    *,
    rejected: Collection[Status] = REJECTED,
    most: int = 8,
    same_model: bool = False,
) -> list[tuple[GradedSample, GradedSample]]:
    """(chosen, rejected) pairs of one problem; no pair of texts appears twice.

    `paths`: model and sample index of each text to choose, in order; None: all correct samples, models alternating.
    Rejected texts alternate between models, in the order of their samples. Both sides are used round-robin: a text is
    used again only after all others of its side. The number of pairs is the number of texts on the larger side, but at
    most `most`; of more chosen texts, some of each model are used. Both samples of a pair were asked for in the same
    form, and with `same_model` from the same model. A text is not rejected where it is chosen or correct too, and one
    that was cut at the token limit only with `Status.TRUNCATED` in `rejected`.
    """
    correct = [sample for sample in samples if sample.status is Status.CORRECT]
    if paths is None:
        good = _alternate(correct)
    else:
        by_index = {(sample.model, sample.sample_index): sample for sample in samples}
        good = [by_index[path] for path in paths if path in by_index]
    right = {"", *(sample.text.strip() for sample in (*correct, *good))}
    bad = _alternate([s for s in samples if _is_rejected(s, rejected) and s.text.strip() not in right])
    group = _model if same_model else _form
    turns = zip_longest(
        *(
            _round_robin([s for s in good if group(s) == name], [s for s in bad if group(s) == name], most)
            for name in dict.fromkeys(map(group, samples))
        )
    )
    first: dict[tuple[str, str], tuple[GradedSample, GradedSample]] = {}
    for pair in chain.from_iterable(turns):
        if pair:
            first.setdefault((pair[0].text.strip(), pair[1].text.strip()), pair)
    return list(first.values())[:most]


def _is_rejected(sample: GradedSample, rejected: Collection[Status]) -> bool:
    """In paper mode a cut answer has the verdict `wrong_answer`: `#### 1` of `#### 12`."""
    return sample.status in rejected and (sample.finish_reason != "length" or Status.TRUNCATED in rejected)


def _model(sample: GradedSample) -> Hashable:
    return sample.completions


def _form(sample: GradedSample) -> Hashable:
    """What the prompts of samples share: form, examples, and whether they open reasoning."""
    return sample.prompt, sample.shots, sample.shots_from, sample.shots_version, sample.opens_reasoning


def _without_reasoning(sample: GradedSample, tags: Sequence[str]) -> GradedSample:
    read = Reasoning.after(sample.prompt, tags, sample.opens_reasoning)
    return replace(sample, text=read.removed(sample.text, cut=sample.finish_reason == "length"))


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


def _round_robin(
    good: Sequence[GradedSample], bad: Sequence[GradedSample], most: int
) -> Iterator[tuple[GradedSample, GradedSample]]:
    """Pairs of the texts of both sides, each text once on its side until the other side has no more."""
    good, bad = _unique(good), _unique(bad)
    used = {id(sample) for sample in _alternate(good)[:most]}
    good = [sample for sample in good if id(sample) in used]
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
