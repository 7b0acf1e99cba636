"""TODO: serve.access.admission"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from serve.api.errors import Refusal

RETRY_AFTER_S = 2


class Admission:
    """How many paths are under way with each model's engines; more are refused at once instead of queueing.

    Example: Admission({"tiny-m-rft": 512})
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._capacity = dict(capacity)
        self.under_way = dict.fromkeys(capacity, 0)

    @contextmanager
    def admitted(self, model: str, paths: int) -> Iterator[None]:
        """Hold room for some paths. Raises Refusal (429, with Retry-After) where there is none."""
        if self.under_way[model] and self.under_way[model] + paths > self._capacity[model]:
            message = f"{model} is working on {self.under_way[model]} paths already: try again"
            raise Refusal(429, message, code="overloaded", headers={"Retry-After": str(RETRY_AFTER_S)})
        self.under_way[model] += paths
        try:
            yield
        finally:
            self.under_way[model] -= paths
