"""Rejection-sampling fine-tuning (Yuan et al. 2023, arXiv 2308.01825) as a distributed Ray service.

Start with `rft_ray/pipeline.py`: the whole run on one screen, one call per stage.
"""

__version__ = "0.1.0"
