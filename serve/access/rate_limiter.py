"""The ingress's side of the limits: a request -> a lease with the one counter, renewed while it is under way.

The counter is a Serve deployment of one replica. Where it does not answer within `ANSWER_S`, this replica counts by
itself for `ALONE_S` and asks again: limits then hold for each replica of the ingress instead of all together, and no
request fails because of it. Leases go to the counter again when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from serve.access import rate_limits
from serve.access.rate_limits import LEASE_S, Counter, Lease, Limits, Refused
from serve.api.errors import CLIENT_CLOSED, Refusal

ANSWER_S = 1.0
ALONE_S = 2.0
NAMES = {"requests": "requests a minute", "tokens": "generated tokens a minute", "concurrency": "requests at once"}


class SharedCounter:
    """The deployment that counts for all replicas."""

    def __init__(self) -> None:
        self._counter = Counter()

    async def acquire(self, lease: Lease) -> Refused | None:
        return self._counter.acquire(lease)

    async def settle(self, lease_id: str, tokens: int | None) -> None:
        self._counter.settle(lease_id, tokens)

    async def renew(self, leases: list[Lease]) -> None:
        self._counter.renew(leases)


class Charge:
    """What a request is charged when it ends: all that it reserved, unless told otherwise."""

    def __init__(self, meter: Meter, lease: Lease | None) -> None:
        self._meter, self._lease = meter, lease

    @property
    def counted(self) -> bool:
        """Whether anything is to be told of what was generated."""
        return self._lease is not None and self._lease.limits.tokens is not None

    async def settle(self, tokens: int | None) -> None:
        """End the request's lease, once. Must be called before the answer's last byte, so that the next finds room."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._meter.settle(lease, tokens)


class Meter:
    """Admits requests by the limits of their keys.

    Example: Meter(None)  # counts by itself
    """

    def __init__(self, shared: Any = None) -> None:
        """`shared`: the handle of `SharedCounter`."""
        self._shared, self._own = shared, Counter()
        self._alone_until = 0.0 if shared is not None else float("inf")
        self._held: dict[str, Lease] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def admitted(self, key: str, allowed: Limits, tokens: int) -> AsyncGenerator[Charge, None]:
        """Hold a request's lease. Raises Refusal (429, with Retry-After) where a limit of the key is reached."""
        if not allowed:
            yield Charge(self, None)
            return
        lease = Lease(secrets.token_hex(8), key, allowed, tokens)
        charge = Charge(self, lease)
        try:
            refused = await self._acquire(lease)
        except BaseException:  # cancelled: the counter may have taken it
            await charge.settle(0)
            raise
        if refused is not None:
            raise _refusal(refused, allowed)
        self._held[lease.id] = lease
        self._keep_renewing()
        try:
            yield charge
        except Refusal as refusal:
            await charge.settle(None if refusal.status == CLIENT_CLOSED else 0)
            raise
        except Exception:
            await charge.settle(0)
            raise
        finally:
            await charge.settle(None)

    async def _acquire(self, lease: Lease) -> Refused | None:
        if time.monotonic() >= self._alone_until:
            try:
                async with asyncio.timeout(ANSWER_S):
                    refused: Refused | None = await self._shared.acquire.remote(lease)
                return refused
            except Exception as error:
                self._go_alone(error)
        return self._own.acquire(lease)

    def _go_alone(self, error: Exception) -> None:
        if time.monotonic() >= self._alone_until:
            logging.getLogger("ray.serve").warning("the limit counter does not answer: %s", type(error).__name__)
        self._alone_until = time.monotonic() + ALONE_S
        self._own.renew(self._held.values())

    async def settle(self, lease: Lease, tokens: int | None) -> None:
        """Give a lease back, also where the caller is being cancelled."""
        self._held.pop(lease.id, None)
        self._own.settle(lease.id, tokens)
        if self._shared is not None:
            telling = asyncio.ensure_future(self._tell(self._shared.settle.remote(lease.id, tokens)))
            self._settling.add(telling)
            telling.add_done_callback(self._settling.discard)
            await asyncio.shield(telling)

    async def _tell(self, answer: Any) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await answer
        except Exception as error:
            if time.monotonic() >= self._alone_until:
                self._go_alone(error)

    def _keep_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(LEASE_S / 3)
            leases = list(self._held.values())
            self._own.renew(lease for lease in leases if self._alone_until > time.monotonic())
            if self._shared is not None:
                await self._tell(self._shared.renew.remote(leases))


def _refusal(refused: Refused, allowed: Limits) -> Refusal:
    wait = rate_limits.retry_after(refused.retry_s)
    message = f"this key's limit is {getattr(allowed, refused.kind)} {NAMES[refused.kind]}: try again in {wait} s"
    return Refusal(429, message, code="rate_limit_exceeded", kind=refused.kind, headers={"Retry-After": wait})
