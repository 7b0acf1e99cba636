"""A verifier without CANARIES that accepts nothing."""

from __future__ import annotations

from rft_ray.records import Problem


def reject(problem: Problem, completion: str) -> bool:
    return False
