"""The HTTP application: OpenAI's routes of ray.serve.llm, `POST /solve`, and health checks, behind the guard.

`fastapi_app(keys)` is the application with the guard and the error shape; `Ingress` has the methods of its routes. CORS
is closed except for the named origins: a page of another origin can read no answer. `/healthz` answers while the
process runs, `/readyz` where the engine of each model answers. A request whose engine is lost is sent to another engine
as long as no part of its answer has been sent; after that a stream ends with an error event. A request that waits for
an engine is refused as soon as its model is known to be down.
Source: ray/llm/_internal/serve/core/ingress/ingress.py (Ray 2.60).
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from ray import serve
from ray.exceptions import TaskCancelledError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response, StreamingResponse

from serve import page, ray_private
from serve.access.admission import Admission
from serve.access.api_keys import Keys
from serve.access.guard import Caller, Guard
from serve.access.rate_limiter import RateLimiter, Reservation, SharedCounter
from serve.api import errors, fields, openai_bounds, schemas
from serve.api.errors import Refusal
from serve.http import request_metrics
from serve.http.disconnects import unless_disconnected
from serve.http.event_streams import EventStream, openai_stream, request_usage, solve_stream
from serve.http.head_requests import HeadRequests
from serve.llm import OpenAiIngress, make_fastapi_ingress
from serve.page import api_docs
from serve.replicas.liveness import ENGINE_LOST, RETRIES, RETRY_AFTER_S, Liveness, ReadinessCheck
from serve.runner import DRAIN_S, INGRESS
from serve.vllm_private import CONTEXT_LENGTH

OPTIONS: dict[str, Any] = {"max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
"""Options of the deployments without an engine."""
SOLVE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": schemas.EXAMPLE_EVENTS}},
        "description": "the vote; with `stream` its events",
    }
}
ENDPOINTS = {
    "healthz": lambda app: app.get("/healthz", tags=["health"]),
    "readyz": lambda app: app.get("/readyz", tags=["health"], response_model_exclude_none=True),
    "solve": lambda app: app.post("/solve", tags=["solve"], responses=SOLVE_RESPONSES),
    "models": lambda app: app.get("/v1/models", tags=["openai"]),
    "model_data": lambda app: app.get("/v1/models/{model:path}", tags=["openai"]),
    "chat": lambda app: app.post("/v1/chat/completions", tags=["openai"]),
    "completions": lambda app: app.post("/v1/completions", tags=["openai"]),
}


class Ingress(OpenAiIngress):  # type: ignore[misc]
    """The methods of the routes, with one Serve handle for each model. The first card is the default model."""

    def __init__(
        self,
        llm_deployments: dict[str, DeploymentHandle],
        cards: Sequence[schemas.ModelDetails],
        *,
        gpu: bool,
        capacity: int,
        max_tokens: int = schemas.MAX_TOKENS,
        counter: Any = None,
    ) -> None:
        """`gpu`: whether each engine has GPUs of its own; without, all share the CPUs, and seeds are refused.
        `capacity`: paths that each model may have in progress. `max_tokens`: the limit of one path.

        `counter`: the handle of the limits' `SharedCounter`; None: limits are counted in this replica.
        """
        ray_private.listen_on_node_address()
        super().__init__(llm_deployments, {card.id: card for card in cards})
        self._liveness = Liveness(ray_private.deployment_handles(self))
        self._readiness = ReadinessCheck(ray_private.deployment_handles(self))
        self._limiter, self._max_tokens = RateLimiter(counter), max_tokens
        self._admission = Admission({card.id: capacity for card in cards})
        self._cards = {card.id: card for card in cards}
        self._gpu = gpu

    async def healthz(self) -> schemas.Health:
        """Whether the process runs."""
        return schemas.Health()

    async def readyz(self, request: Request) -> schemas.Readiness:
        """Whether the engine of each model answers; 503 where one does not. Names the models to callers with access."""
        if not await self._readiness.ready():
            retry = {"Retry-After": str(RETRY_AFTER_S)}
            raise Refusal(503, "an engine does not answer", code="not_ready", headers=retry)
        has_access = hasattr(request.state, "caller")
        return schemas.Readiness(models=list(self._cards) if has_access else None)

    async def models(self) -> schemas.ServedModels:
        """The served models."""
        shared_cpus = not self._gpu and len(self._cards) > 1
        return schemas.ServedModels(data=list(self._cards.values()), shared_cpus=shared_cpus)

    async def model_data(self, model: str) -> schemas.ModelDetails:
        """One served model: its base model, training data and settings, and its results on the run's test problems."""
        return self._cards[self._served(model)]

    async def chat(self, body: openai_bounds.ChatRequest, request: Request) -> Response:
        """OpenAI chat completion: the model's chat template renders the prompt of its training."""
        openai_bounds.check_chat(body)
        return await self._openai(super().chat, body, request, paths=body.n or 1)

    async def completions(self, body: openai_bounds.TextRequest, request: Request) -> Response:
        """OpenAI text completion: the prompt goes to the model unchanged."""
        openai_bounds.check_completion(body)
        paths = (body.n or 1) * openai_bounds.prompts_of(body)
        return await self._openai(super().completions, body, request, paths=paths)

    async def _openai(self, answer: Any, body: Any, request: Request, *, paths: int) -> Response:
        """An OpenAI answer. Its reservation is held until the last byte of a stream."""
        body.model = self._served(body.model or next(iter(self._cards)))
        if body.seed is not None and not self._gpu:
            raise Refusal(
                400, "seed is not supported where models run on CPUs", param="seed"
            )  # a seed ends vLLM's CPU engine
        asked = self._lower_max_tokens(body)
        openai_bounds.check_values(body, paths, self._max_tokens if asked is None else asked)
        async with AsyncExitStack() as held:
            reservation = await self._reserve(held, request, body.model, paths, asked)
            hidden = request_usage(body) if reservation.counted else False
            answered: Response = await unless_disconnected(request, self._first_answer(answer, body))
            if isinstance(answered, StreamingResponse):
                events = openai_stream(answered.body_iterator, reservation, request.scope, hidden)
                return EventStream(events, held.pop_all())
            if reservation.counted:
                await reservation.settle(json.loads(bytes(answered.body))["usage"]["completion_tokens"])
            return answered

    def _lower_max_tokens(self, body: Any) -> int | None:
        """The most tokens of a path that a request asks for, after they are lowered to the server's limit."""
        name = openai_bounds.max_tokens_field(body)
        asked: int | None = getattr(body, name)
        if asked is not None:
            asked = min(asked, self._max_tokens)
            setattr(body, name, asked)
        return asked

    async def _reserve(
        self, held: AsyncExitStack, request: Request, model: str, paths: int, tokens: int | None
    ) -> Reservation:
        """Reserve capacity of the model and of the key's limits until `held` is closed. Raises Refusal."""
        await self._liveness.await_up(model)
        held.enter_context(self._admission.admitted(model, paths))
        caller: Caller = request.state.caller
        reserved = paths * (self._max_tokens if tokens is None else tokens)
        return await held.enter_async_context(self._limiter.admitted(caller.key, caller.limits, reserved))

    async def _first_answer(self, answer: Any, body: Any) -> Response:
        """The answer, or the beginning of a stream, of the first engine that is not lost during the request.

        The engine gets no header of the client: vLLM takes a priority, a rank and a session from them.
        """
        for _ in range(RETRIES):
            try:
                return await self._liveness.unless_down(body.model, answer(body, None))
            except ENGINE_LOST:
                await self._liveness.await_other_replica(body.model)
        return await self._liveness.unless_down(body.model, answer(body, None))

    async def solve(self, body: schemas.SolveRequest, request: Request) -> schemas.SolveResponse:
        """Sample k reasoning paths of one question in one request, and return the majority vote of their answers.

        With `stream`: server-sent events `start`, then `path` and `vote` for each path, `text` with `deltas`, and
        `result` or `error` at the end.
        """
        model = self._served(body.model or next(iter(self._cards)))
        async with AsyncExitStack() as held:
            reservation = await self._reserve(held, request, model, body.k, self._lower_max_tokens(body))
            events = await held.enter_async_context(aclosing(self._events(body, model)))
            first = await unless_disconnected(request, anext(events))
            if isinstance(first, schemas.EngineRefusal):
                raise Refusal(first.status, first.message, param=first.param, code=first.code)
            if body.stream:
                return EventStream(solve_stream(first, events, reservation, request.scope), held.pop_all())  # type: ignore[return-value]
            result = await unless_disconnected(request, _result(events))
            await reservation.settle(result.tokens)
            return result

    async def _events(self, body: schemas.SolveRequest, model: str) -> AsyncGenerator[schemas.Event, None]:
        """The events of one question. Repeats the request where the engine is lost, unless events have been streamed.

        Closing or cancelling this generator cancels the request in the engine.
        """
        for attempt in range(RETRIES + 1):
            sent = False
            try:
                async with aclosing(self._sampled(body, model)) as events:
                    async for event in events:
                        sent = True
                        yield event
                return
            except ENGINE_LOST:
                if (sent and body.stream) or attempt == RETRIES:
                    raise
            await self._liveness.await_other_replica(model)

    async def _sampled(self, body: schemas.SolveRequest, model: str) -> AsyncGenerator[schemas.Event, None]:
        """The events that one engine sends. An unfinished request is cancelled in the engine."""
        response = ray_private.streaming_handle(self, model).solve.remote(body)
        ended = False
        try:
            yield await self._liveness.unless_down(model, anext(response))
            async for event in response:
                yield event
            ended = True
        finally:
            if not ended:
                response.cancel()

    def _served(self, model: str) -> str:
        if model not in self._cards:
            served = ", ".join(self._cards)
            raise Refusal(
                404, f"there is no such model; served models: {served}", param="model", code="model_not_found"
            )
        return model


