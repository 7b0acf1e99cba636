"""The HTTP face: OpenAI's routes as ray.serve.llm has them, `POST /solve`, and health, behind one guard.

`fastapi_app(keys)` is the application with the guard and the error shape; `Ingress` holds what answers its routes.
There is no CORS: a browser page of another origin can read nothing. Health: `/healthz` says that the process is
up, `/readyz` that every model's engine answers.
Source: ray/llm/_internal/serve/core/ingress/ingress.py (Ray 2.60).
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from ray import serve
from ray.exceptions import RayActorError
from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from starlette.responses import Response

from serve import errors, schemas
from serve.auth import Guard, Keys
from serve.errors import Refusal
from serve.voting import Outcome, Path, vote

READY_TIMEOUT_S = 5.0
ENDPOINTS = {
    "healthz": lambda app: app.get("/healthz", tags=["health"]),
    "readyz": lambda app: app.get("/readyz", tags=["health"]),
    "solve": lambda app: app.post("/solve", tags=["solve"]),
    "models": lambda app: app.get("/v1/models", tags=["openai"]),
    "model_data": lambda app: app.get("/v1/models/{model:path}", tags=["openai"]),
    "chat": lambda app: app.post("/v1/chat/completions", tags=["openai"]),
    "completions": lambda app: app.post("/v1/completions", tags=["openai"]),
}


class Ingress(OpenAiIngress):  # type: ignore[misc]
    """Answers the routes; one Serve handle per model. The first card is the model of requests that name none."""

    def __init__(
        self, llm_deployments: dict[str, DeploymentHandle], cards: Sequence[schemas.ServedModel], *, seeds: bool
    ) -> None:
        super().__init__(llm_deployments, {card.id: card for card in cards})
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

    async def model_data(self, model: str) -> schemas.ServedModel:
        """One served model."""
        return self._cards[self._known(model)]

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """OpenAI chat completion: the model's chat template renders the prompt that it was trained on."""
        self._check(body, prompts=1)
        answer: Response = await super().chat(body, request)
        return answer

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """OpenAI text completion: the prompt goes to the model as it is."""
        many = isinstance(body.prompt, list) and bool(body.prompt) and not isinstance(body.prompt[0], int)
        self._check(body, prompts=len(body.prompt) if many else 1)
        answer: Response = await super().completions(body, request)
        return answer

    async def solve(self, body: schemas.SolveRequest, request: Request) -> schemas.SolveResponse:
        """Sample k reasoning paths of one question in one request, and put their answers to the vote."""
        started = time.monotonic()
        model = self._known(body.model or next(iter(self._cards)))
        asked = ChatCompletionRequest(
            model=model,
            messages=[{"role": "user", "content": body.question}],
            n=body.k,
            temperature=body.temperature,
            top_p=1.0,
            max_completion_tokens=body.max_tokens,
        )
        answers = self._get_response(body=asked, call_method="chat", raw_request=request)
        outcome = vote(_paths(await anext(answers)))
        return _solved(outcome, body.k, model, time.monotonic() - started)

    def _known(self, model: str) -> str:
        if model not in self._cards:
            served = ", ".join(self._cards)
            raise Refusal(404, f"no such model; served: {served}", param="model", code="model_not_found")
        return model

    def _check(self, body: Any, *, prompts: int) -> None:
        """Refuse what no engine here should be asked: an unknown model, too many paths, a seed on CPU."""
        if body.model is not None:
            self._known(body.model)
        if (body.n or 1) * prompts > schemas.MAX_PATHS:
            raise Refusal(400, f"n times the number of prompts must be at most {schemas.MAX_PATHS}", param="n")
        if body.seed is not None and not self._seeds:
            raise Refusal(400, "seed is not supported where models run on CPUs", param="seed")  # it ends vLLM's engine


def _paths(answer: Any) -> list[Path]:
    """The sampled paths of an engine's answer. Raises OpenAIHTTPException where it refused the request."""
    if hasattr(answer, "error"):
        raise OpenAIHTTPException(answer.error.code, answer.error.message, answer.error.type)
    return [Path(choice.message.content or "", choice.finish_reason) for choice in answer.choices]


def _solved(outcome: Outcome, k: int, model: str, seconds: float) -> schemas.SolveResponse:
    shown = outcome.path and schemas.ShownPath(text=outcome.path.text, equations=list(outcome.equations))
    return schemas.SolveResponse(
        answer=outcome.answer,
        confidence=outcome.confidence,
        votes=[schemas.Vote(answer=answer, count=count) for answer, count in outcome.votes],
        path=shown,
        k=k,
        distinct_paths=outcome.distinct_paths,
        undecided=outcome.undecided,
        no_answer=outcome.no_answer,
        truncated=outcome.truncated,
        model=model,
        seconds=round(seconds, 3),
    )


async def _engine_refused(_: Request, error: Any) -> Response:
    status = int(error.status_code)
    return errors.response(status, str(error.message) if status < 500 else HTTPStatus(status).phrase)


def fastapi_app(keys: Keys) -> FastAPI:
    """The application without its routes: `make_fastapi_ingress` adds those of `ENDPOINTS`."""
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": errors.ErrorBody} for status in (400, 401, 404, 413, 503)
    }
    app = FastAPI(title="rft-ray", summary="Word problems, solved k times and put to the vote", responses=refusals)
    errors.install(app)
    app.add_exception_handler(OpenAIHTTPException, _engine_refused)
    for busy in (RayActorError, BackPressureError, DeploymentUnavailableError):
        app.add_exception_handler(busy, errors.unavailable)
    app.add_middleware(Guard, keys=keys)
    return app


def deploy(
    models: Mapping[str, Application], cards: Sequence[schemas.ServedModel], keys: Keys, *, seeds: bool
) -> Application:
    """The Serve application: this ingress in front of the models' deployments."""
    ingress = make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=fastapi_app(keys))
    options = {"name": "ingress", "max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": 0}}
    return serve.deployment(ingress, **options).bind(llm_deployments=dict(models), cards=list(cards), seeds=seeds)
