"""Plans of arithmetic steps for a problem, and the solutions rendered from them.

A plan is one way to compute the answer: steps in dependency order, each a binary operation on
given numbers and earlier steps. Order of independent steps, order of operands and folding a step
into the one that uses it vary freely, so that one plan renders to many correct solutions.
Pure Python. Numbers stay small (see `MAX_VALUE`), so that a model of under a million parameters
can learn the arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

MAX_VALUE = 120
MAX_FACTOR = 20
"""Largest operand of a product; the other one is at most `MAX_SMALL_FACTOR`."""
MAX_SMALL_FACTOR = 9
_P_SWAP = 0.25
_P_FOLD = 0.1
_LOOSE = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True, slots=True)
class Step:
    """One binary operation of a plan, and the sentences that can state it.

    Example: Step("total", "boxes", "*", "each", ("Tom has {eq} pens.",))
    """

    name: str
    left: str
    """Name of a given number or of an earlier step."""
    op: str
    right: str
    says: tuple[str, ...]
    """Sentences with one `{eq}`, which becomes `3*4 = <<3*4=12>>12`."""


Plan = tuple[Step, ...]


def evaluate(plan: Plan, given: Mapping[str, int]) -> dict[str, int] | None:
    """Values of all names after `plan`, or None where a number is not a small natural one."""
    values = dict(given)
    for step in plan:
        value = _apply(step.op, values[step.left], values[step.right])
        if value is None:
            return None
        values[step.name] = value
    return values


def _apply(op: str, left: int, right: int) -> int | None:
    if op == "/":
        fits = right > 0 and left % right == 0 and right <= MAX_SMALL_FACTOR and left // right <= MAX_FACTOR
        return left // right if fits else None
    if op == "*":
        small, large = sorted((left, right))
        return left * right if large <= MAX_FACTOR and small <= MAX_SMALL_FACTOR else None
    value = left + right if op == "+" else left - right
    return value if 0 < value <= MAX_VALUE else None


def render(plan: Plan, given: Mapping[str, int], rng: random.Random) -> tuple[tuple[str, ...], str]:
    """One solution of a plan that `evaluate` accepts, in a style drawn from `rng`.

    Returns its equations (`("3*4=12", ...)`) and its text: one line per step, the last one `#### <answer>`.
    """
    values = evaluate(plan, given)
    if values is None:
        raise ValueError(f"a step of {[step.name for step in plan]} has no small natural value")
    folded = _foldable(plan, rng)
    texts: dict[str, tuple[str, int]] = {name: (str(value), 3) for name, value in given.items()}
    equations, lines = [], []
    for step in _shuffled(plan, rng):
        expression = _expression(step, texts, rng)
        if step.name == folded:
            texts[step.name] = (expression, _LOOSE[step.op])
            continue
        value = values[step.name]
        texts[step.name] = (str(value), 3)
        equations.append(f"{expression}={value}")
        lines.append(rng.choice(step.says).format(eq=f"{expression} = <<{equations[-1]}>>{value}"))
    return tuple(equations), "\n".join([*lines, f"#### {values[plan[-1].name]}"])


def _foldable(plan: Plan, rng: random.Random) -> str | None:
    """Name of a step to write inside the only step that uses it, with probability `_P_FOLD`; otherwise None."""
    uses = [name for step in plan for name in (step.left, step.right)]
    names = [step.name for step in plan if uses.count(step.name) == 1]
    return rng.choice(names) if names and rng.random() < _P_FOLD else None


def _shuffled(plan: Plan, rng: random.Random) -> list[Step]:
    """The steps in a random topological order; the last step stays last."""
    waiting, ordered = list(plan), []
    while waiting:
        pending = {step.name for step in waiting}
        ready = [step for step in waiting if step.left not in pending and step.right not in pending]
        ordered.append(rng.choice(ready))
        waiting.remove(ordered[-1])
    return ordered


def _expression(step: Step, texts: Mapping[str, tuple[str, int]], rng: random.Random) -> str:
    """`step` as an infix expression, with brackets where precedence needs them."""
    (left, left_rank), (right, right_rank) = texts[step.left], texts[step.right]
    rank = _LOOSE[step.op]
    if step.op in "+*" and rng.random() < _P_SWAP:
        left, left_rank, right, right_rank = right, right_rank, left, left_rank
    left = f"({left})" if left_rank < rank else left
    right = f"({right})" if right_rank < rank or (right_rank == rank and step.op in "-/") else right
    return f"{left}{step.op}{right}"
