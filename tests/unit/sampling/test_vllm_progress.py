"""How the stepping thread of vLLM's engine takes in requests, and what counts as progress."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling.engine import EngineDied, Misbehaved, Request
from rft_ray.sampling.vllm_arguments import alone_on_gpu
from rft_ray.sampling.vllm_engine import Submission, VllmEngine


@dataclass
class Output:
    request_id: str
    finished: bool = True
    outputs: list[Any] = field(default_factory=list)


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


class RecordingEngine:
    """Answers everything at the next step; `fails`: the prompt that it breaks on."""

    def __init__(self, fails: int | None = None) -> None:
        self.prompts: list[int] = []
        self.fails = fails
        self.waiting: list[str] = []

    def add_request(self, name: str, prompt: Any, params: Any) -> None:
        [token] = prompt["prompt_token_ids"]
        if token == self.fails:
            raise RuntimeError("no room")
        self.prompts.append(token)
        self.waiting.append(name)

    def step(self) -> list[Output]:
        done, self.waiting = self.waiting, []
        return [Output(name) for name in done]


@contextmanager
def stepping(
    inner: Any, tokenizer: Any = None, *, written: deque[str] | None = None, share: float = 1.0
) -> Iterator[Any]:
    """A VllmEngine around another engine than vLLM's. `written`: what its process has written."""
    engine: Any = VllmEngine.__new__(VllmEngine)
    engine.progress, engine._failure, engine._inbox, engine._engine = 0, None, queue.SimpleQueue(), inner
    engine._tokenizer, engine._context_tokens = tokenizer, 100
    engine._written, engine._share = written, share
    engine._thread = threading.Thread(target=engine._step_until_closed, daemon=True)
    engine._thread.start()
    yield engine
    engine._inbox.put(None)
    engine._thread.join(10)


def test_each_step_is_progress() -> None:
    with stepping(SlowEngine()) as engine:
        submission = Submission([1], None)
        engine._inbox.put([submission])
        assert submission.answer.result(10).finished
    assert engine.progress == SlowEngine.STEPS


class TakingTurns:
    """A tokenizer that two threads use by turns."""

    eos_token_id = 0

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def __call__(self, text: str) -> dict[str, list[int]]:
        self.barrier.wait(10)
        return {"input_ids": [int(text)]}


def test_the_requests_of_one_call_enter_the_engine_together() -> None:
    settings = SamplingSettings(0.7, 1.0, 8, 1, "{query}")
    inner = RecordingEngine()

    def ask(engine: VllmEngine, first: int) -> None:
        numbers = range(first, first + 5)
        requests = [Request(Problem(str(n), str(n), "", ""), str(n), 0, 1) for n in numbers]
        assert len(engine.generate(requests, settings)) == 5

    with stepping(inner, TakingTurns()) as engine, ThreadPoolExecutor(2) as callers:
        for answer in [callers.submit(ask, engine, first) for first in (10, 20)]:
            answer.result(30)
    calls = [prompt // 10 for prompt in inner.prompts]
    assert calls in ([1] * 5 + [2] * 5, [2] * 5 + [1] * 5)
    assert inner.prompts == sorted(inner.prompts, key=lambda prompt: calls.index(prompt // 10))


def test_an_engine_that_fails_while_it_takes_in_requests_answers_none_of_them_by_silence() -> None:
    submissions = [Submission([number], None) for number in range(3)]
    with stepping(RecordingEngine(fails=1)) as engine:
        engine._inbox.put(submissions)
        for submission in submissions:
            with pytest.raises(EngineDied, match="no room"):
                submission.answer.result(10)


@dataclass
class Text:
    finish_reason: str
    index: int = 0
    text: str = "5 is"
    token_ids: tuple[int, ...] = (1, 2)


@pytest.mark.parametrize("reason", ["stop", "length", "abort", "error"])
def test_a_text_that_the_engine_broke_off_is_no_sample(reason: str) -> None:
    class Answering(RecordingEngine):
        def step(self) -> list[Output]:
            return [Output(output.request_id, outputs=[Text(reason)]) for output in super().step()]

    class Numbers:
        eos_token_id = 0

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [int(text)]}

    asked = Request(Problem("1", "1", "", ""), "1", 0, 1)
    with stepping(Answering(), Numbers()) as engine:
        broken = pytest.raises(Misbehaved, match=f"finish_reason {reason}")
        with broken if reason in ("abort", "error") else nullcontext():
            [answer] = engine.generate([asked], SamplingSettings(0.7, 1.0, 8, 1, "{query}"))
            assert answer.samples[0].finish_reason == reason


class EngineDeadError(Exception):
    """As vLLM names it."""


class DeadEngine(RecordingEngine):
    """An engine whose process has ended, as vLLM says it."""

    def step(self) -> list[Output]:
        raise EngineDeadError("EngineCore encountered an issue. See stack trace (above) for the root cause.")


def test_a_dead_engine_is_reported_with_what_its_process_wrote() -> None:
    stack = "(EngineCore pid=41) ERROR 11-29 10:00:01 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried 2"
    submission = Submission([1], None)
    with stepping(DeadEngine(), written=deque(["loading", stack])) as engine:
        engine._inbox.put([submission])
        with pytest.raises(EngineDied, match=r"EngineCore encountered .* wrote: torch\.OutOfMemoryError: CUDA out of"):
            submission.answer.result(10)
        with pytest.raises(EngineDied, match="CUDA out of memory"):
            engine.swap(None)


def test_an_engine_closes_while_no_other_opens_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM refuses to open where the GPU has more free memory than when it began (gpu_worker.py)."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unit-test-closing")
    closed, inner = threading.Event(), RecordingEngine()
    inner.engine_core = SimpleNamespace(shutdown=closed.set)  # type: ignore[attr-defined]
    with stepping(inner, share=0.5) as engine:
        closing = threading.Thread(target=engine.close, daemon=True)
        with alone_on_gpu(0.5):
            closing.start()
            assert not closed.wait(0.5)
        assert closed.wait(10)
        closing.join(10)
