"""Texts of correct solutions -> distinct reasoning paths, one representative of each. Pure Python and Numba, no Ray."""

from rft_ray.paths.normal_forms import NORMAL_FORMS, NormalForm, normalise
from rft_ray.paths.selection import (
    Representative,
    distinct_counts,
    equation_list,
    select,
    select_distinct,
    share_counts,
)

__all__ = [
    "NORMAL_FORMS", "NormalForm", "Representative", "distinct_counts", "equation_list", "normalise", "select",
    "select_distinct", "share_counts",
]  # fmt: skip
