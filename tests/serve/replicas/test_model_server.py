"""A replica's health checks, without an engine."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from serve.replicas import model_server
from serve.replicas.model_server import InProcessModelServer, ModelServer


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
