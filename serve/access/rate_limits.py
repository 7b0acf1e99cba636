"""The limits of one API key: requests and generated tokens a minute, and requests at once -> admitted, or a wait.

`UsageCounter` counts for all replicas of the ingress. Requests and tokens are token buckets: each holds one minute's
allowance and refills steadily. A request reserves the most tokens that it can generate, and is charged for those that
it did generate when it is settled. A request in progress is a lease that its owner renews; where the owner is lost, the
lease ends after `LEASE_S`. State is in memory: a restarted counter learns the leases from their renewals, and gives
each key a full minute's allowance. Imports neither Ray nor HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

LEASE_S = 30.0
"""After this time without a renewal a lease ends."""
REMEMBER_S = 2 * LEASE_S
"""The ids of settled leases are kept for this time: a call about one may arrive after its end."""
BUSY_RETRY_S = 1.0
MAX_RETRY_S = 60.0
MAX_TOKENS = 10**9
"""Most tokens of one lease: far more than a request can generate."""
BEYOND_LIMITS = 10**12
"""A limit is less than this."""

Kind = Literal["requests", "tokens", "concurrency"]
KINDS: tuple[Kind, ...] = ("requests", "tokens", "concurrency")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one key; None is no limit.

    Example: Limits(requests=60, tokens=100_000, concurrency=4)
    """

    requests: int | None = None
    """Requests a minute."""
    tokens: int | None = None
    """Generated tokens a minute."""
    concurrency: int | None = None
    """Requests in progress at once."""

    def __bool__(self) -> bool:
        return any(getattr(self, kind) is not None for kind in KINDS)


@dataclass(frozen=True, slots=True)
class Lease:
    """One request in progress.

    Example: Lease("5f0c…", "9b1a…", Limits(tokens=1000), 256)
    """

    id: str
    key: str
    limits: Limits
    tokens: int
    """Reserved tokens: the most that the request can generate."""


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit that is reached, and the seconds after which a request can be admitted again.

    Example: LimitExceeded("tokens", 12.5)
    """

    kind: Kind
    retry_s: float


@dataclass(slots=True)
class _Bucket:
    """A token bucket of one minute's allowance. A full bucket admits a larger need, and its level is negative then."""

    level: float
    at: float

    def wait_s(self, need: int, per_minute: int, now: float) -> float:
        self.level = min(per_minute, self.level + (now - self.at) * per_minute / 60)
        self.at = now
        return max(0.0, (min(need, per_minute) - self.level) * 60 / per_minute)


@dataclass(slots=True)
class _Usage:
    """One key's buckets by kind, and the time at which each of its leases ends."""

    buckets: dict[Kind, _Bucket] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)

    def bucket(self, kind: Kind, per_minute: int, now: float) -> _Bucket:
        return self.buckets.setdefault(kind, _Bucket(per_minute, now))


UNLIMITED = Limits()


class UsageCounter:
    """Counts the usage of each key.

    Example: UsageCounter().acquire(Lease("1", "9b1a…", Limits(concurrency=1), 256)) is None
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._usage: dict[str, _Usage] = {}
        self._leases: dict[str, Lease] = {}
        self._settled: dict[str, float] = {}
        """When each settled lease ended, the oldest first."""

    def acquire(self, lease: Lease) -> LimitExceeded | None:
        """Take a lease; returns the limit that is reached, or None. A held or settled lease is not counted again.

        Raises ValueError for a number of tokens that no request can generate: it would fill the bucket, or overflow.
        """
        if not 0 <= lease.tokens <= MAX_TOKENS:
            raise ValueError("a lease has 0 to 10**9 tokens")
        now, usage = self._now(), self._usage.setdefault(lease.key, _Usage())
        self._drop_ended(usage, now)
        if lease.id in self._leases or lease.id in self._settled:
            return None
        limits, needs = lease.limits, self._needs(lease)
        waits: list[tuple[float, Kind]] = [
            (usage.bucket(kind, per_minute, now).wait_s(need, per_minute, now), kind)
            for kind, (per_minute, need) in needs.items()
        ]
        if limits.concurrency is not None and len(usage.ends) >= limits.concurrency:
            waits.append((BUSY_RETRY_S, "concurrency"))
        longest, kind = max(waits, default=(0.0, "requests"))
        if longest > 0:
            return LimitExceeded(kind, min(MAX_RETRY_S, longest))
        for drawn, (_, need) in needs.items():
            usage.buckets[drawn].level -= need
        self._hold(lease, usage, now)
        return None

    def settle(self, lease_id: str, tokens: int | None) -> None:
        """End a lease, and charge the generated tokens; None: all reserved ones."""
        self._remember(lease_id)
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        usage = self._usage[lease.key]
        usage.ends.pop(lease_id, None)
        if tokens is not None and "tokens" in usage.buckets:
            usage.buckets["tokens"].level += lease.tokens - tokens

    def renew(self, leases: Iterable[Lease]) -> None:
        """Prolong leases. An unknown one, after a restart, is taken over unchecked; a settled one stays ended."""
        now = self._now()
        for lease in leases:
            if lease.id not in self._settled:
                self._hold(lease, self._usage.setdefault(lease.key, _Usage()), now)

    def active_leases(self, key: str) -> int:
        """The number of a key's leases that have not ended."""
        usage = self._usage.get(key, _Usage())
        self._drop_ended(usage, self._now())
        return len(usage.ends)

    @staticmethod
    def _needs(lease: Lease) -> dict[Kind, tuple[int, int]]:
        """(allowance a minute, need of the lease) by limited bucket."""
        limits = lease.limits
        needs: dict[Kind, tuple[int, int]] = {}
        if limits.requests is not None:
            needs["requests"] = (limits.requests, 1)
        if limits.tokens is not None:
            needs["tokens"] = (limits.tokens, lease.tokens)
        return needs

    def _remember(self, lease_id: str) -> None:
        now = self._now()
        self._settled.setdefault(lease_id, now)
        while (oldest := next(iter(self._settled))) != lease_id and self._settled[oldest] <= now - REMEMBER_S:
            del self._settled[oldest]

    def _hold(self, lease: Lease, usage: _Usage, now: float) -> None:
        self._leases[lease.id] = lease
        usage.ends[lease.id] = now + LEASE_S

    def _drop_ended(self, usage: _Usage, now: float) -> None:
        for lease_id in [lease_id for lease_id, end in usage.ends.items() if end <= now]:
            del usage.ends[lease_id]
            self._leases.pop(lease_id, None)


def parse(words: Iterable[str]) -> Limits:
    """The limits of a key file's words `requests=60 tokens=100000 concurrency=4`. Raises ValueError."""
    limits: dict[str, int] = {}
    for word in words:
        kind, _, value = word.partition("=")
        if kind not in KINDS or kind in limits or not value.isdecimal() or len(value) > 12 or int(value) < 1:
            raise ValueError("a key may be followed by requests=N, tokens=N and concurrency=N, each at most once")
        limits[kind] = int(value)
    return Limits(**limits)


def retry_after(seconds: float) -> str:
    """The value of a Retry-After header: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
