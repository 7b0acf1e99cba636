"""One OpenAI-compatible chat endpoint: messages -> a checked reply, tried again while the endpoint is busy or failing.

In: messages and sampling settings. Out: texts, finish reasons and the tokens charged. What fails is of three kinds:
`Refused`, a request that the endpoint does not accept; Misbehaved, an answer that cannot be used; Unavailable, an
endpoint that accepts or answers nothing, or a key or model that it does not know. No message holds the key.

Source: https://platform.openai.com/docs/api-reference/chat; `reasoning_content`: vLLM and DeepSeek.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from pydantic import BaseModel, Field, ValidationError

from rft_ray import config
from rft_ray.data import prompts
from rft_ray.data.prompts import Chat
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling.engine import BROKEN_OFF, Misbehaved, Unavailable, Usage
from rft_ray.sampling.response_bounds import UNCOMPRESSED, TooLarge, bound_body

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""The waits between two tries, doubled each time, where the endpoint names none."""
UNREADABLE_TRIES = 3
"""Answers without a usable form, before the request counts as failed."""
BUSY = (408, 409, 425, 429)
"""Status codes, next to those from 500 on, after which a request is tried again."""
REMEDIES = {
    401: "the key is refused: set a valid one in the environment variable {key_env}",
    403: "the key may not use this model: use another key or model",
    404: "there is no such model or address: correct the name after openai: or endpoint.base_url (mostly …/v1)",
}
SHOWN_CHARS = 200
_MOST_TOKENS = 2**31 - 1
"""More tokens of one request are no count."""


class Refused(Exception):
    """The endpoint does not accept a request; the message is its own."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of the endpoint. Example: Reply((("3+2=5\\n#### 5", "stop"),), Usage(41, 9))"""

    choices: tuple[tuple[str, str], ...]
    """(text, `stop` or `length`) of each sample."""
    usage: Usage


class ChatEndpoint:
    """Asks one model of one endpoint, a bounded number of requests at once. Used from one event loop."""

    def __init__(self, model: str, endpoint: config.Endpoint) -> None:
        """Raises Unavailable where the environment variable of the key is not set."""
        import openai

        self._model, self._endpoint = model, endpoint
        self._key = key_of(endpoint)
        self.answers = 0
        """HTTP answers and failures so far; while it grows, the endpoint is not taken to hang."""
        self._accepted = False
        """Whether the endpoint has answered a request as asked."""
        self._answered_at = float("-inf")
        self._unavailable = ""
        self._limit = "max_tokens"
        """The name under which the endpoint takes the token limit; newer models of OpenAI's refuse the older name."""
        self._slots = asyncio.Semaphore(endpoint.max_concurrency)
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_seconds,
            max_retries=0,
            default_headers=UNCOMPRESSED,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [bound_body]}),
        )

    async def ask(self, prompt: Chat, n: int, settings: SamplingSettings) -> Reply:
        """n samples, or fewer where the endpoint ignores `n`. Raises Refused, Misbehaved and Unavailable."""
        import openai

        first_failure, wait, unreadable = 0.0, FIRST_WAIT_S, 0
        while True:
            if self._unavailable:
                raise Unavailable(self._unavailable)
            pause, only_busy = random.uniform(0.5, 1) * wait, False
            try:
                reply = _reply(await self._posted(prompt, n, settings))
            except _Unreadable as error:
                unreadable, reason = unreadable + 1, str(error)
                if unreadable == UNREADABLE_TRIES:
                    raise Misbehaved(f"{self._name}: {self._shown(reason)}") from None
            except openai.APIStatusError as error:
                self._check_status(error)
                only_busy, reason = error.status_code == 429, f"HTTP {error.status_code}: {error.message}"
                pause = max(pause, _retry_after_s(error.response.headers))
            except (openai.APITimeoutError, TimeoutError):
                reason = f"no answer within {self._endpoint.timeout_seconds:g} s"
            except TooLarge as error:
                self._fail(str(error))
            except openai.APIConnectionError as error:
                reason = f"no connection ({error.__cause__ or error})"
            else:
                self._accepted, self._answered_at = True, time.monotonic()
                return reply
            now, patience = time.monotonic(), self._endpoint.retry_seconds
            first_failure = first_failure or now
            if now + pause - first_failure > patience:
                lately = max(first_failure, now - max(patience, LONGEST_WAIT_S))
                self._end(reason, pause, others=self._answered_at > lately, only_busy=only_busy)
            await asyncio.sleep(min(pause, max(patience, LONGEST_WAIT_S)))
            wait = min(2 * wait, LONGEST_WAIT_S)

    def refuse(self, reason: str) -> NoReturn:
        """Note that the endpoint accepts or answers nothing: every other request raises Unavailable too."""
        self._unavailable = self._unavailable or f"{self._name}: {self._shown(reason)}"
        raise Unavailable(self._unavailable)

    def refused(self, refusal: Refused) -> NoReturn:
        """Raise what a refusal means: see `_fail`."""
        self._fail(str(refusal), ": correct the sampling settings or the endpoint")

    def _fail(self, reason: str, remedy: str = "") -> NoReturn:
        """Raise Unavailable, with the remedy, where the endpoint has accepted no request yet, else Misbehaved."""
        if not self._accepted:
            self.refuse(f"{reason}{remedy}")
        raise Misbehaved(f"{self._name}: {self._shown(reason)}")

    async def close(self) -> None:
        await self._client.close()

    @property
    def _name(self) -> str:
        return f"{self._model} at {self._endpoint.base_url.partition('?')[0]}"

    async def _posted(self, prompt: Chat, n: int, settings: SamplingSettings) -> bytes:
        """The body of the endpoint's answer with status 200. Raises the SDK's errors and TooLarge."""
        import openai

        options: dict[str, Any] = {self._limit: settings.max_new_tokens, "temperature": settings.temperature}
        if n > 1:
            options["n"] = n
        if settings.top_p < 1:
            options["top_p"] = settings.top_p
        if stops := prompts.stop_strings(settings.prompt, settings.shots):
            options["stop"] = list(stops)
        if extra := _beyond_openai(settings) | ({"chat_template_kwargs": dict(prompt.kwargs)} if prompt.kwargs else {}):
            options["extra_body"] = extra
        asked: Any = prompt.as_data()
        async with self._slots:
            try:
                # the client's own timeout begins anew with each byte that comes
                async with asyncio.timeout(self._endpoint.timeout_seconds):
                    raw = await self._client.chat.completions.with_raw_response.create(
                        model=self._model, messages=asked, **options
                    )
            except openai.APIConnectionError as error:
                if isinstance(error.__cause__, TooLarge):
                    raise error.__cause__ from None
                raise
            finally:
                self.answers += 1
        return bytes(raw.content)

    def _check_status(self, error: Any) -> None:
        """Returns where the request is to be tried again. Raises Refused, and Unavailable where no try can succeed."""
        status, message = error.status_code, error.message
        if remedy := REMEDIES.get(status):
            self.refuse(f"HTTP {status}: " + remedy.format(key_env=self._endpoint.key_env or "that key_env names"))
        if error.code == "insufficient_quota":
            self.refuse(f"HTTP {status}: the account's quota is used up: raise it, or wait until it is renewed")
        if status in BUSY or status >= 500:
            return
        if self._limit == "max_tokens" and "max_completion_tokens" in message:
            self._limit = "max_completion_tokens"
            return
        raise Refused(f"HTTP {status}: {self._shown(message)}")

    def _end(self, reason: str, pause: float, *, others: bool, only_busy: bool) -> None:
        """Give a request up that failed for too long; returns where it is only to wait longer.

        `others`: whether the endpoint has answered other requests lately, since this one failed first.
        """
        if others and only_busy:
            return
        if others:
            raise Misbehaved(f"{self._name}: {self._shown(reason)}")
        asks = f", which asks to wait {pause:.0f} s" if pause > LONGEST_WAIT_S else ""
        bound = f"endpoint.retry_seconds={self._endpoint.retry_seconds:g}"
        correct = "" if self._accepted else "correct endpoint.base_url, or "
        todo = f"{correct}run the same command when it answers"
        self.refuse(f"{self._shown(reason)}{asks}, for longer than {bound}: {todo}")

    def _shown(self, text: str) -> str:
        """A text of the endpoint's in one line, cut, and without the key."""
        line = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return line if len(line) <= 2 * SHOWN_CHARS else f"{line[: 2 * SHOWN_CHARS]}…"


