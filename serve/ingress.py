"""The HTTP face: OpenAI's routes as ray.serve.llm has them, `POST /solve`, and health, behind one guard.

`fastapi_app(keys)` is the application with the guard and the error shape; `Ingress` holds what answers its routes.
CORS is closed, but for the origins that are named: a browser page of another origin can read nothing. Health:
`/healthz` says that the process is up, `/readyz` that every model's engine answers. A request whose engine is lost goes
to another one as long as nothing of its answer is out; after that a stream ends with an error event.
Source: ray/llm/_internal/serve/core/ingress/ingress.py (Ray 2.60).
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from ray import serve
from ray.exceptions import TaskCancelledError
from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from vllm.entrypoints.generate.base.protocol import StreamOptions

from serve import page
from serve.access.admission import Admission
from serve.access.api_keys import Keys
from serve.access.guard import Caller, Guard
from serve.access.rate_limiter import Charge, Meter, SharedCounter
from serve.api import errors, openai_bounds, schemas
from serve.api.errors import CLIENT_CLOSED, Refusal
from serve.http import request_metrics
from serve.replicas.liveness import LOST, RETRIES, Liveness
from serve.runner import DRAIN_S

T = TypeVar("T")

READY_TIMEOUT_S = 5.0
LEAVE_S = 1.0
"""Within which a client's leave is known here, once it is to the engine."""
OPTIONS: dict[str, Any] = {"max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
"""Of the deployments that hold no engine."""
UNCACHED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": schemas.EXAMPLE_EVENTS}},
        "description": "the vote, or its events",
    }
}
ENDPOINTS = {
    "healthz": lambda app: app.get("/healthz", tags=["health"]),
    "readyz": lambda app: app.get("/readyz", tags=["health"]),
    "solve": lambda app: app.post("/solve", tags=["solve"], responses=STREAM),
    "models": lambda app: app.get("/v1/models", tags=["openai"]),
    "model_data": lambda app: app.get("/v1/models/{model:path}", tags=["openai"]),
    "chat": lambda app: app.post("/v1/chat/completions", tags=["openai"]),
    "completions": lambda app: app.post("/v1/completions", tags=["openai"]),
}


