"""Training examples and their order: texts -> token ids with labels -> batches.

In: the questions and responses of a training table. Out: `Example`s (prompt and response tokenized separately, as
sampling does) and, for each optimizer step, the micro-batches of each worker. Everything here is a pure function of
data, recipe and seed. The examples of a step depend neither on the number of workers nor on the micro-batch size, which
only decide how the step is divided.

Limits: every worker tokenizes the whole table and keeps it in memory.
"""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rft_ray.config import Recipe
from rft_ray.data import prompts

IGNORED = -100
"""The label of tokens that the loss ignores."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and its response as token ids.

    Example: Example(array("I", [1, 5, 9, 7, 2]), 3) trains on 7 and 2 (EOS), given 1, 5, 9.
    """

    tokens: array[int]
    """4 bytes per token, because every worker holds the whole corpus in memory."""
    prompt_tokens: int

    @property
    def labels(self) -> list[int]:
        """The tokens with the prompt masked by its length, so an EOS that equals the pad token is still trained on."""
        return [IGNORED] * self.prompt_tokens + self.tokens[self.prompt_tokens :].tolist()


def encode(tokenizer: Any, form: str, rows: Iterable[tuple[str, str]], max_tokens: int) -> tuple[list[Example], int]:
    """Tokenize (question, response) rows in order. Returns the examples and the number of rows over `max_tokens`.

    `form`: the prompt in its stored form.
    """
    examples: list[Example] = []
    skipped = 0
    end = prompts.end_of_response(tokenizer, form)
    for question, response in rows:
        prompt = prompts.encode_prompt(tokenizer, prompts.build(form, question))
        tokens = array("I", [*prompt, *prompts.encode_response(tokenizer, response, end)])
        if len(tokens) <= max_tokens:
            examples.append(Example(tokens, len(prompt)))
        else:
            skipped += 1
    return examples, skipped


@dataclass(frozen=True, slots=True)
class Plan:
    """The indices of the examples that each optimizer step trains on.

    Example: Plan(((2, 0), (1,), (0, 1), (2,)), 2) is two epochs of three examples in batches of two.
    """

    steps: tuple[tuple[int, ...], ...]
    batch_size: int

    def micro_batches(self, rank: int, workers: int, size: int) -> list[tuple[int, ...]]:
        """The micro-batches of worker `rank`: `batch_size / (workers * size)` a step, some empty in a short step.

        Examples of a micro-batch have similar lengths, which keeps padding low.
        """
        per_step = self.batch_size // size
        batches: list[tuple[int, ...]] = []
        for step in self.steps:
            pieces = _pieces(step, per_step)
            batches.extend(pieces[rank::workers])
        return batches


def steps_of(examples: int, recipe: Recipe) -> int:
    """Optimizer steps that a recipe makes on this number of examples."""
    return recipe.epochs * math.ceil(examples / recipe.batch_size)


def warmup_steps(steps: int, recipe: Recipe) -> int:
    """Optimizer steps in which the learning rate rises; it is 0 in the first, so that a single step has no warm-up."""
    return math.ceil(steps * recipe.warmup_ratio) if steps > 1 else 0


def plan(lengths: Sequence[int], epochs: int, batch_size: int, seed: int, steps_wanted: int | None = None) -> Plan:
    """Every example once per epoch, shuffled again for each epoch; the last step of an epoch may be short.

    `steps_wanted`: the number of steps to plan instead of `epochs`; the last epoch may then end early.
    """
    steps: list[tuple[int, ...]] = []
    if steps_wanted is not None:
        epochs = math.ceil(steps_wanted / math.ceil(len(lengths) / batch_size))
    for epoch in range(epochs):
        order = list(range(len(lengths)))
        random.Random(f"{seed} {epoch}").shuffle(order)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            steps.append(tuple(sorted(batch, key=lambda index: (-lengths[index], index))))
    return Plan(tuple(steps[:steps_wanted]), batch_size)


def _pieces(step: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """`step` cut into `count` contiguous pieces whose sizes differ by at most one."""
    small, larger = divmod(len(step), count)
    bounds = [piece * small + min(piece, larger) for piece in range(count + 1)]
    return [step[a:b] for a, b in itertools.pairwise(bounds)]


def padded(examples: Sequence[Example], filler: int) -> dict[str, list[list[int]]]:
    """Model inputs padded to equal length. An empty micro-batch becomes one row that the loss ignores."""
    chosen = examples or [Example(array("I", [filler, filler]), 2)]
    width = max(len(example.tokens) for example in chosen)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for example in chosen:
        gap = width - len(example.tokens)
        columns["input_ids"].append([*example.tokens, *[filler] * gap])
        columns["attention_mask"].append([1] * len(example.tokens) + [0] * gap)
        columns["labels"].append([*example.labels, *[IGNORED] * gap])
    return columns