def _beyond_openai(settings: SamplingSettings) -> dict[str, Any]:
    """The fields of a request that OpenAI's API has not; a config gives them to an endpoint with `server: vllm` only.

    They are the settings that have an effect, under the names of vLLM's fields.
    """
    names = ("top_k", "min_p", "repetition_penalty")
    return {name: value for name, value in settings.identity().items() if name in names}


def key_of(endpoint: config.Endpoint) -> str:
    """The API key from the environment; empty where the endpoint has none. Raises Unavailable where it is not set."""
    if endpoint.key_env is None:
        return ""
    if key := os.environ.get(endpoint.key_env, "").strip():
        return key
    raise Unavailable(
        f"the environment variable {endpoint.key_env} is not set where the samplers run: put the key for "
        f"{endpoint.base_url} into it, or set endpoint.key_env: null for an endpoint without a key"
    )


# --- Replies --------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """An answer with status 200 that is no chat completion, or that something broke off."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None


class _Choice(BaseModel):
    index: int = 0
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0, le=_MOST_TOKENS)
    completion_tokens: int = Field(ge=0, le=_MOST_TOKENS)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage


def _reply(body: bytes) -> Reply:
    """The reply in the body of an answer.

    Raises _Unreadable where it is no JSON, lacks texts or usage, or a sample was broken off.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        start = body[:60].decode("utf-8", "replace")
        raise _Unreadable(f"the answer is no chat completion ({where}: {problem['msg']}): {start!r}") from None
    choices = sorted(completion.choices, key=lambda choice: choice.index)
    reasons = [(choice.finish_reason or "").lower() for choice in choices]
    if broken := next((reason for reason in reasons if reason in BROKEN_OFF), ""):
        raise _Unreadable(f"a sample was broken off (finish_reason {broken})")
    usage = Usage(completion.usage.prompt_tokens, completion.usage.completion_tokens)
    return Reply(tuple(map(_text_and_reason, choices)), usage)


def _text_and_reason(choice: _Choice) -> tuple[str, str]:
    """A sample's text, its reasoning in front, and `stop` or `length`; what a filter cut off counts as `length`."""
    message = choice.message
    reasoning = message.reasoning_content or (message.reasoning if isinstance(message.reasoning, str) else "")
    text = message.content if message.content is not None else message.refusal or ""
    thought = f"<think>{reasoning}</think>" if reasoning else ""
    return thought + text, "length" if choice.finish_reason in ("length", "content_filter") else "stop"


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """The seconds that a Retry-After header asks for, a number or a date; 0 where there is none that can be read."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