class Ingress(OpenAiIngress):  # type: ignore[misc]
    """Answers the routes; one Serve handle per model. The first card is the model of requests that name none."""

    def __init__(
        self,
        llm_deployments: dict[str, DeploymentHandle],
        cards: Sequence[schemas.ModelDetails],
        *,
        seeds: bool,
        capacity: int,
        max_tokens: int = schemas.MAX_TOKENS,
        counter: Any = None,
    ) -> None:
        """`capacity`: paths that each model may have under way. `max_tokens`: of a path that asks for no number.

        `counter`: the handle of the limits' `SharedCounter`.
        """
        super().__init__(llm_deployments, {card.id: card for card in cards})
        self._liveness = Liveness(self._default_serve_handles)
        self._meter, self._max_tokens = Meter(counter), max_tokens
        self._admission = Admission({card.id: capacity for card in cards})
        self._cards = {card.id: card for card in cards}
        self._seeds = seeds

    async def healthz(self) -> schemas.Health:
        """Whether the process is up."""
        return schemas.Health()

    async def readyz(self) -> schemas.Readiness:
        """Whether every model's engine answers; 503 where one does not."""
        checks = [self._default_serve_handles[name].check_health.remote() for name in self._cards]
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                for check in checks:
                    await check
        except Exception:
            raise Refusal(503, "an engine does not answer", code="not_ready") from None
        return schemas.Readiness(models=list(self._cards))

    async def models(self) -> schemas.ServedModels:
        """The served models."""
        return schemas.ServedModels(data=list(self._cards.values()))

    async def model_data(self, model: str) -> schemas.ModelDetails:
        """One served model: what it was trained from, on and with, and how well it does on the run's test problems."""
        return self._cards[self._known(model)]

    async def chat(self, body: openai_bounds.ChatRequest, request: Request) -> Response:
        """OpenAI chat completion: the model's chat template renders the prompt that it was trained on."""
        openai_bounds.check_chat(body)
        return await self._admitted(super().chat, body, request, paths=body.n or 1)

    async def completions(self, body: openai_bounds.TextRequest, request: Request) -> Response:
        """OpenAI text completion: the prompt goes to the model as it is."""
        openai_bounds.check_completion(body)
        paths = (body.n or 1) * openai_bounds.prompts_of(body)
        return await self._admitted(super().completions, body, request, paths=paths)

    async def _admitted(self, answer: Any, body: Any, request: Request, *, paths: int) -> Response:
        """An OpenAI answer; its room is held until the last byte of a stream."""
        body.model = self._known(body.model or next(iter(self._cards)))
        if body.seed is not None and not self._seeds:
            raise Refusal(400, "seed is not supported where models run on CPUs", param="seed")  # it ends vLLM's engine
        asked = getattr(body, "max_completion_tokens", None) or body.max_tokens
        async with AsyncExitStack() as held:
            charge = await self._room(held, request, body.model, paths, asked)
            hidden = _count_tokens(body) if charge.counted else False
            answered: Response = await _unless_hung_up(request, self._answered(answer, body, request))
            if isinstance(answered, StreamingResponse):
                return EventStream(
                    _openai_events(answered.body_iterator, charge, request.scope, hidden), held.pop_all()
                )
            if charge.counted:
                await charge.settle(json.loads(bytes(answered.body))["usage"]["completion_tokens"])
            return answered

    async def _room(self, held: AsyncExitStack, request: Request, model: str, paths: int, tokens: int | None) -> Charge:
        """Room with the model's engines and in the key's limits, until `held` is closed. Raises Refusal."""
        await self._liveness.up(model)
        held.enter_context(self._admission.admitted(model, paths))
        caller: Caller = request.state.caller
        reserved = paths * min(tokens or self._max_tokens, self._max_tokens)
        return await held.enter_async_context(self._meter.admitted(caller.key, caller.limits, reserved))

    async def _answered(self, answer: Any, body: Any, request: Request) -> Response:
        """The answer, or the beginning of a stream, of the first engine that is not lost over it."""
        for _ in range(RETRIES):
            try:
                return await answer(body, request)  # type: ignore[no-any-return]
            except LOST:
                await self._liveness.survivor(body.model)
        return await answer(body, request)  # type: ignore[no-any-return]

    async def solve(self, body: schemas.SolveRequest, request: Request) -> schemas.SolveResponse:
        """Sample k reasoning paths of one question in one request, and put their answers to the vote.

        With `stream`: server-sent events `start`, `path` and `vote` for each path, `text` with `deltas`, and at the end
        `result` or `error`.
        """
        model = self._known(body.model or next(iter(self._cards)))
        async with AsyncExitStack() as held:
            charge = await self._room(held, request, model, body.k, body.max_tokens)
            events = await held.enter_async_context(aclosing(self._events(body, model)))
            first = await _unless_hung_up(request, anext(events))
            if isinstance(first, schemas.Refused):
                raise Refusal(first.status, first.message, param=first.param, code=first.code)
            if body.stream:
                return EventStream(_written(first, events, charge, request.scope), held.pop_all())  # type: ignore[return-value]
            result = await _unless_hung_up(request, _result(events))
            await charge.settle(result.tokens)
            return result

    async def _events(self, body: schemas.SolveRequest, model: str) -> AsyncGenerator[schemas.Event, None]:
        """The events of one question; from the start again where the engine is lost, unless some are streamed already.

        Closing it, or being cancelled, cancels the request in the engine.
        """
        for attempt in range(RETRIES + 1):
            told = False
            try:
                async with aclosing(self._sampled(body, model)) as events:
                    async for event in events:
                        told = True
                        yield event
                return
            except LOST:
                if (told and body.stream) or attempt == RETRIES:
                    raise
            await self._liveness.survivor(model)

    async def _sampled(self, body: schemas.SolveRequest, model: str) -> AsyncGenerator[schemas.Event, None]:
        """The events that one engine sends."""
        response = self._get_configured_serve_handle(model).solve.remote(body)
        ended = False
        try:
            async for event in response:
                yield event
            ended = True
        finally:
            if not ended:
                response.cancel()

    def _known(self, model: str) -> str:
        if model not in self._cards:
            served = ", ".join(self._cards)
            raise Refusal(404, f"no such model; served: {served}", param="model", code="model_not_found")
        return model


