"""A deployment without a model, behind the real ingress: scripted samples at a steady pace, deterministic in question.

    python -m serve.scripted [--port 8010] [--token-s 0.02]

serves the page and `/solve` in this process, without Ray, to work on them and to test them in seconds. It answers
`/solve` and OpenAI requests that are not streamed; it adds up the numbers of the question, whatever the question asks.
`deployed` is the same through Ray Serve, for benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from serve import schemas, solving
from serve.auth import Keys
from serve.schemas import Event, SolveRequest
from serve.solving import Piece, Pieces

if TYPE_CHECKING:
    from ray.serve import Application

Script = Callable[[str, int], tuple[str, str]]
"""(question, sample index) -> (text, finish_reason)."""
MAX_TOKENS = 256


def arithmetic(question: str, index: int) -> tuple[str, str]:
    """Adds up the question's numbers: mostly right, in several orders; sometimes wrong, silent, torn or cut."""
    dice = random.Random(f"{question}:{index}")
    numbers = [int(number) for number in re.findall(r"\d{1,6}", question)][:5] or [2, 3]
    numbers = [*numbers, 1][: max(2, len(numbers))]
    dice.shuffle(numbers)
    total, lines, turn = numbers[0], [], dice.random()
    for step, number in enumerate(numbers[1:]):
        result = total + number + (turn < 0.2 and step == 0)
        lines.append(f"Adding {number} to {total} gives {total}+{number} = <<{total}+{number}={result}>>{result}.")
        total = result
    if turn > 0.93:
        return "\n".join(lines), "stop"
    if turn > 0.88:
        return "\n".join(lines) + f"\n#### {total}\nNo, wait.\n#### {total + 2}", "stop"
    if turn > 0.82:
        return lines[0][: len(lines[0]) * 2 // 3], "length"
    return "\n".join([*lines, f"#### {total if turn > 0.1 else total - 1}"]), "stop"


class ScriptedServer:
    """Answers what `serve.engine.ModelServer` answers. `running`: samples that are being made now."""

    def __init__(self, model: str, script: Script = arithmetic, token_s: float = 0.0) -> None:
        self.model, self.script, self.token_s = model, script, token_s
        self.running = 0

    async def solve(self, asked: SolveRequest) -> AsyncGenerator[Event, None]:
        """The events of one question."""
        limit = min(MAX_TOKENS, asked.max_tokens or MAX_TOKENS)
        async with aclosing(solving.events(self._pieces(asked, limit), asked, self.model, limit)) as events:
            async for event in events:
                yield event

    async def _pieces(self, asked: SolveRequest, limit: int) -> Pieces:
        """All samples together, a word each at a time, some slower than others."""
        left = {index: self._words(asked.question, index, limit) for index in range(asked.k)}
        self.running += len(left)
        turn = 0
        try:
            while left:
                await asyncio.sleep(self.token_s)
                turn += 1
                ready = [index for index in left if turn % (2 + index % 3) or not self.token_s]
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
        """A chat completion that is not streamed."""
        from ray.serve.llm.openai_api_models import ChatCompletionResponse

        texts = await self._texts(str(body.messages[-1]["content"]), body.n or 1)
        said = [{"role": "assistant", "content": text} for text in texts]
        choices = [{"index": i, "message": one, "finish_reason": "stop"} for i, one in enumerate(said)]
        yield ChatCompletionResponse(created=int(time.time()), model=self.model, choices=choices, usage={})

    async def completions(self, body: Any, _: Any = None) -> AsyncGenerator[Any, None]:
        """A text completion that is not streamed."""
        from ray.serve.llm.openai_api_models import CompletionResponse

        texts = await self._texts(str(body.prompt), body.n or 1)
        choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)]
        yield CompletionResponse(created=int(time.time()), model=self.model, choices=choices, usage={})

    async def _texts(self, question: str, n: int) -> list[str]:
        """n whole samples, after the time that they take."""
        self.running += n
        try:
            texts = [self.script(question, index)[0] for index in range(n)]
            await asyncio.sleep(self.token_s * max(map(len, texts)) / 4)
            return texts
        finally:
            self.running -= n

    async def check_health(self) -> AsyncGenerator[None, None]:
        yield None


class LocalHandle:
    """A Serve handle's calls on an object of this process."""

    def __init__(self, server: Any, method: str = "") -> None:
        self._server, self._method = server, method

    def options(self, **_: Any) -> LocalHandle:
        return self

    def __getattr__(self, method: str) -> LocalHandle:
        return LocalHandle(self._server, method)

    def remote(self, *arguments: Any) -> LocalResponse:
        return LocalResponse(getattr(self._server, self._method)(*arguments))


class LocalResponse:
    """A Serve response generator of a call in this process."""

    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items

    def __aiter__(self) -> LocalResponse:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._items)

    def __await__(self) -> Any:
        return self.__anext__().__await__()

    def cancel(self) -> None:
        self._closing = asyncio.ensure_future(self._items.aclose())


def application(servers: Mapping[str, ScriptedServer], keys: Keys, *, capacity: int = 1_000) -> FastAPI:
    """The real application, with its routes, in front of scripted deployments."""
    from serve import ingress

    cards = [card(name) for name in servers]
    handles: Any = {name: LocalHandle(server) for name, server in servers.items()}
    answers = ingress.Ingress(handles, cards, seeds=False, capacity=capacity)
    app = ingress.fastapi_app(keys)
    for method, route in ingress.ENDPOINTS.items():
        add: Any = route
        add(app)(getattr(answers, method))
    return app


def card(name: str) -> schemas.ModelDetails:
    """A card for a model that was never trained."""
    return schemas.ModelDetails(
        id=name, created=0, run="scripted", stage=name.rpartition("-")[2], base="none", fingerprint="0" * 16
    )


class Deployed(ScriptedServer):
    """A scripted engine in a Serve replica, whose health Serve asks for itself."""

    async def check_health(self) -> None:  # type: ignore[override]
        return None


def deployed(token_s: float, capacity: int) -> Application:
    """The Serve application of one scripted model. Needs a running Ray."""
    from ray import serve

    from serve import ingress

    engine = serve.deployment(Deployed, name="scripted", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    models = {"scripted-rft": engine.bind("scripted-rft", token_s=token_s)}
    return ingress.deploy(models, [card("scripted-rft")], Keys(), seeds=False, capacity=capacity)


def main() -> None:
    """Serve two scripted models on loopback."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m serve.scripted", description="The service without a model.")
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--token-s", type=float, default=0.03, help="seconds between two words")
    options = parser.parse_args()
    slow = {name: ScriptedServer(name, token_s=options.token_s) for name in ("scripted-sft", "scripted-rft")}
    uvicorn.run(application(slow, Keys()), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
