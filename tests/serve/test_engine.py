"""What a replica does about its engine's health, without an engine."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from serve import engine
from serve.engine import ModelServer


class Ended(BaseException):
    """The process has ended."""


class Server(ModelServer):
    """One that was never started."""

    def __del__(self) -> None:
        pass


def checked(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    async def check_health() -> None:
        if error is not None:
            raise error

    def end(code: int) -> NoReturn:
        assert code != 0
        raise Ended

    monkeypatch.setattr(engine.os, "_exit", end)
    server: Any = object.__new__(Server)
    server.engine, server._llm_config = SimpleNamespace(check_health=check_health), SimpleNamespace(model_id="m")
    asyncio.run(server.check_health())


def test_a_replica_whose_engine_is_dead_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended):
        checked(monkeypatch, EngineDeadError())


def test_a_replica_whose_engine_answers_or_fails_otherwise_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(monkeypatch, None)
    with pytest.raises(RuntimeError, match="no"):
        checked(monkeypatch, RuntimeError("no"))