async def _result(events: AsyncGenerator[schemas.Event, None]) -> schemas.SolveResponse:
    """The last of the events."""
    async for event in events:
        if isinstance(event, schemas.SolveResponse):
            return event
    raise RuntimeError("the engine's events ended without a result")


async def _written(
    first: schemas.Event, events: AsyncGenerator[schemas.Event, None], charge: Charge, scope: Scope
) -> AsyncGenerator[str, None]:
    """Events as server-sent events. A failure is an event too: a stream never just ends."""
    ended = False
    try:
        yield _line(schemas.EVENT_NAMES[type(first)], first.model_dump_json())
        async for event in events:
            if isinstance(event, schemas.SolveResponse):
                ended = True
                await charge.settle(event.tokens)
            yield _line(schemas.EVENT_NAMES[type(event)], event.model_dump_json())
    except Exception as error:
        await _leave_seen(error)
        _log_broken("/solve", error)
    if not ended:
        request_metrics.broken(scope)
        await charge.settle(0)
        yield _line("error", _broken())


async def _openai_events(
    packets: AsyncIterable[Any], charge: Charge, scope: Scope, hidden: bool
) -> AsyncGenerator[str, None]:
    """OpenAI's events as they come. A failure is an event too, which the SDK raises as an error.

    `hidden`: the client did not ask for the usage, which is there to be counted.
    """
    used: int | None = None
    try:
        async for packet in packets:
            told = str(packet)
            if charge.counted:
                told, used = _counted(told, hidden, used)
            if told.rstrip().endswith("data: [DONE]"):
                await charge.settle(used)
            if told:
                yield told
    except Exception as error:
        await _leave_seen(error)
        _log_broken("OpenAI's", error)
        request_metrics.broken(scope)
        await charge.settle(0)
        yield f"data: {_broken()}\n\n"


def _count_tokens(body: Any) -> bool:
    """Have a stream end with its usage; whether that is to be hidden from the client."""
    if not body.stream or (body.stream_options is not None and body.stream_options.include_usage):
        return False
    body.stream_options = StreamOptions(include_usage=True)
    return True


def _counted(packet: str, hidden: bool, used: int | None) -> tuple[str, int | None]:
    """A packet of events without its usage, where that is hidden; and the tokens that it, or one before it, tells."""
    kept = []
    for event in packet.split("\n\n"):
        if '"usage":{' in event:
            chunk = json.loads(event.removeprefix("data: "))
            used = chunk["usage"]["completion_tokens"]
            if hidden and not chunk["choices"]:
                continue
        kept.append(event)
    return "\n\n".join(kept), used


def _broken() -> str:
    return bytes(errors.response(503, "the engine failed: ask again").body).decode()


def _log_broken(what: str, error: Exception) -> None:
    """Without the error's text, which may hold what was asked; the engine's own log has it."""
    logging.getLogger("ray.serve").error("a stream of %s failed: %s", what, type(error).__name__)


def _line(event: str, data: str) -> str:
    return f"event: {event}\ndata: {data}\n\n"


