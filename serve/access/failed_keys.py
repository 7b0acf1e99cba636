"""The rate of failed API keys from one address: beyond it a failed key is answered with 429 instead of 401.

A key that is accepted is never refused here, so that one client with a wrong key does not lock out others behind the
same address, such as a load balancer's. A key is too long to guess (`serve.access.api_keys.MIN_KEY_CHARS`); this limits
what a client with a wrong key costs, and shows it in `/metrics`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

FAILURES_PER_MINUTE = 60
MAX_ADDRESSES = 1024
"""Addresses that are remembered; the one that failed longest ago is dropped first."""


class FailedKeys:
    """Counts the failed keys of each address, in token buckets of one minute's allowance.

    Example: FailedKeys().wait_s("10.1.2.3") == 0
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """(failures that are left, time of the last one) by address."""

    def wait_s(self, address: str) -> float:
        """Count a failure; returns 0, or the seconds to wait where the address has failed too often."""
        now, rate = self._now(), FAILURES_PER_MINUTE / 60
        level, at = self._levels.pop(address, (float(FAILURES_PER_MINUTE), now))
        level = min(FAILURES_PER_MINUTE, level + (now - at) * rate)
        allowed = level >= 1
        self._levels[address] = (level - 1 if allowed else level, now)
        if len(self._levels) > MAX_ADDRESSES:
            self._levels.popitem(last=False)
        return 0.0 if allowed else (1 - level) / rate