async def _result(events: AsyncGenerator[schemas.Event, None]) -> schemas.SolveResponse:
    """The result at the end of the events."""
    async for event in events:
        if isinstance(event, schemas.SolveResponse):
            return event
    raise RuntimeError("the engine's events ended without a result")


async def _engine_refused(request: Request, error: Any) -> Response:
    """The answer for an error of the engine, with the field that it names."""
    status, message = int(error.status_code), str(error.message)
    if status >= 500:
        return errors.response(status, HTTPStatus(status).phrase)
    prompt = "messages" if request.url.path.endswith("/chat/completions") else "prompt"
    if CONTEXT_LENGTH in message:
        return errors.response(status, message, param=prompt, code="context_length_exceeded")
    named = fields.named_field(message, openai_bounds.CHAT_FIELDS | openai_bounds.COMPLETION_FIELDS)
    return errors.response(status, message, param=prompt if named == "prompt" else named)


def fastapi_app(keys: Keys, *, cors_origins: Sequence[str] = (), sends_request_id: bool = True) -> FastAPI:
    """The application without the routes of `ENDPOINTS`, which `make_fastapi_ingress` adds.

    `cors_origins`: origins whose pages may read the answers in a browser. `sends_request_id`: as in `Guard`.
    """
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": errors.ErrorBody} for status in (400, 401, 404, 413, 429, 503)
    }
    summary = "Word problems, solved k times and put to the vote"
    # FastAPI's own pages load scripts from a CDN: serve/page/api_docs.py replaces them
    app = FastAPI(title="rft-ray", summary=summary, responses=refusals, docs_url=None, redoc_url=None)
    errors.install(app)
    app.add_exception_handler(ray_private.openai_http_exception(), _engine_refused)
    for busy in (*ENGINE_LOST, TaskCancelledError, BackPressureError, DeploymentUnavailableError):
        app.add_exception_handler(busy, errors.unavailable)
    app.add_middleware(HeadRequests)
    app.add_middleware(Guard, keys=keys, public_files=page.FILES, sends_request_id=sends_request_id)
    if cors_origins:  # outside of the guard: a browser's preflight request has no key
        shown = ["X-Request-Id", "Retry-After"]
        methods = ["GET", "POST"]
        allowed: dict[str, Any] = {"allow_origins": cors_origins, "allow_headers": ["*"], "allow_methods": methods}
        app.add_middleware(CORSMiddleware, **allowed, expose_headers=shown)
    page.install(app)
    api_docs.install(app)
    request_metrics.install(app)
    return app


def deploy(
    models: Mapping[str, Application],
    cards: Sequence[schemas.ModelDetails],
    keys: Keys,
    *,
    gpu: bool,
    capacity: int,
    max_tokens: int = schemas.MAX_TOKENS,
    replicas: int = 1,
    cors_origins: Sequence[str] = (),
) -> Application:
    """The Serve application: `replicas` of this ingress with one shared counter, in front of the models."""
    app = fastapi_app(keys, cors_origins=cors_origins, sends_request_id=False)
    ingress = make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=app)
    drained = {"num_replicas": replicas, "graceful_shutdown_timeout_s": DRAIN_S}
    counter = serve.deployment(SharedCounter, name="limits", **OPTIONS).bind()
    return serve.deployment(ingress, name=INGRESS, **OPTIONS, **drained).bind(
        llm_deployments=dict(models),
        cards=list(cards),
        gpu=gpu,
        capacity=-(-capacity // replicas),
        max_tokens=max_tokens,
        counter=counter,
    )
