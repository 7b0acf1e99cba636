"""The interface of a Serve handle for an object in the same process, for an ingress that holds its engine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable
from typing import Any


class LocalHandle:
    """Calls an object's methods as a DeploymentHandle does.

    Example: [item async for item in LocalHandle(server).solve.remote(request)]
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
    """The response of a call: awaitable, or an async iterator where the method returns or yields one."""

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
        """Close a generator that the call returned."""
        if isinstance(self._answer, AsyncGenerator):
            self._closing = asyncio.ensure_future(self._answer.aclose())
