"""Server-sent events of the ingress: what an engine sends -> the stream that a client reads.

A stream that fails ends with an error event. The stream's reservation is charged for the tokens that the engine used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AsyncExitStack, suppress
from typing import Any

from ray.exceptions import TaskCancelledError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.access.rate_limiter import Reservation
from serve.api import errors, schemas
from serve.http import request_metrics
from serve.http.disconnects import await_disconnect
from serve.vllm_private import ERROR_EVENT, StreamOptions

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EngineError(Exception):
    """Raised where an engine sent an error event, which may repeat the prompt: the client gets the service's own."""


class EventStream(StreamingResponse):
    """A stream that closes its generator as soon as the client disconnects, also while there is nothing to send.

    From ASGI 2.4 on Starlette waits for `send` to fail, and Ray Serve's never fails.
    """

    def __init__(self, content: AsyncIterable[Any], held: AsyncExitStack) -> None:
        """`held`: closed when the stream ends, also where it never began."""
        super().__init__(content, media_type="text/event-stream", headers=HEADERS)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(TaskCancelledError):  # raised while closing: Ray has cancelled the engine's part too
            async with self._held:
                try:
                    older = {**scope, "asgi": {**scope.get("asgi", {}), "spec_version": "2.3"}}
                    await super().__call__(older, receive, send)
                finally:
                    if isinstance(self.body_iterator, AsyncGenerator):
                        await self.body_iterator.aclose()


async def solve_stream(
    first: schemas.Event, events: AsyncGenerator[schemas.Event, None], reservation: Reservation, scope: Scope
) -> AsyncGenerator[str, None]:
    """The events as server-sent events. A stream that fails ends with an `error` event."""
    ended = False
    try:
        yield _sse(schemas.EVENT_NAMES[type(first)], first.model_dump_json())
        async for event in events:
            if isinstance(event, schemas.SolveResponse):
                ended = True
                await reservation.settle(event.tokens)
            yield _sse(schemas.EVENT_NAMES[type(event)], event.model_dump_json())
    except Exception as error:
        await await_disconnect(error)
        _log_failure("/solve", error)
    if not ended:
        request_metrics.mark_failed(scope)
        await reservation.settle(0)
        yield _sse("error", _error_body())


async def openai_stream(
    packets: AsyncIterable[Any], reservation: Reservation, scope: Scope, hidden: bool
) -> AsyncGenerator[str, None]:
    """OpenAI's events as they arrive. A stream that fails ends with an error event, which the SDK raises.

    `hidden`: whether to leave the usage out, because the client did not request it.
    """
    used: int | None = None
    try:
        async for packet in packets:
            events, failed, _ = str(packet).partition(ERROR_EVENT)
            if reservation.counted:
                events, used = _read_usage(events, hidden, used)
            if events.rstrip().endswith("data: [DONE]"):
                await reservation.settle(used)
            if events:
                yield events
            if failed:
                raise EngineError
    except Exception as error:
        await await_disconnect(error)
        _log_failure("an OpenAI route", error)
        request_metrics.mark_failed(scope)
        await reservation.settle(0)
        yield f"data: {_error_body()}\n\n"


def request_usage(body: Any) -> bool:
    """Request a stream's usage from the engine; returns whether to hide it from the client."""
    if not body.stream or (body.stream_options is not None and body.stream_options.include_usage):
        return False
    body.stream_options = StreamOptions(include_usage=True)
    return True


def _read_usage(packet: str, hidden: bool, used: int | None) -> tuple[str, int | None]:
    """A packet of events, without the usage where that is hidden, and the tokens that a packet has reported so far."""
    kept = []
    for event in packet.split("\n\n"):
        if '"usage":{' in event:
            chunk = json.loads(event.removeprefix("data: "))
            used = chunk["usage"]["completion_tokens"]
            if hidden and not chunk["choices"]:
                continue
        kept.append(event)
    return "\n\n".join(kept), used


def _error_body() -> str:
    return bytes(errors.response(503, "the engine failed: send the request again").body).decode()


def _log_failure(what: str, error: Exception) -> None:
    """Log the error's type without its text, which may contain the prompt; the engine's own log has it."""
    logging.getLogger("ray.serve").error("a stream of %s failed with %s", what, type(error).__name__)


def _sse(event: str, data: str) -> str:
    return f"event: {event}\ndata: {data}\n\n"
