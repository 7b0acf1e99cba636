"""Distances in lanes equal RapidFuzz's for any texts, in any order of replacement."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from rft_ray.paths.edit_distances import MAX_CHARACTERS, MIN_LANES, TextSet

ODD = "\0é’−½界🙂\ud800\x7f\x80"
texts = st.text(st.sampled_from("ab01 =<>\n" + ODD), max_size=200)


def expected(text: str, kept: list[str]) -> list[int]:
    return [Levenshtein.distance(text, other) for other in kept]


def filled(kept: list[str]) -> TextSet:
    text_set = TextSet()
    for text in kept:
        text_set.append(text)
    return text_set


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=MIN_LANES, max_size=3 * MIN_LANES), texts, st.data())
def test_distances_are_exact_while_texts_are_replaced(kept: list[str], newcomer: str, data: st.DataObject) -> None:
    lanes = filled(kept)
    for _ in range(3):
        place, text = data.draw(st.integers(0, len(kept) - 1)), data.draw(texts)
        kept[place] = text
        lanes.replace(place, text)
        assert lanes.distances(newcomer, [0] * len(kept)) == expected(newcomer, kept)


def test_distances_are_exact_for_lengths_around_the_word_size() -> None:
    """A wrong bit in the last word would change these distances."""
    source = "".join(random.Random(1).choices("abc <>=0123", k=400))
    kept = [source[n // 3 : n // 3 + n] for n in (0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 255, 256, 257)]
    lanes = filled(kept)
    for length in (0, 1, 63, 64, 65, 128, 300):
        newcomer = source[-length:] if length else ""
        assert lanes.distances(newcomer, [0] * len(kept)) == expected(newcomer, kept)


def test_distances_between_two_long_texts_are_exact() -> None:
    kept = [f"path {n} " * 10 for n in range(MIN_LANES)]
    lanes = filled(kept)
    long = "all of it " * (MAX_CHARACTERS // 5)
    assert lanes.distances(long, [0] * len(kept)) == expected(long, kept)
    kept[2] = long
    lanes.replace(2, long)
    assert lanes.distances("short", [0] * len(kept)) == expected("short", kept)
    kept.append("another")
    lanes.append("another")
    assert lanes.distances("short", [0] * len(kept)) == expected("short", kept)


def test_distances_are_exact_with_more_distinct_characters_than_rows() -> None:
    kept = ["".join(chr(0x4E00 + 20 * n + i) for i in range(20)) for n in range(2 * MIN_LANES)]
    lanes = filled(kept)
    assert lanes.distances(kept[3] + "x", [0] * len(kept)) == expected(kept[3] + "x", kept)
