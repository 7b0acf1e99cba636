"""The one seam between sampling and whatever generates text.

`Engine.generate` blocks until its requests are answered and may be called from many threads at once: vLLM
then batches the requests of all callers continuously. An engine holds one model at a time and can go over to
another one (`swap`, `close`), because starting a process, importing vLLM and opening an engine take far longer than
reading weights. `VllmEngine` is the real one; `ScriptedEngine` answers from the gold solutions, deterministically, so
that everything around an engine can be tested in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rft_ray.plan.jobs import SamplingSettings
from rft_ray.records import Problem

LONGEST_TOKEN = 1024
"""Characters; no vocabulary in use comes near it."""
MEMORY_SIGNS = ("outofmemory", "freememoryondevice", "noavailablememory")
"""What torch and vLLM say when memory is short, without spaces."""


@dataclass(frozen=True, slots=True)
class Request:
    """n samples of one problem, the first of which has index `sample_start`."""

    problem: Problem
    prompt: str
    sample_start: int
    n: int


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled text. finish_reason: `stop` or `length`; token counts exclude the prompt, include EOS."""

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What an engine returns for one request; `samples` is empty where the prompt exceeds the context."""

    prompt_tokens: int
    samples: tuple[Generated, ...]


class EngineDied(RuntimeError):
    """The engine can answer no more, or not be trusted any more; its process must be replaced."""


class Misbehaved(EngineDied):
    """The engine failed on the very requests that it was given, or answered what cannot be an answer to them."""


class Engine(Protocol):
    """Generates samples. `seed` is what its randomness derives from, recorded with every shard."""

    seed: int
    answered: int
    """Requests answered so far: an engine that is at work and does not get on is taken to hang."""

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        """Answers in the order of the requests. Raises EngineDied when the engine is beyond use."""
        ...

    def swap(self, folder: Path | None) -> bool:
        """Go over to another model, its randomness going on; called while nobody generates.

        False: that model needs an engine of its own. After an error this engine may only be closed.
        """
        ...

    def close(self) -> None:
        """Give back all that the engine holds; called while nobody generates, and last."""
        ...


def engine_seed(run_seed: int, incarnation: str) -> int:
    """Seed of one engine, 0 <= seed < 2**31, from the run's seed and a name that no other engine has.

    Two engines of one run, or one engine restarted, must not repeat each other's samples.
    """
    digest = hashlib.sha256(f"engine:{run_seed}:{incarnation}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def check_answers(requests: Sequence[Request], answers: Sequence[Answered], settings: SamplingSettings) -> None:
    """Refuse what no sound engine says: other than n samples, one without a token, one beyond its bound.

    A sound engine's shortest answer is one token, its end. Raises Misbehaved.
    """
    if len(answers) != len(requests):
        raise Misbehaved(f"the engine gave {len(answers)} answers to {len(requests)} requests")
    for request, answer in zip(requests, answers, strict=True):
        said = f"of problem {request.problem.problem_id} the engine gave "
        if answer.samples and len(answer.samples) != request.n:
            raise Misbehaved(f"{said}{len(answer.samples)} samples instead of {request.n}")
        for sample in answer.samples:
            if sample.tokens == 0:
                raise Misbehaved(f"{said}an empty sample, without a single token")
            most = settings.max_new_tokens
            if sample.tokens > most or len(sample.text) > most * LONGEST_TOKEN:
                raise Misbehaved(
                    f"{said}an endless sample: {sample.tokens} tokens, {len(sample.text)} characters, where "
                    f"max_new_tokens is {most}"
                )


def out_of_memory(error: BaseException) -> bool:
    """Whether an engine failed for want of memory, which another process may find."""
    told = f"{type(error).__name__} {error}".lower().replace(" ", "")
    return isinstance(error, MemoryError) or any(sign in told for sign in MEMORY_SIGNS)
