"""Health checks of the models' engines by one ingress replica, so that no request waits for a model that is down.

Serve's handles hold a request until a replica accepts it, which takes minutes while an engine restarts. Each model is
checked every `CHECK_EVERY_S`. It is down where no replica answers within `DOWN_AFTER_S`, or within `OTHER_REPLICA_S`
after a replica was lost during a request. Requests for a model that is down are refused after `WAIT_S`, and those for a
model that has not answered yet, because its engine is starting, after `FIRST_WAIT_S`. Earlier requests are refused too
where the first part of their answer has not come when `DOWN_AFTER_S` has passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from ray.exceptions import RayActorError

from serve.api.errors import Refusal
from serve.vllm_private import EngineDeadError

T = TypeVar("T")

ENGINE_LOST = (RayActorError, EngineDeadError)
"""The exceptions of a request whose engine, or the engine's replica, died."""
RETRIES = 3
CHECK_EVERY_S = 2.0
DOWN_AFTER_S = 15.0
CHECK_TIMEOUT_S = 4.0
RECHECK_S = 0.2
WAIT_S = 2.0
FIRST_WAIT_S = 5.0
OTHER_REPLICA_S = 5.0
RETRY_AFTER_S = 5
READY_EVERY_S = 1.0
READY_TIMEOUT_S = 5.0


class Liveness:
    """Checks models through their handles.

    Example: await Liveness({"tiny-m-rft": handle}).await_up("tiny-m-rft")
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = handles
        self._up = {model: asyncio.Event() for model in handles}
        """Set while requests are accepted."""
        self._down = {model: asyncio.Event() for model in handles}
        """Set after `DOWN_AFTER_S` without an answer: a shorter silence may be that of an engine that is busy."""
        self._watching: list[asyncio.Task[None]] = []
        self._checked: set[str] = set()
        """Models whose first check has ended."""

    async def await_up(self, model: str) -> None:
        """Wait until a model is up. Raises Refusal (503, with Retry-After) where it is down."""
        if not self._watching:
            self._watching = [asyncio.ensure_future(self._watch(name)) for name in self._handles]
        try:
            async with asyncio.timeout(WAIT_S if model in self._checked else FIRST_WAIT_S):
                await self._up[model].wait()
        except TimeoutError:
            raise _unavailable(model) from None

    async def await_other_replica(self, model: str) -> None:
        """Wait, after a replica was lost, until another one answers. Raises Refusal as `await_up` does."""
        if not await self._answers(model, OTHER_REPLICA_S):
            self._up[model].clear()
            raise _unavailable(model)
        self._mark_up(model)

    async def unless_down(self, model: str, answer: Awaitable[T]) -> T:
        """The answer. Raises Refusal as `await_up` does, and cancels the answer, where the model is down first."""
        answering = asyncio.ensure_future(answer)
        down = asyncio.ensure_future(self._down[model].wait())
        try:
            await asyncio.wait((answering, down), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            raise _unavailable(model)
        finally:
            down.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait((answering,))

    def _mark_up(self, model: str) -> None:
        self._up[model].set()
        self._down[model].clear()

    async def _watch(self, model: str) -> None:
        while True:
            answers = await self._answers(model, DOWN_AFTER_S)
            self._checked.add(model)
            if answers:
                self._mark_up(model)
                await asyncio.sleep(CHECK_EVERY_S)
            else:
                self._up[model].clear()
                self._down[model].set()

    async def _answers(self, model: str, within_s: float) -> bool:
        """Whether a replica answers in time. A failed check is repeated, because it may have met the lost replica."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        async with asyncio.timeout(CHECK_TIMEOUT_S):
                            await self._handles[model].check_health.remote()
                    except Exception:
                        await asyncio.sleep(RECHECK_S)
                    else:
                        return True
        return False


class ReadinessCheck:
    """Checks whether all engines answer, at most once in `READY_EVERY_S`: probes need no key, and share its result.

    Example: await ReadinessCheck({"tiny-m-rft": handle}).ready()
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = handles
        self._check: asyncio.Task[bool] | None = None
        self._began = 0.0

    async def ready(self) -> bool:
        """Whether the engine of each model answered the last check within `READY_TIMEOUT_S`."""
        if self._check is None or (self._check.done() and time.monotonic() >= self._began + READY_EVERY_S):
            self._check, self._began = asyncio.ensure_future(self._all_answer()), time.monotonic()
        return await asyncio.shield(self._check)

    async def _all_answer(self) -> bool:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                for answer in [handle.check_health.remote() for handle in self._handles.values()]:
                    await answer
        except Exception:
            return False
        return True


def _unavailable(model: str) -> Refusal:
    message = f"no engine of {model} answers: try again later"
    return Refusal(503, message, code="unavailable", headers={"Retry-After": str(RETRY_AFTER_S)})
