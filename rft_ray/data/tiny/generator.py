"""Generated word problems in the format of GSM8K: the default data.

`generate(n, split=..., seed=..., steps=...)` -> `list[Problem]`, each with one gold solution of
one line per step (`Tom has 3*4 = <<3*4=12>>12 pens.`) and a last line `#### 12`. The same arguments
give the same problems on every machine; `generate(100)` is the first 100 of `generate(200)`.
A hash of the question decides its split, so splits share no question. Answers are small positive
integers. Pure Python.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import islice
from typing import Literal, get_args

from rft_ray.data.tiny.plans import Step, evaluate, render
from rft_ray.data.tiny.stories import Story, tell_story
from rft_ray.records import Problem, problem_id

Split = Literal["train", "test", "pretrain"]
_TENTHS: dict[Split, range] = {"train": range(2), "test": range(2, 4), "pretrain": range(4, 10)}
MAX_STEPS = 4


def generate(n: int, *, split: Split, seed: int = 0, steps: tuple[int, int] = (3, 4)) -> list[Problem]:
    """The first `n` problems of a split, their number of steps between `steps[0]` and `steps[1]`.

    Raises ValueError for an unknown split or an impossible range of steps.
    """
    return [_problem(story) for story in islice(stories(split=split, seed=seed, steps=steps), n)]


def stories(*, split: Split, seed: int = 0, steps: tuple[int, int] = (3, 4)) -> Iterator[Story]:
    """The endless sequence of stories behind `generate`, without repeated questions or questions of other splits."""
    if split not in get_args(Split):
        raise ValueError(f"split {split!r}: it must be one of {', '.join(get_args(Split))}")
    low, high = steps
    if not 1 <= low <= high <= MAX_STEPS:
        raise ValueError(f"steps {low}..{high}: 1 <= low <= high <= {MAX_STEPS} must hold")
    rng = random.Random(f"rft-ray tiny {split} {seed} {low}-{high}")
    seen: set[str] = set()
    while True:
        story = _draw(rng, rng.randint(low, high))
        if story.question not in seen and _split_of(story.question) == split:
            seen.add(story.question)
            yield story


def drills(n: int, *, seed: int = 0, equations: int = 4) -> list[Problem]:
    """Arithmetic without a story, in the notation of the solutions, for pre-training."""
    rng, drawn = random.Random(f"rft-ray tiny drill {seed}"), []
    for _ in range(n):
        sums = [_sum(rng) for _ in range(equations)]
        question = "What are " + ", ".join(text for text, _ in sums) + "?"
        lines = [f"So {text} = <<{text}={value}>>{value}." for text, value in sums]
        answer = str(sums[-1][1])
        drawn.append(Problem(problem_id(question), question, "\n".join([*lines, f"#### {answer}"]), answer))
    return drawn


def _sum(rng: random.Random) -> tuple[str, int]:
    """One operation on two numbers in the stories' range, and its value."""
    while True:
        op = rng.choice("+-*/")
        left, right = (
            (rng.randint(2, 20), rng.randint(2, 9)) if op in "*/" else (rng.randint(2, 99), rng.randint(2, 60))
        )
        if op == "/":
            left *= right
        elif op == "*" and rng.random() < 0.5:
            left, right = right, left
        values = evaluate((Step("sum", "left", op, "right", ()),), {"left": left, "right": right})
        if values is not None:
            return f"{left}{op}{right}", values["sum"]


def solutions(story: Story, limit: int = 16) -> list[str]:
    """Up to `limit` correct solutions with pairwise different equation lists; the gold one first."""
    rng = random.Random(f"solutions {problem_id(story.question)}")
    texts: dict[tuple[str, ...], str] = {}
    for _ in range(20 * limit):
        equations, text = render(rng.choice(story.plans), story.given, rng)
        texts.setdefault(equations, text)
        if len(texts) == limit:
            break
    return list(texts.values())


def _problem(story: Story) -> Problem:
    gold = solutions(story, limit=1)[0]
    answer = gold.rsplit("#### ", 1)[1]
    return Problem(problem_id(story.question), story.question, gold, answer)


def _draw(rng: random.Random, steps: int) -> Story:
    """Draw stories until the numbers fit, which takes a few tries on average."""
    while True:
        story = tell_story(rng, steps)
        if story is not None:
            return story


def _split_of(question: str) -> Split:
    tenth = int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)
