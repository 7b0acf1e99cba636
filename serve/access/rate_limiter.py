"""The ingress's side of the limits: a request -> a lease from the shared counter, renewed until the request ends.

The counter is a Serve deployment of one replica. Where it does not answer within `ANSWER_S`, this ingress replica
counts locally for `FALLBACK_S` before it asks again. Limits then hold for each ingress replica instead of all of them
together, and no request fails for it. A counter that answers again gets the leases with their next renewal.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from serve import ray_private
from serve.access import rate_limits
from serve.access.rate_limits import LEASE_S, Lease, LimitExceeded, Limits, UsageCounter
from serve.api.errors import CLIENT_CLOSED, Refusal

ANSWER_S = 1.0
FALLBACK_S = 2.0
LIMIT_NAMES = {
    "requests": "requests a minute",
    "tokens": "generated tokens a minute",
    "concurrency": "requests at once",
}


class SharedCounter:
    """The deployment that counts for all replicas of the ingress."""

    def __init__(self) -> None:
        ray_private.listen_on_node_address()
        self._counter = UsageCounter()

    async def acquire(self, lease: Lease) -> LimitExceeded | None:
        return self._counter.acquire(lease)

    async def settle(self, lease_id: str, tokens: int | None) -> None:
        self._counter.settle(lease_id, tokens)

    async def renew(self, leases: list[Lease]) -> None:
        self._counter.renew(leases)


class Reservation:
    """The tokens that one request reserves until it ends. It is charged for all of them unless `settle` says less."""

    def __init__(self, meter: RateLimiter, lease: Lease | None) -> None:
        self._meter, self._lease = meter, lease

    @property
    def counted(self) -> bool:
        """Whether the key has a token limit, so that `settle` needs the number of generated tokens."""
        return self._lease is not None and self._lease.limits.tokens is not None

    async def settle(self, tokens: int | None) -> None:
        """End the request's lease, and charge the tokens; None: all reserved ones. A second call does nothing.

        To be called before the answer's last byte is sent, so that the client's next request is not refused for this
        one.
        """
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._meter.settle(lease, tokens)


class RateLimiter:
    """Admits requests by the limits of their keys.

    Example: RateLimiter(None)  # counts locally
    """

    def __init__(self, shared: Any = None) -> None:
        """`shared`: the handle of the `SharedCounter`; None: count locally."""
        self._shared, self._local = shared, UsageCounter()
        self._fallback_until = 0.0 if shared is not None else float("inf")
        self._held: dict[str, Lease] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def admitted(self, key: str, allowed: Limits, tokens: int) -> AsyncGenerator[Reservation, None]:
        """Hold a request's lease. Raises Refusal: 429 with Retry-After where the key has reached a limit, 400 where the
        number of tokens is one that no request can generate.
        """
        if not allowed:
            yield Reservation(self, None)
            return
        lease = Lease(secrets.token_hex(8), key, allowed, tokens)
        charge = Reservation(self, lease)
        try:
            refused = await self._acquire(lease)
        except ValueError:
            raise Refusal(400, "the request's number of tokens is out of bounds") from None
        except BaseException:  # cancelled: the counter may hold the lease already
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

    async def _acquire(self, lease: Lease) -> LimitExceeded | None:
        if time.monotonic() >= self._fallback_until:
            try:
                async with asyncio.timeout(ANSWER_S):
                    refused: LimitExceeded | None = await self._shared.acquire.remote(lease)
                return refused
            except ValueError:
                raise
            except Exception as error:
                self._fall_back(error)
        return self._local.acquire(lease)

    def _fall_back(self, error: Exception) -> None:
        if time.monotonic() >= self._fallback_until:
            logging.getLogger("ray.serve").warning("the limit counter does not answer: %s", type(error).__name__)
        self._fallback_until = time.monotonic() + FALLBACK_S
        self._local.renew(self._held.values())

    async def settle(self, lease: Lease, tokens: int | None) -> None:
        """End a lease, also while the caller is being cancelled."""
        self._held.pop(lease.id, None)
        self._local.settle(lease.id, tokens)
        if self._shared is not None:
            call = asyncio.ensure_future(self._call_shared(self._shared.settle.remote(lease.id, tokens)))
            self._settling.add(call)
            call.add_done_callback(self._settling.discard)
            await asyncio.shield(call)

    async def _call_shared(self, answer: Any) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await answer
        except Exception as error:
            if time.monotonic() >= self._fallback_until:
                self._fall_back(error)

    def _keep_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(LEASE_S / 3)
            leases = list(self._held.values())
            self._local.renew(lease for lease in leases if self._fallback_until > time.monotonic())
            if self._shared is not None:
                await self._call_shared(self._shared.renew.remote(leases))


def _refusal(refused: LimitExceeded, allowed: Limits) -> Refusal:
    wait = rate_limits.retry_after(refused.retry_s)
    message = f"this key's limit is {getattr(allowed, refused.kind)} {LIMIT_NAMES[refused.kind]}: try again in {wait} s"
    return Refusal(429, message, code="rate_limit_exceeded", kind=refused.kind, headers={"Retry-After": wait})
