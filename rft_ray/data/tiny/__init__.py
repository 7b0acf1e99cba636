"""The default data and models: a problem generator and small base models, so that RFT runs without hub or GPU.

`generator.generate` makes the problems; `model_dir(name)` is a shipped base model's directory, which
transformers and vLLM load like any other. `jobs/pretrain_tiny.py` made them.
"""

from __future__ import annotations

from pathlib import Path

FAMILY: tuple[str, ...] = ("tiny-xs", "tiny-s", "tiny-m", "tiny-l")
"""Shipped base models, smallest first: each has a lower pre-training loss than the one before it."""
SNAPSHOTS: tuple[str, ...] = ("tiny-s-25", "tiny-s-50", "tiny-s-75")
"""`tiny-s` after 25, 50 and 75 % of its pre-training."""
MODELS: tuple[str, ...] = (*FAMILY, *SNAPSHOTS)


def model_dir(name: str) -> Path:
    """Directory of a shipped base model. Raises ValueError for any other name."""
    if name not in MODELS:
        raise ValueError(f"tiny model {name!r}: the shipped ones are {', '.join(MODELS)}")
    return Path(__file__).parent / "models" / name
