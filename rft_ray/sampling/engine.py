"""The interface between sampling and whatever generates text.

`Engine.generate` blocks until its requests are answered and may be called from many threads at once: vLLM then batches
the requests of all callers continuously. An engine holds one model at a time and can take over another one (`swap`),
because starting a process, importing vLLM and opening an engine take far longer than reading weights. `VllmEngine` is
the real one; `OpenAIEngine` asks a model behind an endpoint; `ScriptedEngine` answers deterministically from the gold
solutions, so that everything around an engine can be tested in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rft_ray.data.prompts import Prompt
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem

LONGEST_TOKEN = 1024
"""Characters; tokens of the vocabularies in use are far shorter."""
OUT_OF_MEMORY = ("outofmemory", "freememoryondevice", "noavailablememory")
"""Parts of the messages of torch and vLLM about a lack of memory, in lower case and without spaces."""
BROKEN_OFF = frozenset({"abort", "aborted", "cancelled", "error", "insufficient_system_resource"})
"""Finish reasons, in lower case, of texts that neither the model nor the token limit ended: these are no samples.

Of vLLM, OpenRouter and DeepSeek.
"""
BY_OTHERS = ("errorinmemoryprofiling", "addressalreadyinuse")
"""The same of failed starts that another process caused: memory of the GPU that it gave back while this engine measured
how much it takes, or the port that it took first."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for n samples of one problem; the first has index `sample_start`."""

    problem: Problem
    prompt: Prompt
    sample_start: int
    n: int


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled text. finish_reason: `stop` or `length`; `tokens` excludes the prompt and includes EOS.

    Example: Generated("3+2=5\\n#### 5", "stop", 9)
    """

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that an endpoint counts, and charges for. Example: Usage(41, 9)"""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Answered:
    """An engine's answer to one request; `samples` is empty where the prompt exceeds the context.

    Example: Answered(41, (Generated("3+2=5\\n#### 5", "stop", 9),))
    """

    prompt_tokens: int
    samples: tuple[Generated, ...]
    usage: Usage | None = None
    """What an endpoint charges for the answer; None for an engine of this run's own."""


class EngineDied(RuntimeError):
    """The engine cannot answer any more, or its answers cannot be trusted; its process must be replaced."""


class Misbehaved(EngineDied):
    """The engine failed on these requests, or gave impossible answers to them."""


class Unavailable(RuntimeError):
    """The model cannot be sampled now, and its engine works: a refused key, a used-up budget, an endpoint out of reach.

    The message says why, in one line.
    """


class Engine(Protocol):
    """Generates samples of one model at a time."""

    seed: int
    """The seed of its randomness, recorded with every shard."""

    @property
    def progress(self) -> int:
        """A number that grows while the engine works; where it stays the same although there are requests, it hangs.

        Not requests answered alone: several long samples may take longer than any bound on a hang.
        """
        ...

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        """Returns answers in the order of the requests.

        Raises EngineDied when the engine cannot be used any more, and Unavailable when its model cannot be sampled.
        """
        ...

    def swap(self, folder: Path | None) -> bool:
        """Take over another model without a new seed; called while no thread generates.

        Returns False where that model needs an engine of its own. After an error this engine may only be closed.
        """
        ...

    def close(self) -> None:
        """Release everything that the engine holds; called last, while no thread generates."""
        ...


def engine_seed(run_seed: int, incarnation: str) -> int:
    """Seed of one engine, 0 <= seed < 2**31, from the run's seed and a name that no other engine has.

    So two engines of one run, or an engine and its successor, do not repeat each other's samples.
    """
    digest = hashlib.sha256(f"engine:{run_seed}:{incarnation}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def check_answers(requests: Sequence[Request], answers: Sequence[Answered], settings: SamplingSettings) -> None:
    """Raises Misbehaved on impossible answers: not n samples, one without a token, or one longer than max_new_tokens.

    The shortest possible sample is one token, EOS.
    """
    if len(answers) != len(requests):
        raise Misbehaved(f"the engine gave {len(answers)} answers to {len(requests)} requests")
    for request, answer in zip(requests, answers, strict=True):
        prefix = f"for problem {request.problem.problem_id} the engine gave "
        if answer.samples and len(answer.samples) != request.n:
            raise Misbehaved(f"{prefix}{len(answer.samples)} samples instead of {request.n}")
        for sample in answer.samples:
            if sample.tokens == 0:
                raise Misbehaved(f"{prefix}an empty sample, without a single token")
            most = settings.max_new_tokens
            if sample.tokens > most or len(sample.text) > most * LONGEST_TOKEN:
                raise Misbehaved(
                    f"{prefix}an endless sample: {sample.tokens} tokens, {len(sample.text)} characters, where "
                    f"max_new_tokens is {most}"
                )


def out_of_memory(error: BaseException) -> bool:
    """Whether an engine failed for lack of memory; another process may have enough."""
    return isinstance(error, MemoryError) or _says(error, OUT_OF_MEMORY)


def may_start_later(error: BaseException) -> bool:
    """Whether an engine that did not start may start in another process at the same place."""
    return out_of_memory(error) or _says(error, BY_OTHERS)


def _says(error: BaseException, parts: Sequence[str]) -> bool:
    message = f"{type(error).__name__} {error}".lower().replace(" ", "")
    return any(part in message for part in parts)
