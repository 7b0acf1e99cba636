"""An engine that generates long samples makes progress, although no request is answered yet."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rft_ray.sampling.vllm_engine import VllmEngine


@dataclass
class Output:
    request_id: str
    finished: bool = True


class SlowEngine:
    """Its one request takes STEPS steps."""

    STEPS = 50

    def __init__(self) -> None:
        self.steps = 0

    def add_request(self, name: str, prompt: Any, params: Any) -> None:
        self.name = name

    def step(self) -> list[Output]:
        self.steps += 1
        return [Output(self.name)] if self.steps == self.STEPS else []


def test_each_step_is_progress() -> None:
    engine: Any = VllmEngine.__new__(VllmEngine)
    engine.progress, engine._failure, engine._inbox, engine._engine = 0, None, queue.SimpleQueue(), SlowEngine()
    answer: Future[Any] = Future()
    thread = threading.Thread(target=engine._step_until_closed, daemon=True)
    thread.start()
    engine._inbox.put(([1], None, answer))
    assert answer.result(10).finished
    engine._inbox.put(None)
    thread.join(10)
    assert engine.progress == SlowEngine.STEPS
