"""Edit distances of one text to every text of a set, for the choice of representatives.

Small sets, and texts too long or with too many different characters, go through RapidFuzz pair by pair; from
`MIN_LANES` texts on, `levenshtein_lanes` takes all pairs at once, several times faster. Both are exact.

Limits: memory is `ROWS` x 8 bytes for each 64 characters of each text, with at most `MAX_CHARACTERS` of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

distance = Levenshtein.distance

MIN_LANES = 6
"""Number of texts from which on it is faster to take all distances at once."""
LANE_STEP = 16
"""Number of lanes added at a time: a whole number of vector registers."""
MAX_CHARACTERS = 2048
ROWS = 256
"""Row 0: any character that no text of the set has. 1-127: ASCII. From 128: others, in order of appearance."""
HINT_MARGIN = 16
"""RapidFuzz first searches for a distance up to its hint. A new text is about as far from each kept text as
the text that it may replace; with this margin the hint mostly holds, and saves about a tenth of the time."""


class TextSet:
    """Texts in places 0, 1, 2, …, each of which can be replaced."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._lanes: _Lanes | None = None
        self._unfit = False

    def append(self, text: str) -> None:
        self.texts.append(text)
        if len(self.texts) >= MIN_LANES:
            self._put(range(len(self.texts) - 1, len(self.texts)))

    def replace(self, place: int, text: str) -> None:
        self.texts[place] = text
        if self._lanes:
            self._put(range(place, place + 1))

    def distances(self, text: str, hints: Sequence[int] = ()) -> list[int]:
        """Levenshtein distances to all texts, in order. `hints` are approximations, for speed only."""
        if self._lanes:
            return self._lanes.distances(text)
        if not hints:
            return [distance(text, other) for other in self.texts]
        return [distance(text, other, score_hint=h + HINT_MARGIN) for other, h in zip(self.texts, hints, strict=True)]

    def _put(self, places: range) -> None:
        """Write texts into the lanes; stop using lanes when a text does not fit."""
        if self._unfit:
            return
        if self._lanes is None:
            try:
                self._lanes, places = _Lanes(), range(len(self.texts))
            except RuntimeError:  # Numba has no writable folder for its compiled code
                self._unfit = True
                return
        if not all(self._lanes.put(place, self.texts[place]) for place in places):
            self._lanes, self._unfit = None, True


class _Lanes:
    """The bit masks of a set of texts, as `levenshtein_lanes` reads them."""

    def __init__(self) -> None:
        from rft_ray.paths import levenshtein_lanes  # compiles, so it is imported only where it is used

        self._kernel = levenshtein_lanes
        self._rows: dict[str, int] = {}
        self._masks = np.zeros((ROWS, 0, 0), np.uint64)
        self._lengths = np.zeros(0, np.int64)
        self._count = 0

    def put(self, place: int, text: str) -> bool:
        """Put a text into a lane; False where it does not fit."""
        if not _plain(text):
            for character in {c for c in text if not "\0" < c < "\x80"}:
                self._rows.setdefault(character, 128 + len(self._rows))
        if len(text) > MAX_CHARACTERS or len(self._rows) > ROWS - 128:
            return False
        self._count = max(self._count, place + 1)
        self._grow(len(text))
        self._lengths[place] = len(text)
        self._kernel.set_lane(self._masks, place, self._codes(text))
        return True

    def _grow(self, characters: int) -> None:
        _, words, lanes = self._masks.shape
        more_lanes = max(0, self._count - lanes + LANE_STEP - 1) // LANE_STEP * LANE_STEP
        more_words = max(0, -(-characters // 128) * 2 - words)  # in pairs
        if more_lanes or more_words:
            self._masks = np.pad(self._masks, ((0, 0), (0, more_words), (0, more_lanes)))
            self._lengths = np.pad(self._lengths, (0, more_lanes))

    def _codes(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        if _plain(text):
            return np.frombuffer(text.encode(), np.uint8)
        rows = self._rows
        return np.array([ord(c) if "\0" < c < "\x80" else rows.get(c, 0) for c in text], np.uint8)

    def distances(self, text: str) -> list[int]:
        lanes = self._masks.shape[2]
        distances: list[int] = self._kernel.distances(self._codes(text), self._masks, self._lengths, lanes).tolist()
        return distances[: self._count]


def _plain(text: str) -> bool:
    """Whether the codes of its characters are their row numbers."""
    return text.isascii() and "\0" not in text
