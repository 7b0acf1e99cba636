"""What a run's config says of its method, in the words of the report: what is accepted, and which paths are the same.

In: a run's saved config, as a tree; empty where it has none. Out: a `Method`. The defaults are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rft_ray.grading.spec import GSM8K, distinct_by

_ACCEPTED = {
    GSM8K: "its final answer is right and all of its equations hold",
    "python": "its code passes the tests of its problem",
}
_SAME = {
    "equations": "the same equations",
    "normalised_text": "the same words",
    "answer_and_length": "the same answer and about the same length",
}


@dataclass(frozen=True, slots=True)
class Method:
    """Parts of the report's sentences. Example: Method("its final answer is right …", "the same equations", True)"""

    accepted: str
    """A sample is accepted when …"""
    same: str
    """Two samples are the same path when they have …"""
    gold: bool
    """Whether the gold solutions are in the corpus."""
    path: str = "distinct path"
    """What a row of the corpus is that is not gold."""


def method_of(config: Mapping[str, Any]) -> Method:
    """The method of a saved config."""
    grading, corpus = config.get("grading") or {}, config.get("corpus") or {}
    verifier = grading.get("verifier") or GSM8K
    shared = distinct_by(corpus.get("distinct_by"), verifier)
    return Method(
        _ACCEPTED.get(verifier, f"the verifier {verifier} finds its answer right"),
        _SAME.get(shared, f"the same value of {shared}"),
        bool(corpus.get("gold", True)),
        "distinct path" if corpus.get("dedup", "equations") == "equations" else "path",
    )
