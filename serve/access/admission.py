"""Admission by load: how many paths each model may have in progress before requests are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from serve.api.errors import Refusal

RETRY_AFTER_S = 2


class Admission:
    """Counts the paths in progress on each model's engines; a request beyond the capacity is refused, not queued.

    Example: Admission({"tiny-m-rft": 512})
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._capacity = dict(capacity)
        self.active = dict.fromkeys(capacity, 0)

    @contextmanager
    def admitted(self, model: str, paths: int) -> Iterator[None]:
        """Count some paths as in progress. Raises Refusal (429, with Retry-After) beyond the capacity."""
        if self.active[model] and self.active[model] + paths > self._capacity[model]:
            message = f"{model} has {self.active[model]} paths in progress, which is all that it takes: try again"
            raise Refusal(429, message, code="overloaded", headers={"Retry-After": str(RETRY_AFTER_S)})
        self.active[model] += paths
        try:
            yield
        finally:
            self.active[model] -= paths