class EventStream(StreamingResponse):
    """A stream that ends its generator as soon as the client is gone, also while there is nothing to send.

    From ASGI 2.4 on Starlette waits for a failing `send`, and Ray Serve's never fails.
    """

    def __init__(self, content: AsyncIterable[Any], held: AsyncExitStack) -> None:
        """`held`: what is closed when the stream has ended, even one that never began."""
        super().__init__(content, media_type="text/event-stream", headers=UNCACHED)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(TaskCancelledError):  # found while cleaning up: Ray has ended the engine's part too
            async with self._held:
                try:
                    older = {**scope, "asgi": {**scope.get("asgi", {}), "spec_version": "2.3"}}
                    await super().__call__(older, receive, send)
                finally:
                    if isinstance(self.body_iterator, AsyncGenerator):
                        await self.body_iterator.aclose()


async def _unless_hung_up(request: Request, answer: Awaitable[T]) -> T:
    """The answer; cancelled, and refused, when the client goes away first."""
    working = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done() and not await _withdrawn(working, gone):
            return working.result()
        raise Refusal(CLIENT_CLOSED, "the client went away", code="client_closed")
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))


async def _withdrawn(answer: asyncio.Future[Any], gone: asyncio.Future[None]) -> bool:
    """Whether an answer failed because its client left, which may be known to the engine before it is here."""
    if answer.cancelled() or not isinstance(answer.exception(), TaskCancelledError):
        return False
    await asyncio.wait((gone,), timeout=LEAVE_S)
    return gone.done()


async def _leave_seen(error: Exception) -> None:
    """Be cancelled here, if a stream failed because its client left.

    Ray cancels a request and what that has begun at once, and either may be the first to notice.
    """
    if isinstance(error, TaskCancelledError):
        await asyncio.sleep(LEAVE_S)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _engine_refused(_: Request, error: Any) -> Response:
    status = int(error.status_code)
    return errors.response(status, str(error.message) if status < 500 else HTTPStatus(status).phrase)


def fastapi_app(keys: Keys, *, cors_origins: Sequence[str] = (), names_requests: bool = True) -> FastAPI:
    """The application without its routes: `make_fastapi_ingress` adds those of `ENDPOINTS`.

    `cors_origins`: whose pages a browser lets read the answers. `names_requests`: as in `Guard`.
    """
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": errors.ErrorBody} for status in (400, 401, 404, 413, 429, 503)
    }
    app = FastAPI(title="rft-ray", summary="Word problems, solved k times and put to the vote", responses=refusals)
    errors.install(app)
    app.add_exception_handler(OpenAIHTTPException, _engine_refused)
    for busy in (*LOST, TaskCancelledError, BackPressureError, DeploymentUnavailableError):
        app.add_exception_handler(busy, errors.unavailable)
    app.add_middleware(Guard, keys=keys, open_files=page.FILES, names_requests=names_requests)
    if cors_origins:  # outside of the guard: a browser asks first, and without a key
        shown = ["X-Request-Id", "Retry-After"]
        methods = ["GET", "POST"]
        allowed: dict[str, Any] = {"allow_origins": cors_origins, "allow_headers": ["*"], "allow_methods": methods}
        app.add_middleware(CORSMiddleware, **allowed, expose_headers=shown)
    page.install(app)
    request_metrics.install(app)
    return app


def deploy(
    models: Mapping[str, Application],
    cards: Sequence[schemas.ModelDetails],
    keys: Keys,
    *,
    seeds: bool,
    capacity: int,
    max_tokens: int = schemas.MAX_TOKENS,
    replicas: int = 1,
    cors_origins: Sequence[str] = (),
) -> Application:
    """The Serve application: `replicas` of this ingress, and one counter for them, in front of the models."""
    app = fastapi_app(keys, cors_origins=cors_origins, names_requests=False)
    ingress = make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=app)
    drained = {"num_replicas": replicas, "graceful_shutdown_timeout_s": DRAIN_S}
    counter = serve.deployment(SharedCounter, name="limits", **OPTIONS).bind()
    return serve.deployment(ingress, name="ingress", **OPTIONS, **drained).bind(
        llm_deployments=dict(models),
        cards=list(cards),
        seeds=seeds,
        capacity=-(-capacity // replicas),
        max_tokens=max_tokens,
        counter=counter,
    )
