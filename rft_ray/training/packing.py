"""Examples of an optimizer step -> rows of several whole examples each, without padding.

In: a plan, the tokens of each example, the number of workers, and the tokens that a row may hold. Out: for each step,
rows of nearly equal length, the same number for each worker. Rows that the workers compute at the same time differ
least, since the workers wait for each other there. Everything is a pure function of the plan and the lengths, so an
attempt that resumes gets the same rows; the examples of a step and its loss are those of the unpacked plan.

Limits: rows are cut within a step, so the longest example bounds the balance where a worker gets few examples a step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rft_ray.config import Recipe, Training
from rft_ray.training.batches import Plan

TOLERANCE = 0.002
"""A longest row within this share of the mean length is not made shorter."""

Row = tuple[int, ...]
"""The indices of the examples of one forward pass."""


@dataclass(frozen=True, slots=True)
class Division:
    """How one worker goes through the optimizer steps.

    Example: Division(((0,), (2, 1)), 2, 1, 0.99, "packed_sdpa") is one step of two passes, of one packed row each.
    """

    passes: tuple[Row, ...]
    """The examples of each forward pass of this worker; some are empty."""
    per_step: int
    rows: int
    """Rows of one forward pass at most: 1 where they are packed."""
    useful: float
    """Tokens of examples, as a share of what the workers compute, or wait for others to compute."""
    attention: str
    """The attention that keeps packed examples apart; empty where rows are padded."""


def divide(
    plan: Plan, lengths: Sequence[int], settings: Training, recipe: Recipe, *, rank: int, attention: str
) -> Division:
    """The passes of worker `rank`: packed rows with an `attention` for them, otherwise padded micro-batches.

    A packed row holds as many tokens as `micro_batch_size` examples of `max_tokens`, the most of a padded micro-batch.
    """
    workers = settings.workers
    if attention:
        steps = pack(plan, lengths, workers, settings.micro_batch_size * recipe.max_tokens)
        shares = [[row for step in steps for row in step[other::workers]] for other in range(workers)]
        size, per_step = 1, len(steps[0]) // workers
    else:
        size = settings.micro_batch_of(recipe)
        shares = [plan.micro_batches(other, workers, size) for other in range(workers)]
        per_step = recipe.batch_size // (size * workers)
    useful = useful_share(shares, lengths, padded=not attention)
    return Division(tuple(shares[rank]), per_step, size, useful, attention)


def pack(plan: Plan, lengths: Sequence[int], workers: int, budget: int) -> list[list[Row]]:
    """For each step its rows, of at most `budget` tokens: row `i` is for worker `i % workers`, in pass `i // workers`.

    Every step has the same number of rows, the smallest that keeps the budget in every step. Raises ValueError where
    an example is longer than the budget.
    """
    if max(lengths) > budget:
        raise ValueError(f"an example of {max(lengths)} tokens is longer than a row of {budget}: raise the budget")
    most = max(sum(lengths[index] for index in step) for step in plan.steps)
    passes = max(1, math.ceil(most / (workers * budget)))
    while True:
        steps = [_balanced(step, lengths, passes * workers) for step in plan.steps]
        if all(_tokens(row, lengths) <= budget for rows in steps for row in rows):
            return [_in_passes(rows, lengths, workers, number) for number, rows in enumerate(steps)]
        passes += 1


def useful_share(shares: Sequence[Sequence[Row]], lengths: Sequence[int], *, padded: bool) -> float:
    """Tokens of examples, as a share of the tokens of all passes, where every pass lasts as long as its longest row.

    `shares`: the passes of each worker.
    """
    tokens = sum(_tokens(row, lengths) for share in shares for row in share)
    computed = sum(
        max(
            len(row) * max((lengths[index] for index in row), default=0) if padded else _tokens(row, lengths)
            for row in together
        )
        for together in zip(*shares, strict=True)
    )
    return tokens / (computed * len(shares))


def _tokens(row: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[index] for index in row)


def _balanced(step: Sequence[int], lengths: Sequence[int], count: int) -> list[Row]:
    """The examples of a step in `count` rows of nearly equal length: longest first to the shortest row, then swaps."""
    rows: list[list[int]] = [[] for _ in range(count)]
    shortest = [(0, number) for number in range(count)]
    for index in sorted(step, key=lambda index: (-lengths[index], index)):
        tokens, number = shortest[0]
        rows[number].append(index)
        heapq.heapreplace(shortest, (tokens + lengths[index], number))
    totals = [_tokens(row, lengths) for row in rows]
    enough = sum(totals) / count * (1 + TOLERANCE)
    for _ in range(2 * count):
        longest = max(range(count), key=lambda number: (totals[number], number))
        if totals[longest] <= enough or not _shorten(longest, rows, totals, lengths):
            break
    return [tuple(row) for row in rows]


def _shorten(longest: int, rows: list[list[int]], totals: list[int], lengths: Sequence[int]) -> bool:
    """Move an example out of row `longest`, or swap it for a shorter one. Returns whether a row could take it."""
    for other in sorted(range(len(rows)), key=lambda number: (totals[number], number)):
        gap = totals[longest] - totals[other]
        exchange = _exchange(rows[longest], rows[other], gap, lengths)
        if exchange is None:
            continue
        given, taken = exchange
        rows[longest].remove(given)
        rows[other].append(given)
        if taken is not None:
            rows[other].remove(taken)
            rows[longest].append(taken)
        moved = lengths[given] - (lengths[taken] if taken is not None else 0)
        totals[longest] -= moved
        totals[other] += moved
        return True
    return False


def _exchange(
    giver: Sequence[int], taker: Sequence[int], gap: int, lengths: Sequence[int]
) -> tuple[int, int | None] | None:
    """The examples to swap (None: nothing comes back) so that two rows `gap` tokens apart get as close as they can."""
    best, chosen = gap, None  # type: int, tuple[int, int | None] | None
    for given in giver:
        for taken in (None, *taker):
            apart = abs(gap - 2 * (lengths[given] - (lengths[taken] if taken is not None else 0)))
            if apart < best:
                best, chosen = apart, (given, taken)
    return chosen


def _in_passes(rows: Sequence[Row], lengths: Sequence[int], workers: int, number: int) -> list[Row]:
    """The rows of step `number`, longest first, so that those of one pass are the closest; worker 0 gets no more."""
    ordered = sorted(rows, key=lambda row: (-_tokens(row, lengths), row))
    passes: list[Row] = []
    for start in range(0, len(ordered), workers):
        together = ordered[start : start + workers]
        turn = number % workers
        together = [*together[turn:], *together[:turn]]
        passes += reversed(together) if start // workers % 2 else together
    return passes
