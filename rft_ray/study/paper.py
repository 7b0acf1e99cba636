"""The paper's figures, to compare results with: Yuan et al. 2023, arXiv 2308.01825 v2, GSM8K.

Accuracies are in percent (maj1@1), losses in nats per token, hours on one A100-80GB. None: not reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperModel:
    """One column of the paper's tables. Example: PaperModel("LLaMA 7B", 1.80, 35.9, 49.3, 49.1)"""

    name: str
    pretraining_loss: float | None
    sft: float
    rft_u13b: float
    rft_u33b: float


MODELS = (
    PaperModel("LLaMA 7B", 1.80, 35.9, 49.3, 49.1),
    PaperModel("LLaMA2 7B", 1.75, 41.6, 50.3, 51.2),
    PaperModel("LLaMA 13B", 1.73, 43.0, 52.1, 51.4),
    PaperModel("LLaMA2 13B", 1.68, 50.0, 55.4, 55.3),
    PaperModel("LLaMA 33B", 1.62, 54.6, 56.5, 57.9),
    PaperModel("LLaMA 65B", 1.57, 59.3, 59.0, 59.7),
    PaperModel("LLaMA2 70B", 1.50, 63.2, 62.3, 64.8),
)
"""The losses of 65B and 70B are read from a figure."""


@dataclass(frozen=True, slots=True)
class PaperCost:
    """Hours of one A100-80GB. Example: PaperCost("7B", 0.6, 10, 9, 35.9, 49.1)"""

    size: str
    sft_hours: float
    sampling_hours: float
    """7,473 problems x 100 samples of this model alone."""
    rft_hours: float
    """Training on U33B."""
    sft: float
    rft_u33b: float


COSTS = (
    PaperCost("7B", 0.6, 10, 9, 35.9, 49.1),
    PaperCost("13B", 4, 100, 62, 43.0, 51.4),
    PaperCost("33B", 40, 100, 600, 54.6, 57.9),
    PaperCost("65B", 74, 4300, 1000, 59.3, 59.7),
    PaperCost("70B", 80, 4500, 1200, 63.2, 64.8),
)

SFT_BY_SHARE = {
    1.0: (35.9, 41.6, 43.0, 50.0, 54.6, 59.3, 63.2),
    0.5: (30.9, 34.6, 36.1, 45.3, 50.8, 55.6, 61.0),
    0.25: (22.7, 28.1, 27.4, 37.5, 44.6, 50.4, 57.8),
    0.125: (17.9, 21.8, 19.5, 33.4, 39.3, 46.0, 57.8),
}
"""Share of the 7,473 training problems -> SFT accuracy of MODELS, in their order; the better of two epoch counts."""

RFT_BY_K = {
    1: (37.6, 43.4, 42.7, 52.1),
    3: (39.0, 45.3, 45.2, 51.9),
    6: (39.5, 45.6, 46.8, 52.2),
    12: (41.6, 45.3, 48.0, 53.1),
    25: (40.9, 46.5, 46.0, 52.6),
    50: (40.7, 47.0, 49.4, 54.5),
    100: (41.7, 47.5, 49.1, 54.8),
}
"""k -> accuracy of the first four of MODELS, each trained on its own distinct paths."""
