"""A replica's health checks, and its streams where the engine fails, without an engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse
from vllm.v1.engine.exceptions import EngineDeadError

from rft_ray import config
from rft_ray.data.prompts import stored
from rft_ray.data.tiny import model_dir
from rft_ray.grading.spec import VerifierSpec
from serve.api.schemas import EngineRefusal, SolveRequest
from serve.replicas import model_server
from serve.replicas.model_server import InProcessModelServer, ModelServer
from serve.run_models import Resources, RunModel
from serve.solving.answers import AnswerReader


class Ended(BaseException):
    """Raised where the process would exit."""


class Server(ModelServer):
    """A server that was never started."""

    def __del__(self) -> None:
        pass


class InProcess(InProcessModelServer):
    """A server that was never started."""

    def __del__(self) -> None:
        pass


def checked(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, kind: type[ModelServer] = Server, by: str = "check_health"
) -> None:
    async def check_health() -> None:
        if error is not None:
            raise error

    def end(code: int) -> NoReturn:
        assert code != 0
        raise Ended

    monkeypatch.setattr(model_server.os, "_exit", end)
    monkeypatch.setattr(model_server, "OTHER_REPLICA_S", 0)
    server: Any = object.__new__(kind)
    server.engine, server._llm_config = SimpleNamespace(check_health=check_health), SimpleNamespace(model_id="m")
    asyncio.run(getattr(server, by)())


def test_a_replica_whose_engine_is_dead_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended):
        checked(monkeypatch, EngineDeadError())


def test_a_replica_whose_engine_answers_or_fails_otherwise_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(monkeypatch, None)
    with pytest.raises(RuntimeError, match="no"):
        checked(monkeypatch, RuntimeError("no"))


def test_a_dead_engine_in_the_ingress_process_is_reported_before_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(EngineDeadError):
        checked(monkeypatch, EngineDeadError(), InProcess)
    with pytest.raises(Ended):
        checked(monkeypatch, EngineDeadError(), InProcess, "check_replica")
    with pytest.raises(RuntimeError, match="no"):
        checked(monkeypatch, RuntimeError("no"), InProcess, "check_replica")


TOKEN = 'data: {"id":"a","choices":[{"text":"{\\"error\\":"}]}\n\n'
DONE = "data: [DONE]\n\n"


def failed(code: int) -> str:
    """The event that vLLM sends where its generator fails."""
    error = {"message": "no", "type": "InternalServerError", "param": None, "code": code}
    return f"data: {json.dumps({'error': error})}\n\n"


def streamed(*events: str, dead: bool, route: str) -> list[Any]:
    """What a replica streams whose engine sends these events, and the type of the exception that ends it."""

    async def answer(*_: Any) -> AsyncGenerator[str, None]:
        for event in events:
            yield event

    async def ask() -> list[Any]:
        server: Any = object.__new__(Server)
        server.batch_s = 0
        server.engine = SimpleNamespace(_engine_client=SimpleNamespace(errored=dead), **{route: answer})
        sent: list[Any] = []
        try:
            async for batch in await getattr(server, route)(SimpleNamespace(stream=True)):
                sent += batch
        except Exception as error:
            sent.append(type(error))
        return sent

    return asyncio.run(ask())


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_stream_of_a_dead_engine_fails_instead_of_ending(route: str) -> None:
    for sent in ((), (TOKEN,), (TOKEN,) * 5):
        assert streamed(*sent, failed(500), DONE, dead=True, route=route) == [*sent, EngineDeadError]
    assert streamed(TOKEN, DONE, dead=False, route=route) == [TOKEN, DONE]


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_an_error_before_a_streams_first_event_is_answered_with_its_status(route: str) -> None:
    for code in (400, 500):
        (refused,) = streamed(failed(code), DONE, dead=False, route=route)
        assert isinstance(refused, ErrorResponse)
        assert refused.error.code == code
    assert streamed(TOKEN, failed(500), DONE, dead=False, route=route) == [TOKEN, failed(500), DONE]


def test_a_replica_knows_whether_its_prompt_opens_reasoning(tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((model_dir("tiny-s") / file).read_bytes())
    template = "{{ messages[0]['content'] }}{{ '<think>' if thinking is not false else '<think></think>' }}"
    (tmp_path / "chat_template.jinja").write_text(template)
    assert model_server.opens_reasoning(tmp_path, stored(config.Prompt(kind="chat")))
    assert not model_server.opens_reasoning(
        tmp_path, stored(config.Prompt(kind="chat", chat_kwargs={"thinking": False}))
    )
    assert model_server.opens_reasoning(tmp_path, "{query} <think>\n")
    assert not model_server.opens_reasoning(tmp_path, "{query}")
    assert model_server.opens_reasoning(tmp_path, "{query}<plan>", ("think", "plan"))
    assert not model_server.opens_reasoning(tmp_path, "{query}<plan>", ("think",))


def test_a_question_to_a_run_whose_paths_cannot_vote_is_refused() -> None:
    async def ask() -> list[Any]:
        server: Any = object.__new__(Server)
        server._reader = AnswerReader(VerifierSpec("python"))
        return [event async for event in server.solve(SolveRequest(question="Sort a list.", k=2))]

    (refused,) = asyncio.run(ask())
    assert isinstance(refused, EngineRefusal)
    assert refused.status == 400
    assert "python" in refused.message


@pytest.mark.parametrize("gpus", [1, 2])
def test_an_engine_on_gpus_is_on_one_node_and_opens_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    """The model's files are on the disk of the replica's node."""
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER", raising=False)
    engine = config.Engine(tensor_parallel_size=gpus)
    entry = RunModel(model="m", stage="rft", fingerprint="a" * 16, base="tiny:tiny-s")
    resources = Resources(gpu=True, cpus=1, replicas=1, max_tokens=64)
    made = model_server.llm_config_of(entry, engine, resources)
    placed = made.get_engine_config()
    assert placed.placement_strategy == "STRICT_PACK"
    assert [bundle["GPU"] for bundle in placed.placement_bundles] == [1] * gpus
    assert made.runtime_env == {"env_vars": {"VLLM_USE_FLASHINFER_SAMPLER": "0"}}
