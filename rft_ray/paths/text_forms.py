"""When two paths without equations are the same, and when they are nearly so: by their words. Pure Python.

`normalised_text`: the same words, whatever their case, width and white space. `answer_and_length`: the same answer, in
about as many words (steps of a fifth). Near-duplicates: texts that share most of their word 4-grams.

Limits: near-duplicates cost one comparison of sets for each pair of kept texts of a problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rft_ray.grading.unicode_forms import compatible

GRAM = 4
"""Words of a gram."""
_WORD = re.compile(r"\w+")


def normalised_text(text: str) -> str:
    """A text without what does not tell paths apart: case, width and white space."""
    return " ".join(compatible(text).casefold().split())


def answer_and_length(answer: str, text: str) -> str:
    """The answer, and a step of the number of words: 10 and 11 words are one step, 10 and 13 are two."""
    return f"{answer}\n{round(math.log(len(text.split()) + 1, 1.2))}"


def without_near_duplicates(texts: Sequence[str], threshold: float) -> list[int]:
    """Indices of the texts to keep, in order: each shares less than the threshold with every text kept before it.

    Two texts share the number of their common grams, divided by that of all their grams.
    """
    kept: list[tuple[int, frozenset[tuple[str, ...]]]] = []
    for index, text in enumerate(texts):
        own = grams(text)
        if all(_shared(own, other) < threshold for _, other in kept):
            kept.append((index, own))
    return [index for index, _ in kept]


def grams(text: str) -> frozenset[tuple[str, ...]]:
    """The word 4-grams of a text; of a shorter text, all of its words as one."""
    words = _WORD.findall(normalised_text(text))
    return frozenset(tuple(words[start : start + GRAM]) for start in range(max(1, len(words) - GRAM + 1)))


def _shared(left: frozenset[tuple[str, ...]], right: frozenset[tuple[str, ...]]) -> float:
    common = len(left & right)
    return common / (len(left) + len(right) - common)
