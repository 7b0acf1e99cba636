"""The judge of rejected completions: which model gives the second opinion, on what, and how it is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rft_ray.config.endpoint import ENDPOINT, Endpoint
from rft_ray.config.models import Prompt
from rft_ray.config.section import Place, Section

Rejection = Literal["wrong_answer", "no_answer", "bad_equation", "undecided"]


class Judge(Section):
    """A second opinion on completions that the verifier rejects: docs/verifiers.md."""

    source: Place
    """`openai:<model>`, which is behind an endpoint, or a model as in `models.*.source`, which is sampled by
    `sampling.engine`. Without the section `grading.judge`, none is asked."""
    statuses: tuple[Rejection, ...] = Field(("bad_equation", "no_answer", "undecided"), min_length=1)
    """Verdicts on whose completions the judge is asked."""
    prompt: Prompt = Prompt()
    """How the model is asked, as `prompt`; the text of the question to the judge is in the place of `{query}`."""
    temperature: float = Field(0.0, ge=0, le=10)
    """Sampling temperature of its answers; 0: greedy. Another value is for endpoints that refuse 0."""
    max_new_tokens: int = Field(512, ge=16)
    """Tokens of one answer at most, with its reasoning; an answer that is cut off is no opinion."""
    endpoint: Endpoint = Endpoint()

    @property
    def is_endpoint(self) -> bool:
        """Whether the judge is behind an endpoint."""
        return self.source.startswith(ENDPOINT)

    @field_validator("source")
    @classmethod
    def _names_a_model(cls, source: str) -> str:
        if source == ENDPOINT:
            raise ValueError("a source openai: without a name: write openai:<model>")
        return source

    @field_validator("statuses")
    @classmethod
    def _once_each(cls, statuses: tuple[Rejection, ...]) -> tuple[Rejection, ...]:
        return tuple(sorted(set(statuses)))
