"""Test questions that are in the training set: the same question, or most of its word 8-grams.

In: training problems, test problems and a threshold. Out: `Leak`s, pairs of a test problem and a training problem.
Case, punctuation and white space make no difference. A question of fewer than 8 words has no 8-gram: for it, only the
same question counts.

Limits: the 8-grams of the test questions are held in memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rft_ray.records import Problem

WORDS = 8
_WORD = re.compile(r"\w+(?:\.\w+)*")


@dataclass(frozen=True, slots=True)
class Leak:
    """A test question that one training question contains.

    Example: Leak(<test problem>, <training problem>, 0.93, exact=False)
    """

    test: Problem
    train: Problem
    share: float
    """Share of the test question's word 8-grams that occur in the training question; 1 where they are equal."""
    exact: bool
    """Whether the two questions differ in case and white space at most."""


class Overlap:
    """Finds the test questions that training problems contain. Holds the 8-grams of the test questions."""

    def __init__(self, test: Sequence[Problem], threshold: float) -> None:
        self._test, self._threshold = test, threshold
        self._by_text: dict[str, list[int]] = defaultdict(list)
        self._by_gram: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        for index, problem in enumerate(test):
            grams = set(_grams(problem.question))
            self._sizes.append(len(grams))
            self._by_text[_same_text(problem.question)].append(index)
            for gram in grams:
                self._by_gram[gram].append(index)

    def leaks(self, train: Iterable[Problem]) -> list[Leak]:
        """The pairs of equal questions, and those that share at least the threshold of the test question's 8-grams."""
        return [leak for problem in train for leak in self._in(problem)]

    def _in(self, problem: Problem) -> Iterator[Leak]:
        """The test questions that one training problem contains."""
        exact = self._by_text.get(_same_text(problem.question), [])
        common = Counter(index for gram in set(_grams(problem.question)) for index in self._by_gram.get(gram, ()))
        shares = {index: count / self._sizes[index] for index, count in common.items()} | dict.fromkeys(exact, 1.0)
        for index, share in shares.items():
            if share >= self._threshold:
                yield Leak(self._test[index], problem, share, index in exact)


def _grams(question: str) -> Iterator[tuple[str, ...]]:
    words = _WORD.findall(question.casefold())
    return zip(*(words[start:] for start in range(WORDS)), strict=False)


def _same_text(question: str) -> str:
    """A question without differences in case and white space."""
    return " ".join(question.casefold().split())
