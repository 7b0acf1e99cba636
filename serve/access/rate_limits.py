"""What one API key may use, requests and generated tokens a minute and requests at once -> admitted, or a wait.

`Counter` is the one place that counts, for all replicas of the ingress. Requests and tokens are buckets that hold a
minute's allowance and refill steadily. A request reserves the most tokens that it can generate and is charged what it
did generate when it is settled. What is under way is a lease that its owner renews: where the owner is lost, the lease
ends by itself after `LEASE_S`. State is in memory: a counter that is started again takes the leases that are renewed to
it, and gives every key a full minute's allowance. Knows neither Ray nor HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

LEASE_S = 30.0
"""A lease that is not renewed for so long is given back."""
BUSY_RETRY_S = 1.0
MAX_RETRY_S = 60.0

Kind = Literal["requests", "tokens", "concurrency"]
KINDS: tuple[Kind, ...] = ("requests", "tokens", "concurrency")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one key; None: no limit.

    Example: Limits(requests=60, tokens=100_000, concurrency=4)
    """

    requests: int | None = None
    """A minute."""
    tokens: int | None = None
    """Generated ones, a minute."""
    concurrency: int | None = None
    """Requests under way at once."""

    def __bool__(self) -> bool:
        return any(getattr(self, kind) is not None for kind in KINDS)


@dataclass(frozen=True, slots=True)
class Lease:
    """One request that is under way.

    Example: Lease("5f0c…", "9b1a…", Limits(tokens=1000), 256)
    """

    id: str
    key: str
    limits: Limits
    tokens: int
    """Reserved: the most that it can generate."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Which limit is reached, and after how many seconds there is room.

    Example: Refused("tokens", 12.5)
    """

    kind: Kind
    retry_s: float


@dataclass(slots=True)
class _Bucket:
    """A minute's allowance. A need larger than that is admitted by a full bucket, which then owes the rest."""

    level: float
    at: float

    def wait_s(self, need: int, per_minute: int, now: float) -> float:
        self.level = min(per_minute, self.level + (now - self.at) * per_minute / 60)
        self.at = now
        return max(0.0, (min(need, per_minute) - self.level) * 60 / per_minute)


@dataclass(slots=True)
class _Usage:
    """One key's buckets by kind, and when each of its leases ends."""

    buckets: dict[Kind, _Bucket] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)

    def bucket(self, kind: Kind, per_minute: int, now: float) -> _Bucket:
        return self.buckets.setdefault(kind, _Bucket(per_minute, now))


UNLIMITED = Limits()


class Counter:
    """Counts what every key uses.

    Example: Counter().acquire(Lease("1", "9b1a…", Limits(concurrency=1), 256)) is None
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._usage: dict[str, _Usage] = {}
        self._leases: dict[str, Lease] = {}

    def acquire(self, lease: Lease) -> Refused | None:
        """Take a lease, or say what is in its way. The same lease twice is one."""
        now, usage = self._now(), self._usage.setdefault(lease.key, _Usage())
        self._drop_ended(usage, now)
        if lease.id in self._leases:
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
            return Refused(kind, min(MAX_RETRY_S, longest))
        for drawn, (_, need) in needs.items():
            usage.buckets[drawn].level -= need
        self._hold(lease, usage, now)
        return None

    def settle(self, lease_id: str, tokens: int | None) -> None:
        """End a lease, and charge what was generated; None: all that was reserved."""
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        usage = self._usage[lease.key]
        usage.ends.pop(lease_id, None)
        if tokens is not None and "tokens" in usage.buckets:
            usage.buckets["tokens"].level += lease.tokens - tokens

    def renew(self, leases: Iterable[Lease]) -> None:
        """Keep leases that are under way; those that this counter does not know are taken as they are."""
        now = self._now()
        for lease in leases:
            self._hold(lease, self._usage.setdefault(lease.key, _Usage()), now)

    def under_way(self, key: str) -> int:
        """Leases of a key that have not ended."""
        usage = self._usage.get(key, _Usage())
        self._drop_ended(usage, self._now())
        return len(usage.ends)

    @staticmethod
    def _needs(lease: Lease) -> dict[Kind, tuple[int, int]]:
        """By bucket that is limited: its allowance and what the lease draws."""
        limits = lease.limits
        needs: dict[Kind, tuple[int, int]] = {}
        if limits.requests is not None:
            needs["requests"] = (limits.requests, 1)
        if limits.tokens is not None:
            needs["tokens"] = (limits.tokens, lease.tokens)
        return needs

    def _hold(self, lease: Lease, usage: _Usage, now: float) -> None:
        self._leases[lease.id] = lease
        usage.ends[lease.id] = now + LEASE_S

    def _drop_ended(self, usage: _Usage, now: float) -> None:
        for lease_id in [lease_id for lease_id, end in usage.ends.items() if end <= now]:
            del usage.ends[lease_id]
            self._leases.pop(lease_id, None)


def parse(words: Iterable[str]) -> Limits:
    """Limits as a key file writes them: `requests=60 tokens=100000 concurrency=4`. Raises ValueError."""
    found: dict[str, int] = {}
    for word in words:
        kind, _, value = word.partition("=")
        if kind not in KINDS or kind in found or not value.isdecimal() or len(value) > 12 or int(value) < 1:
            raise ValueError("after the key come requests=N, tokens=N and concurrency=N, each once at most")
        found[kind] = int(value)
    return Limits(**found)


def retry_after(seconds: float) -> str:
    """A Retry-After header's value: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
