"""A deterministic engine, with scripted faults and times, to test everything around an engine."""

from __future__ import annotations

import ctypes
import hashlib
import heapq
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rft_ray.config import engine_script
from rft_ray.config.engine_script import Fault
from rft_ray.plan.sampling_settings import WITHOUT_EFFECT, SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling.engine import Answered, Generated, Request

HANG_S = 3600
"""How long a scripted hang lasts."""


def fail_opening(faults: tuple[Fault, ...], place: str) -> None:
    """Fail as a fault of the script asks for the opening of an engine at this place; without one, do nothing."""
    for fault in faults:
        if fault.kind.startswith("open-") and fault.strikes(place):
            kind, _, seconds = fault.kind.removeprefix("open-").partition("=")
            _fail(kind, float(seconds or HANG_S))


def fail_answering(faults: tuple[Fault, ...], question: str) -> str:
    """Fail as a fault of the script asks for this question. Returns how to spoil the answer, or an empty string."""
    for fault in faults:
        if not fault.kind.startswith("open-") and fault.strikes(question):
            kind, _, seconds = fault.kind.partition("=")
            if kind in ("empty", "few", "endless"):
                return kind
            _fail(kind, float(seconds or HANG_S))
    return ""


def _fail(kind: str, seconds: float = HANG_S) -> None:
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "oom":
        raise MemoryError("out of memory, by a script")
    elif kind in ("raise", "refuse"):
        raise RuntimeError("the engine refuses, by a script")
    elif kind == "freeze":
        ctypes.PyDLL(None).sleep(int(seconds))  # unlike CDLL, PyDLL keeps the interpreter's lock
    else:
        time.sleep(seconds)


class Batch:
    """When the sequences of a continuous batch end: at most `most` at once, with a token each in every step.

    A sequence takes the place that is free first; so those of a later request begin when earlier ones leave room.
    """

    def __init__(self, step_s: float, most: int) -> None:
        self._step_s = step_s
        self._free_at = [0.0] * most
        """A heap: when each place is free."""
        self._lock = threading.Lock()

    def end_of(self, tokens: Sequence[int], now: float) -> float:
        """When the last of these sequences ends, that come in together."""
        end = now
        with self._lock:
            for count in tokens:
                ends = max(now, self._free_at[0]) + count * self._step_s
                heapq.heapreplace(self._free_at, ends)
                end = max(end, ends)
        return end


class ScriptedEngine:
    """Answers with the gold solution, or a variant: another correct one, a wrong one, one without an answer, with a
    false equation, or truncated.

    Sample i of a problem depends on these two and the sampling settings alone, so shards are equal byte for byte
    wherever and however often they are made. `script`: how the engine misbehaves and how long it takes
    (`config/engine_script.py`); `place`: where; `max_num_seqs`: sequences at once, where a step takes time.
    """

    def __init__(self, seed: int, script: str = "", place: str = "", max_num_seqs: int = 256) -> None:
        self.seed, self.progress = seed, 0
        self._faults = engine_script.parse(script)
        self._slow_loads = tuple(fault for fault in self._faults if fault.kind.startswith("open-slow")), place
        step_s = engine_script.step_seconds(script)
        self._batch = Batch(step_s, max_num_seqs) if step_s else None
        fail_opening(self._faults, place)

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        came = time.monotonic()
        answers = [self._answer(request, settings) for request in requests]
        if self._batch:  # writing the texts is part of the time that the batch takes
            ends = [self._batch.end_of([sample.tokens for sample in answer.samples], came) for answer in answers]
            for end in sorted(ends):
                time.sleep(max(0.0, end - time.monotonic()))
                self.progress += 1
        return answers

    def _answer(self, request: Request, settings: SamplingSettings) -> Answered:
        spoiled = fail_answering(self._faults, request.problem.question)
        drawn_by = [str(settings.temperature)]
        drawn_by += [f"{name}={value}" for name, value in settings.identity().items() if name in WITHOUT_EFFECT]
        indices = range(request.sample_start, request.sample_start + request.n)
        samples = [self._sample(request.problem, i, ",".join(drawn_by)) for i in indices]
        samples = [replace(sample, tokens=min(sample.tokens, settings.max_new_tokens)) for sample in samples]
        if spoiled == "empty":
            samples = [Generated("", "stop", 0) for _ in samples]
        elif spoiled == "few":
            samples = samples[1:]
        elif spoiled == "endless":
            samples[0] = Generated("1+1=2\n" * 10**6, "length", 4 * 10**6)
        self.progress += 1
        return Answered(len(str(request.prompt).split()), tuple(samples))

    def swap(self, folder: Path | None) -> bool:
        fail_opening(*self._slow_loads)
        return True  # any model will do: it holds none

    def close(self) -> None:
        pass

    @staticmethod
    def _sample(problem: Problem, index: int, drawn_by: str) -> Generated:
        name = f"{problem.problem_id}:{index}:{drawn_by}"
        variant = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 8
        gold = problem.solution or f"The answer is {problem.answer}.\n#### {problem.answer}"
        text, reason = {
            0: (f"Let us see: 1+1 = <<1+1=2>>2.\n{gold}", "stop"),
            1: (f"Let us see: 2*1 = <<2*1=2>>2.\n{gold}", "stop"),
            2: (gold.rpartition("#### ")[0] + "#### 987654321", "stop"),
            3: (gold.rpartition("#### ")[0], "stop"),
            4: (f"1+1 = <<1+1=3>>3\n{gold}", "stop"),
            5: (gold[: len(gold) // 2], "length"),
        }.get(variant, (gold, "stop"))
        return Generated(text, reason, len(text.split()) + (reason == "stop"))
