"""Disconnects of clients during an answer: the answer is cancelled, and its engine's samples with it.

Ray cancels a request and the calls that it made at once, so the engine may learn of a disconnect before the ingress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import Request
from ray.exceptions import TaskCancelledError

from serve.api.errors import CLIENT_CLOSED, Refusal

T = TypeVar("T")

DISCONNECT_S = 1.0
"""Within this time the ingress learns of a disconnect that the engine knows already."""


async def unless_disconnected(request: Request, answer: Awaitable[T]) -> T:
    """The answer. Raises Refusal, and cancels it, where the client disconnects first."""
    answering = asyncio.ensure_future(answer)
    disconnected = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answering, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if answering.done() and not await _failed_by_disconnect(answering, disconnected):
            return answering.result()
        raise Refusal(CLIENT_CLOSED, "the client disconnected", code="client_closed")
    finally:
        disconnected.cancel()
        if not answering.done():
            answering.cancel()
            await asyncio.wait((answering,))


async def _failed_by_disconnect(answer: asyncio.Future[Any], disconnected: asyncio.Future[None]) -> bool:
    """Whether an answer failed because its client disconnected, which the engine may learn before the ingress."""
    if answer.cancelled() or not isinstance(answer.exception(), TaskCancelledError):
        return False
    await asyncio.wait((disconnected,), timeout=DISCONNECT_S)
    return disconnected.done()


async def await_disconnect(error: Exception) -> None:
    """Wait for the cancellation of a stream that failed because its client disconnected."""
    if isinstance(error, TaskCancelledError):
        await asyncio.sleep(DISCONNECT_S)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
