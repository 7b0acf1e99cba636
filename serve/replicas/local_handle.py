"""A Serve handle's calls on an object of this very process, for an ingress that has its engine beside it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable
from typing import Any


class LocalHandle:
    """What a DeploymentHandle does, on an object of this process.

    Example: [item async for item in LocalHandle(server).solve.remote(asked)]
    """

    def __init__(self, server: Any, method: str = "") -> None:
        self._server, self._method = server, method

    def options(self, **_: Any) -> LocalHandle:
        return self

    def __getattr__(self, method: str) -> LocalHandle:
        return LocalHandle(self._server, method)

    def remote(self, *arguments: Any) -> LocalResponse:
        return LocalResponse(getattr(self._server, self._method)(*arguments))


class LocalResponse:
    """What a call yields or returns; a method may also return what yields."""

    def __init__(self, answer: AsyncGenerator[Any, None] | Awaitable[Any]) -> None:
        self._answer = answer

    def __aiter__(self) -> LocalResponse:
        return self

    async def __anext__(self) -> Any:
        if not isinstance(self._answer, AsyncGenerator):
            self._answer = await self._answer
        items: Any = self._answer
        return await anext(items)

    def __await__(self) -> Any:
        assert inspect.isawaitable(self._answer)
        return self._answer.__await__()

    def cancel(self) -> None:
        """End a call that yields, at its next step or at once."""
        if isinstance(self._answer, AsyncGenerator):
            self._closing = asyncio.ensure_future(self._answer.aclose())
