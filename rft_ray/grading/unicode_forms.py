"""Texts in Unicode's compatibility form (NFKC), and with every character visible, in time linear in the text. Pure.

`unicodedata.normalize` sorts the marks on a character by insertion: 100,000 marks on one letter take most of a minute.
"""

from __future__ import annotations

import re
import unicodedata

_LONG_RUN = re.compile(r"(?:[^\w\s\x00-\x7f]|[\uff9e\uff9f]){64}")
"""64 characters that may all be marks on one letter. The two named ones are letters, and become marks."""


def compatible(text: str) -> str:
    """The NFKC form of a text. Runs of more than 64 marks, which no language has, are normalised piece by piece."""
    pieces: list[str] = []
    start = 0
    for run in _LONG_RUN.finditer(text):
        pieces.append(text[start : run.end()])
        start = run.end()
    return "".join(unicodedata.normalize("NFKC", piece) for piece in [*pieces, text[start:]])


_SURROGATES = re.compile("[\ud800-\udfff\ufffe\uffff\x80-\x9f]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff\U000e0000-\U000e007f]")


def visible(text: str) -> str:
    """The text with a visible sign in place of every character that shows nothing. Does not escape.

    Example: `visible("a\\x00b\\u202e") == "a␀b⟦U+202E⟧"`
    """
    shown = _SURROGATES.sub("\ufffd", text)
    shown = _CONTROLS.sub(lambda match: "\u2421" if match[0] == "\x7f" else chr(0x2400 + ord(match[0])), shown)
    return _UNSEEN.sub(lambda match: f"\u27e6U+{ord(match[0]):04X}\u27e7", shown)
