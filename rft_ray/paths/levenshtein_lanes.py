"""Edit distances of one text to many, in lanes of machine words. Compiled by Numba when first called, cached on disk.

The algorithm: Hyyrö 2003, "A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances", in blocks of
64 rows as Myers 1999 does. Each lane is one text of the set; all lanes read the same character of the other
text at a time, so the innermost loop is the same few instructions on neighbouring words, which the compiler turns into
vector instructions.

Words are processed in pairs, so that the carry from the first word to the second stays in a register.

`masks[c, w, lane]` has bit i set where character 64 w + i of the lane's text is c. Column j of the dynamic programme is
held as differences down the column: `rises` and `falls` have bit i set where the distance grows or falls by one from
row i to row i + 1. At the end of the last column their sum gives the distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Words = np.ndarray[Any, np.dtype[np.uint64]]
Codes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]

ZERO, ONE, ALL = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
TOP, WORD = np.uint64(63), 64
_PAIRS, _NIBBLES, _BYTES, _SUM = (
    np.uint64(0x5555555555555555),
    np.uint64(0x3333333333333333),
    np.uint64(0x0F0F0F0F0F0F0F0F),
    np.uint64(0x0101010101010101),
)
_TWO, _FOUR, _LAST_BYTE = np.uint64(2), np.uint64(4), np.uint64(56)


@njit(cache=True, inline="always")
def _ones(word):
    """Number of set bits."""
    word = word - ((word >> ONE) & _PAIRS)
    word = (word & _NIBBLES) + ((word >> _TWO) & _NIBBLES)
    return np.int64((((word + (word >> _FOUR)) & _BYTES) * _SUM) >> _LAST_BYTE)


@njit(cache=True)
def set_lane(masks: Words, lane: int, codes: Codes) -> None:
    """Writes a text, as codes, into one lane, replacing the previous text."""
    for code in range(masks.shape[0]):
        for word in range(masks.shape[1]):
            masks[code, word, lane] = ZERO
    for i in range(len(codes)):
        masks[codes[i], i // WORD, lane] |= ONE << np.uint64(i % WORD)


@njit(cache=True, inline="always")
def _step(equals, p, m, p_in, m_in):
    """One word of one column: its new differences down the column, and those along the row below it."""
    vertical = equals | m
    same = equals | m_in
    horizontal = (((same & p) + p) ^ p) | same
    grows, shrinks = m | ~(horizontal | p), p & horizontal
    shifted, shrunk = (grows << ONE) | p_in, (shrinks << ONE) | m_in
    return shrunk | ~(vertical | shifted), shifted & vertical, grows >> TOP, shrinks >> TOP


@njit(cache=True)
def distances(codes: Codes, masks: Words, lengths: Numbers, lanes: int) -> Numbers:
    """Levenshtein distance of the text to each lane; `lengths` are those of the lanes' texts, 0 for an empty lane.

    `masks` has an even number of words; only those that the longest text needs are read.
    """
    pairs = (lengths.max() + 2 * WORD - 1) // (2 * WORD)
    words = 2 * pairs
    rises, falls = np.empty((words, lanes), np.uint64), np.empty((words, lanes), np.uint64)
    rises[:], falls[:] = ALL, ZERO
    up, down = np.empty(lanes, np.uint64), np.empty(lanes, np.uint64)
    for j in range(len(codes)):
        row = masks[codes[j]]
        for lane in range(lanes):
            up[lane], down[lane] = ONE, ZERO
        for pair in range(pairs):
            a, b = row[2 * pair], row[2 * pair + 1]
            pa, pb, ma, mb = rises[2 * pair], rises[2 * pair + 1], falls[2 * pair], falls[2 * pair + 1]
            for lane in range(lanes):
                pa[lane], ma[lane], u, d = _step(a[lane], pa[lane], ma[lane], up[lane], down[lane])
                pb[lane], mb[lane], up[lane], down[lane] = _step(b[lane], pb[lane], mb[lane], u, d)
    totals = np.empty(lanes, np.int64)
    for lane in range(lanes):
        totals[lane] = len(codes)
        for word in range(words):
            rows = min(max(lengths[lane] - word * WORD, 0), WORD)
            held = ALL if rows == WORD else (ONE << np.uint64(rows)) - ONE
            totals[lane] += _ones(rises[word, lane] & held) - _ones(falls[word, lane] & held)
    return totals
