"""Which text represents an equation list: the reference's rule, with each edit distance computed once.

The rule: a new text replaces the kept text of its list when the sum of its edit distances to all other
kept texts is strictly larger. The distances between kept texts are held in a matrix and their sums
kept up to date, so a new text costs one distance per kept text, and a text seen before costs one for each
text kept since.

Limits: time per new text grows with the number of kept texts; memory is that of the matrix and of one row of it
for each distinct text.
"""

from __future__ import annotations

from rft_ray.paths.edit_distances import TextSet, distance

FEW = 4
"""Up to this number, the missing distances of a text seen before are computed one by one."""


class KeptPaths:
    """The kept text of every equation list of one problem; a slot is a list's place in the output.

    Kept texts are pairwise different (a text has one equation list), so the reference's "differs from
    the kept one" leaves out exactly the kept one itself.
    """

    def __init__(self) -> None:
        self.indices: list[int] = []
        self._set = TextSet()
        self._between: list[list[int]] = []
        self._sums: list[int] = []
        self._version = 0
        self._kept_at: list[int] = []
        self._seen: dict[str, tuple[int, list[int]]] = {}

    @property
    def texts(self) -> list[str]:
        return self._set.texts

    def append(self, index: int, text: str) -> None:
        """Keeps the first text of a new equation list."""
        distances = self._set.distances(text)
        for place, to_kept in enumerate(distances):
            self._between[place].append(to_kept)
            self._sums[place] += to_kept
        self.indices.append(index)
        self._set.append(text)
        self._between.append([*distances, 0])
        self._sums.append(sum(distances))
        self._version += 1
        self._kept_at.append(self._version)

    def challenge(self, slot: int, index: int, text: str) -> None:
        """Replaces the kept text of a slot by another with the same equations if its distances sum to more."""
        if text == self.texts[slot]:
            return
        seen = self._seen.get(text)
        if seen is None:
            distances = self._set.distances(text, self._between[slot])
            distances[slot] = 0
        elif seen[0] == self._version:
            return
        else:
            distances = self._renewed(text, slot, *seen)
        self._seen[text] = self._version, distances
        total = sum(distances)
        if total <= self._sums[slot]:
            return
        for place, to_kept in enumerate(distances):
            self._sums[place] += to_kept - self._between[place][slot]
            self._between[place][slot] = to_kept
        self._between[slot] = distances.copy()
        self._sums[slot] = total
        self.indices[slot] = index
        self._set.replace(slot, text)
        self._version += 1
        self._kept_at[slot] = self._version

    def _renewed(self, text: str, slot: int, version: int, known: list[int]) -> list[int]:
        """Distances to all kept texts but the one of its slot; `known` are those to the texts kept at `version`."""
        changed = [place for place, kept_at in enumerate(self._kept_at) if kept_at > version and place != slot]
        if len(changed) > FEW:
            distances = self._set.distances(text, self._between[slot])
        else:
            distances = known + [0] * (len(self.texts) - len(known))
            for place in changed:
                distances[place] = distance(text, self.texts[place])
        distances[slot] = 0
        return distances
