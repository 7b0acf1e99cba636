"""How completions are graded: the verifier, its limits, and a judge of what it rejects."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rft_ray.config.judge import Judge
from rft_ray.config.section import Section

VERIFIERS = ("gsm8k", "math", "choice", "exact", "regex", "python")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:function` of the user's own."""


class Grading(Section):
    """How completions are graded."""

    mode: Literal["strict", "paper"] = "strict"
    """Of `gsm8k`. `paper`: exactly the rules of the reference implementation. `strict`: see docs/grading.md."""
    unread: Literal["accept", "reject"] = "accept"
    """Of `gsm8k` in strict mode: whether a right answer is `correct` (accept) or `undecided` (reject) where some of its
    equations cannot be read. These verdicts have `equations: partly_read`, and the ledger counts them."""
    verifier: str = "gsm8k"
    """`gsm8k`: numbers and equations. `math`: LaTeX. `choice`: a letter. `exact`: words. `regex`: by `pattern`.
    `python`: code against unit tests. `module:function`: your own. See docs/verifiers.md."""
    pattern: str | None = None
    """Of `regex`, and needed there: the first group of its last match is the answer."""
    timeout_s: float = Field(10.0, gt=0, le=3600)
    """Seconds for one completion in `math`, `regex`, `python` and `module:function`."""
    memory_gib: float = Field(4.0, ge=0.5, le=1_000_000)
    """Memory of the process of these verifiers, in GiB of address space."""
    actors: int = Field(1, ge=1)
    """Processes that grade and select paths."""
    judge: Judge | None = None
    """A model that is asked about rejected completions, or its source alone; null: none."""

    @field_validator("judge", mode="before")
    @classmethod
    def _source_alone(cls, judge: Any) -> Any:
        return {"source": judge} if isinstance(judge, str) else judge

    @field_validator("verifier")
    @classmethod
    def _known(cls, verifier: str) -> str:
        if verifier in VERIFIERS or FUNCTION.fullmatch(verifier):
            return verifier
        near = difflib.get_close_matches(verifier, VERIFIERS, 1)
        raise ValueError(
            f"{verifier!r} is no verifier: {'did you mean ' + near[0] if near else 'use ' + ', '.join(VERIFIERS)}, or "
            "module:function for one of your own"
        )

    @model_validator(mode="after")
    def _unread_has_its_mode(self) -> Grading:
        if self.unread == "reject" and (self.mode != "strict" or self.verifier != "gsm8k"):
            raise ValueError(
                "unread: reject needs mode: strict and verifier: gsm8k, which alone find equations that cannot be read"
            )
        return self

    @model_validator(mode="after")
    def _pattern_has_its_verifier(self) -> Grading:
        if (self.verifier == "regex") != (self.pattern is not None):
            raise ValueError("verifier: regex needs a pattern, and a pattern needs verifier: regex")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern: {error}") from None
            if not groups:
                raise ValueError("pattern: put the answer into a group: (…)")
        return self
