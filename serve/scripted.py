"""A model server without a model, behind the real ingress: scripted samples at a steady rate, the same for a question.

    python -m serve.scripted [--port 8010] [--token-s 0.02]

serves the page, `/solve` and OpenAI's routes in this process, without Ray, for development and for tests that take
seconds. It adds up the numbers of the question, whatever the question is. `deployed` is the same through Ray Serve, for
benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from serve.access.api_keys import Keys
from serve.api import openai_bounds, schemas
from serve.api.schemas import Event, SolveRequest
from serve.llm import ChatCompletionResponse, CompletionResponse
from serve.replicas.local_handle import LocalHandle
from serve.solving.events import Piece, Pieces, solve_events

if TYPE_CHECKING:
    from ray.serve import Application


Script = Callable[[str, int], tuple[str, str]]
"""(question, sample index) -> (text, finish_reason)."""
MAX_TOKENS = 256


def arithmetic(question: str, index: int) -> tuple[str, str]:
    """A solution that adds up the question's numbers; some are wrong, truncated, undecided or have no answer."""
    rng = random.Random(f"{question}:{index}")
    numbers = [int(number) for number in re.findall(r"\d{1,6}", question)][:5] or [2, 3]
    numbers = [*numbers, 1][: max(2, len(numbers))]
    rng.shuffle(numbers)
    total, lines, draw = numbers[0], [], rng.random()
    for step, number in enumerate(numbers[1:]):
        result = total + number + (draw < 0.2 and step == 0)
        lines.append(f"Adding {number} to {total} gives {total}+{number} = <<{total}+{number}={result}>>{result}.")
        total = result
    if draw > 0.93:
        return "\n".join(lines), "stop"
    if draw > 0.88:
        return "\n".join(lines) + f"\n#### {total}\nNo, wait.\n#### {total + 2}", "stop"
    if draw > 0.82:
        return lines[0][: len(lines[0]) * 2 // 3], "length"
    return "\n".join([*lines, f"#### {total if draw > 0.1 else total - 1}"]), "stop"


class ScriptedServer:
    """The interface of `serve.replicas.model_server.ModelServer`. `running`: samples in progress."""

    def __init__(self, model: str, script: Script = arithmetic, token_s: float = 0.0) -> None:
        self.model, self.script, self.token_s = model, script, token_s
        self.running = 0

    async def solve(self, asked: SolveRequest) -> AsyncGenerator[Event, None]:
        """The events of one question."""
        limit = min(MAX_TOKENS, asked.max_tokens or MAX_TOKENS)
        async with aclosing(
            solve_events(self._pieces(asked.question, asked.k, limit), asked, self.model, limit)
        ) as events:
            async for event in events:
                yield event

    async def _pieces(self, question: str, k: int, limit: int) -> Pieces:
        """The pieces of all samples, one word at a time each, some slower than others."""
        left = {index: self._words(question, index, limit) for index in range(k)}
        self.running += len(left)
        step = 0
        try:
            while left:
                await asyncio.sleep(self.token_s)
                step += 1
                ready = [index for index in left if step % (2 + index % 3) or not self.token_s]
                batch = [self._next(index, *left[index]) for index in ready]
                for piece in batch:
                    if piece.finish_reason:
                        del left[piece.index]
                        self.running -= 1
                yield batch
        finally:
            self.running -= len(left)

    def _words(self, question: str, index: int, limit: int) -> tuple[list[str], str]:
        text, reason = self.script(question, index)
        words = re.findall(r"\S*\s*", text)[:-1] or [""]
        return (words[:limit], "length") if len(words) > limit else (words, reason)

    @staticmethod
    def _next(index: int, words: list[str], reason: str) -> Piece:
        word = words.pop(0)
        return Piece(index, word, 1, None if words else reason)

    async def chat(self, body: Any, _: Any = None) -> AsyncGenerator[Any, None]:
        """A chat completion."""
        question = str(body.messages[-1]["content"])
        if body.stream:
            async for event in self._streamed(body, question, "chat.completion.chunk", _chat_delta):
                yield event
            return
        texts, usage = await self._texts(question, body)
        messages = [({"role": "assistant", "content": text}, reason) for text, reason in texts]
        choices = [{"index": i, "message": one, "finish_reason": reason} for i, (one, reason) in enumerate(messages)]
        yield ChatCompletionResponse(created=int(time.time()), model=self.model, choices=choices, usage=usage)

    async def completions(self, body: Any, _: Any = None) -> AsyncGenerator[Any, None]:
        """A text completion."""
        if body.stream:
            async for event in self._streamed(body, str(body.prompt), "text_completion", _text_delta):
                yield event
            return
        texts, usage = await self._texts(str(body.prompt), body)
        choices = [{"index": i, "text": text, "finish_reason": reason} for i, (text, reason) in enumerate(texts)]
        yield CompletionResponse(created=int(time.time()), model=self.model, choices=choices, usage=usage)

    async def _texts(self, question: str, body: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
        """n whole samples with their finish reasons, and their usage, after the time that they take."""
        n = body.n or 1
        self.running += n
        try:
            made = [self._words(question, index, _limit(body)) for index in range(n)]
            await asyncio.sleep(self.token_s * max(len(words) for words, _ in made))
            usage = _usage(question, sum(len(words) for words, _ in made))
            return [("".join(words), reason) for words, reason in made], usage
        finally:
            self.running -= n

    async def _streamed(self, body: Any, question: str, kind: str, delta: _Delta) -> AsyncGenerator[str, None]:
        """OpenAI's events of n samples, one word each."""
        chunk = {"id": "scripted", "object": kind, "created": int(time.time()), "model": self.model}
        tokens = 0
        async with aclosing(self._pieces(question, body.n or 1, _limit(body))) as batches:
            async for batch in batches:
                tokens += len(batch)
                choices = [{"index": one.index, "finish_reason": one.finish_reason, **delta(one.text)} for one in batch]
                if choices:
                    yield _event(chunk | {"choices": choices})
        if body.stream_options is not None and body.stream_options.include_usage:
            yield _event(chunk | {"choices": [], "usage": _usage(question, tokens)})
        yield "data: [DONE]\n\n"

    async def check_health(self) -> None:
        return None


_Delta = Callable[[str], dict[str, Any]]


def _limit(body: Any) -> int:
    asked: int | None = getattr(body, openai_bounds.max_tokens_field(body))
    return min(MAX_TOKENS, asked or MAX_TOKENS)


def _chat_delta(text: str) -> dict[str, Any]:
    return {"delta": {"role": "assistant", "content": text}}


def _text_delta(text: str) -> dict[str, Any]:
    return {"text": text}


def _usage(question: str, tokens: int) -> dict[str, int]:
    asked = len(question.split())
    return {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"


def application(
    servers: Mapping[str, ScriptedServer], keys: Keys, *, capacity: int = 1_000, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """The real application with all its routes, in front of scripted servers."""
    from serve import ingress

    cards = [card(name) for name in servers]
    handles: Any = {name: LocalHandle(server) for name, server in servers.items()}
    answers = ingress.Ingress(handles, cards, gpu=False, capacity=capacity, max_tokens=MAX_TOKENS)
    app = ingress.fastapi_app(keys, cors_origins=cors_origins)
    for method, route in ingress.ENDPOINTS.items():
        add: Any = route
        add(app)(getattr(answers, method))
    return app


def card(name: str) -> schemas.ModelDetails:
    """The card of a scripted model."""
    return schemas.ModelDetails(
        id=name, created=0, run="scripted", stage=name.rpartition("-")[2], base="none", fingerprint="0" * 16
    )


def deployed(token_s: float, capacity: int) -> Application:
    """The Serve application of one scripted model. Needs a running Ray."""
    from ray import serve

    from serve import ingress

    engine = serve.deployment(ScriptedServer, name="scripted", **ingress.OPTIONS)
    models = {"scripted-rft": engine.bind("scripted-rft", token_s=token_s)}
    return ingress.deploy(models, [card("scripted-rft")], Keys(), gpu=False, capacity=capacity)


def main() -> None:
    """Serve two scripted models on loopback."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m serve.scripted", description="The service without a model.")
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--token-s", type=float, default=0.03, help="seconds between two words")
    options = parser.parse_args()
    slow = {
        name: ScriptedServer(name, token_s=options.token_s)
        for name in ("scripted-rft", "scripted-sft", "scripted-base")
    }
    uvicorn.run(application(slow, Keys()), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
