"""Which text represents an equation list: the reference's rule, each edit distance taken once.

The rule: a newcomer replaces the kept text of its list when the sum of its edit distances to all other
kept texts is strictly larger. The distances between kept texts are held in a matrix and their sums
kept up to date, so a newcomer costs one distance per kept text, and a text seen before costs nothing
unless a kept text has changed since.

Limits: time per newcomer grows with the number of kept texts; memory is that of the matrix.
"""

from __future__ import annotations

from rapidfuzz.distance import Levenshtein

_distance = Levenshtein.distance

HINT_MARGIN = 16
"""RapidFuzz looks first for a distance up to its hint. A newcomer is about as far from each kept text as
the text that it challenges; with this margin the hint holds mostly, and saves about a tenth."""


class KeptPaths:
    """The kept text of every equation list of one problem; a slot is a list's place in the output.

    Kept texts are pairwise different (a text has one equation list), so the reference's "differs from
    the kept one" leaves out exactly the kept one itself.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.indices: list[int] = []
        self._between: list[list[int]] = []
        self._sums: list[int] = []
        self._version = 0
        self._lost_at: dict[str, int] = {}

    def append(self, index: int, text: str) -> None:
        """Keeps the first text of a new equation list."""
        distances = [_distance(text, other) for other in self.texts]
        for place, distance in enumerate(distances):
            self._between[place].append(distance)
            self._sums[place] += distance
        self.texts.append(text)
        self.indices.append(index)
        self._between.append([*distances, 0])
        self._sums.append(sum(distances))
        self._version += 1

    def challenge(self, slot: int, index: int, text: str) -> None:
        """Replaces the kept text of a slot by another of the same equations if that is farther out."""
        now = self.texts[slot]
        if text == now or self._lost_at.get(text) == self._version:
            return
        hints = self._between[slot]
        distances = [
            _distance(text, other, score_hint=hint + HINT_MARGIN) if other is not now else 0
            for other, hint in zip(self.texts, hints, strict=True)
        ]
        total = sum(distances)
        if total <= self._sums[slot]:
            self._lost_at[text] = self._version
            return
        for place, distance in enumerate(distances):
            self._sums[place] += distance - self._between[place][slot]
            self._between[place][slot] = distance
        self._between[slot] = distances
        self._sums[slot] = total
        self.texts[slot], self.indices[slot] = text, index
        self._version += 1
