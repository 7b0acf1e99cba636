"""A model behind an OpenAI-compatible endpoint as an engine: n samples of a problem in one request where it takes `n`.

All requests of all callers are in one event loop, in a thread of this engine's. The answers of a shard that fails are
kept in memory until it is tried again, so that no token is paid for twice while the process lives.

Limits: an endpoint counts the tokens of all samples of a request together; the tokens of one sample are its share by
length. Nothing is seeded: an endpoint's samples cannot be drawn again.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

from rft_ray import config
from rft_ray.data.prompts import Chat, Message, Prompt
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling.chat_endpoint import ChatEndpoint, Refused, Reply
from rft_ray.sampling.engine import Answered, Generated, Request, Unavailable, Usage

TOO_LONG = ("context_length", "context length", "maximum context", "too long", "too many tokens")
"""Parts of the messages, in lower case, by which endpoints refuse a prompt that exceeds the context."""
_CONTEXT = re.compile(r"context length is (\d{1,9}) tokens")
T = TypeVar("T")


class OpenAIEngine:
    """One model of one endpoint.

    Example: OpenAIEngine("gpt-5", config.Endpoint(token_budget=10**6), spent=0, seed=7)
    """

    def __init__(self, model: str, endpoint: config.Endpoint, *, spent: int, seed: int) -> None:
        """`spent`: tokens that earlier samples of this run have used of the budget.

        Raises Unavailable where the key is not in the environment.
        """
        self.seed = seed
        self._endpoint = ChatEndpoint(model, endpoint)
        self._budget, self._spent = endpoint.token_budget, spent
        self._takes_n: bool | None = None
        """Whether the endpoint takes n; None before it has answered such a request."""
        self._kept: dict[tuple[SamplingSettings, str, int], Answered] = {}
        """Answers of shards that failed, by settings, prompt and first sample."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-requests", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> int:
        return self._endpoint.answers

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        if requests and self._budget is not None and self._spent >= self._budget:
            raise Unavailable(
                f"the token budget of {self._budget:,} is used up ({self._spent:,} tokens): raise "
                "endpoint.token_budget of the model, and run the same command again to go on"
            )
        answers = asyncio.run_coroutine_threadsafe(self._answer_all(requests, settings), self._loop).result()
        keys = [(settings, str(request.prompt), request.sample_start) for request in requests]
        if errors := [answer for answer in answers if isinstance(answer, BaseException)]:
            done = zip(keys, answers, strict=True)
            self._kept |= {key: answer for key, answer in done if isinstance(answer, Answered)}
            raise next((error for error in errors if isinstance(error, Unavailable)), errors[0])
        for key in keys:
            self._kept.pop(key, None)
        return [answer for answer in answers if isinstance(answer, Answered)]

    def swap(self, folder: Path | None) -> bool:
        return False  # another model has another endpoint

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._endpoint.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer_all(
        self, requests: Sequence[Request], settings: SamplingSettings
    ) -> list[Answered | BaseException]:
        return await asyncio.gather(*(self._answer(each, settings) for each in requests), return_exceptions=True)

    async def _answer(self, request: Request, settings: SamplingSettings) -> Answered:
        """The answer to one request; empty where its prompt alone exceeds the endpoint's context."""
        if kept := self._kept.get((settings, str(request.prompt), request.sample_start)):
            return kept
        try:
            replies = await self._in_context(chat_of(request.prompt), request.n, settings)
        except Refused as refusal:
            self._endpoint.refused(refusal)
        if not replies:
            return Answered(0, (), Usage())
        samples = [sample for reply in replies for sample in samples_of(reply, settings.max_new_tokens)]
        usage = reduce(add, (reply.usage for reply in replies))
        return Answered(replies[0].usage.prompt_tokens, tuple(samples[: request.n]), usage)

    async def _in_context(self, chat: Chat, n: int, settings: SamplingSettings) -> list[Reply]:
        """`_replies`, of as many tokens as the context leaves; none where the prompt alone exceeds it.

        Endpoints refuse a prompt that fits, but not with all new tokens after it, in the same words. A request for one
        token tells the two apart, and its reply, without a sample, comes first.
        """
        try:
            return await self._replies(chat, n, settings)
        except Refused as error:
            if not _too_long(error):
                raise
            refusal = error
        try:
            shortest = await self._ask(chat, 1, replace(settings, max_new_tokens=1))
        except Refused as error:
            if _too_long(error):
                return []
            raise refusal from None
        context = _CONTEXT.search(str(refusal))
        room = int(context[1]) - shortest.usage.prompt_tokens if context else 0
        if not 0 < room < settings.max_new_tokens:
            raise refusal
        return [Reply((), shortest.usage), *await self._replies(chat, n, replace(settings, max_new_tokens=room))]

    async def _replies(self, chat: Chat, n: int, settings: SamplingSettings) -> list[Reply]:
        """Replies with n samples together: one, or where the endpoint refuses or ignores `n`, one for each sample."""
        replies: list[Reply] = []
        if n > 1 and self._takes_n is not False:
            try:
                replies = [await self._ask(chat, n, settings)]
            except Refused:
                if self._takes_n:
                    raise
            else:
                self._takes_n = len(replies[0].choices) >= n
        if not replies:
            replies = [await self._ask(chat, 1, settings)]
            self._takes_n = self._takes_n if n == 1 else False
        missing = n - sum(len(reply.choices) for reply in replies)
        return replies + await _all([self._ask(chat, 1, settings) for _ in range(missing)])

    async def _ask(self, chat: Chat, n: int, settings: SamplingSettings) -> Reply:
        reply = await self._endpoint.ask(chat, n, settings)
        self._spent += reply.usage.tokens
        return reply


def _too_long(refusal: Refused) -> bool:
    return any(part in str(refusal).lower() for part in TOO_LONG)


async def _all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all coroutines, in order; of several errors, the first is raised once all have ended."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def chat_of(prompt: Prompt) -> Chat:
    """The chat of a prompt: its messages, or its text as one message of the user."""
    return prompt if isinstance(prompt, Chat) else Chat((Message("user", prompt),))


def samples_of(reply: Reply, most_tokens: int) -> list[Generated]:
    """The samples of a reply. The tokens charged are shared out by the lengths of the texts, 1 to `most_tokens` each.

    Example: of 30 tokens, a text of 20 characters gets 10 and one of 40 characters 20.
    """
    total = reply.usage.completion_tokens
    characters = sum(len(text) for text, _ in reply.choices)

    def share(text: str) -> int:
        part = total * len(text) / characters if characters else total / len(reply.choices)
        return min(max(round(part), 1), most_tokens)

    return [Generated(text, reason, share(text)) for text, reason in reply.choices]
