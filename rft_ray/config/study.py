"""Which points of the scaling study are trained and evaluated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rft_ray.config.section import Section


class Study(Section):
    """Which points the scaling study trains and evaluates (`rft-ray study`). Other jobs ignore it. A study evaluates
    greedy answers alone, and has controls of its own.

    The questions are numbered as in `rft_ray/study/`. The largest k is `sampling.samples_per_problem`.
    """

    questions: tuple[Literal[1, 2, 3, 4, 5], ...] = Field((1, 2, 3, 4, 5), min_length=1)
    """The paper's questions that the study answers."""
    headline: tuple[str, ...] = ()
    """Models in every question; other models are in questions 1, 2 and 5 only. Empty: the models that sample."""
    k: tuple[int, ...] = (1, 3, 6, 12, 25, 50, 100)
    """Samples per problem to train RFT with, as prefixes of the same samples; values above the largest are left out."""
    halvings: int = Field(3, ge=0, le=16)
    """How many times the gold data is halved: 3 gives 1, 1/2, 1/4, 1/8."""
    equal_steps: bool = True
    """Train on each share of the gold data twice, the second time with as many steps as on all of it; the better result
    counts, as in the paper."""
    seeds: int = Field(3, ge=1)
    """Training seeds of the headline points: SFT on all gold data, RFT on the union at the largest k."""
    full_grid: bool = False
    """Every question for every model, every point with every seed."""
    pretraining_losses: dict[str, float] = Field({})
    """Model name -> pre-training loss in nats per token, for models without a pretraining.json."""

    @field_validator("k")
    @classmethod
    def _positive(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if any(samples < 1 for samples in k):
            raise ValueError("every k must be 1 or more")
        return tuple(sorted(set(k)))

    @field_validator("pretraining_losses")
    @classmethod
    def _losses(cls, losses: dict[str, float]) -> dict[str, float]:
        for name, loss in losses.items():
            if loss <= 0:
                raise ValueError(f"the loss of {name!r} must be above 0, and is {loss:g}")
        return losses
