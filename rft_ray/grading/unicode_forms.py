"""Unicode's compatibility form (NFKC) in time linear in the text. Pure.

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
