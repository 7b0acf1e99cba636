"""Which models' engines answer, as one replica of the ingress sees it: so that nobody waits for one that is down.

Serve's handles keep a request until some replica takes it, which for an engine that is starting again takes minutes.
Each model is asked every `EVERY_S`; one none of whose replicas answers within `ANSWER_S`, or within `SURVIVOR_S` after
one was lost over a request, is down, and its requests are refused after `PATIENCE_S`, until it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError
from vllm.v1.engine.exceptions import EngineDeadError

from serve.api.errors import Refusal

LOST = (RayActorError, EngineDeadError)
"""What a request raises whose engine, or its replica, died."""
RETRIES = 3
EVERY_S = 2.0
ANSWER_S = 15.0
ONE_S = 4.0
AGAIN_S = 0.2
PATIENCE_S = 2.0
SURVIVOR_S = 5.0
RETRY_AFTER_S = 5


class Liveness:
    """Watches models by their handles.

    Example: await Liveness({"tiny-m-rft": handle}).up("tiny-m-rft")
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = handles
        self._up = {model: asyncio.Event() for model in handles}
        self._watching: list[asyncio.Task[None]] = []
        for event in self._up.values():
            event.set()

    async def up(self, model: str) -> None:
        """Return where a model's engine answers. Raises Refusal (503, with Retry-After) where none does."""
        if not self._watching:
            self._watching = [asyncio.ensure_future(self._watch(name)) for name in self._handles]
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._up[model].wait()
        except TimeoutError:
            raise _down(model) from None

    async def survivor(self, model: str) -> None:
        """Return where another replica answers for one that was lost. Raises Refusal as `up`."""
        if not await self._answers(model, SURVIVOR_S):
            self._up[model].clear()
            raise _down(model)

    async def _watch(self, model: str) -> None:
        while True:
            if await self._answers(model, ANSWER_S):
                self._up[model].set()
                await asyncio.sleep(EVERY_S)
            else:
                self._up[model].clear()

    async def _answers(self, model: str, within_s: float) -> bool:
        """Whether some replica answers. One that goes, or hangs, may be asked first: a failure is not yet an answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        async with asyncio.timeout(ONE_S):
                            await self._handles[model].check_health.remote()
                    except Exception:
                        await asyncio.sleep(AGAIN_S)
                    else:
                        return True
        return False


def _down(model: str) -> Refusal:
    message = f"no engine of {model} answers at the moment: try again"
    return Refusal(503, message, code="unavailable", headers={"Retry-After": str(RETRY_AFTER_S)})
