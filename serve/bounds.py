"""What an OpenAI request may ask for, checked before any engine sees it, and how much may be under way at once.

The engine's own request type has some ninety fields, among them templates and grammars that the server would run for
the client; this service takes those of a text model and refuses the rest by name. Prompt length is the engine's to
check: it alone has the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serve import schemas
from serve.errors import Refusal

_SAMPLING = {
    "model", "n", "stop", "temperature", "top_p", "top_k", "min_p", "max_tokens", "logprobs", "seed", "stream",
    "stream_options", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "user",
}  # fmt: skip
CHAT_FIELDS = frozenset(
    _SAMPLING | {"messages", "max_completion_tokens", "top_logprobs", "metadata", "store", "response_format"}
)
COMPLETION_FIELDS = frozenset(_SAMPLING | {"prompt", "echo", "suffix"})
MAX_STOPS, MAX_STOP_CHARS = 16, 200
MAX_LOGPROBS = 20
MAX_BIASES = 300
MAX_MESSAGES = 64
RETRY_AFTER_S = 2


def check_chat(body: Any) -> None:
    """Raise Refusal unless a chat request asks for text within the bounds."""
    _check_fields(body, CHAT_FIELDS)
    _check_sampling(body, prompts=1)
    if len(body.messages) > MAX_MESSAGES:
        raise Refusal(400, f"at most {MAX_MESSAGES} messages", param="messages")
    for number, message in enumerate(body.messages):
        content = message.get("content")
        parts = [] if content is None or isinstance(content, str) else [dict(part) for part in content]
        if parts:
            message["content"] = parts  # what was an iterator can be read once
        if any(part.get("type") != "text" for part in parts):
            raise Refusal(400, "the models read text only", param=f"messages.{number}.content")
    kind = getattr(body.response_format, "type", "text") if body.response_format else "text"
    if kind != "text":
        raise Refusal(400, f"response_format {kind} is not supported", param="response_format")


def check_completion(body: Any) -> None:
    """Raise Refusal unless a completion request is within the bounds."""
    _check_fields(body, COMPLETION_FIELDS)
    many = isinstance(body.prompt, list) and bool(body.prompt) and not isinstance(body.prompt[0], int)
    _check_sampling(body, prompts=len(body.prompt) if many else 1)
    if (body.logprobs or 0) > MAX_LOGPROBS:
        raise Refusal(400, f"logprobs: at most {MAX_LOGPROBS}", param="logprobs")


def _check_fields(body: Any, known: frozenset[str]) -> None:
    given = {name: getattr(body, name, None) for name in body.model_fields_set} | dict(body.model_extra or {})
    unknown = sorted(name for name, value in given.items() if name not in known and value not in (None, [], {}, False))
    if unknown:
        name = unknown[0].encode("ascii", "replace").decode()[:64]
        raise Refusal(400, f"{name} is not supported", param=name, code="unsupported_field")


def _check_sampling(body: Any, *, prompts: int) -> None:
    if (body.n or 1) * prompts > schemas.MAX_PATHS:
        raise Refusal(400, f"n times the number of prompts must be at most {schemas.MAX_PATHS}", param="n")
    for name in ("max_tokens", "max_completion_tokens"):
        if (getattr(body, name, None) or 0) > schemas.MAX_TOKENS:
            raise Refusal(400, f"{name} must be at most {schemas.MAX_TOKENS}", param=name)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
        raise Refusal(400, f"stop: at most {MAX_STOPS} strings of {MAX_STOP_CHARS} characters", param="stop")
    if len(body.logit_bias or {}) > MAX_BIASES:
        raise Refusal(400, f"logit_bias: at most {MAX_BIASES} tokens", param="logit_bias")
    if (getattr(body, "top_logprobs", None) or 0) > MAX_LOGPROBS:
        raise Refusal(400, f"top_logprobs: at most {MAX_LOGPROBS}", param="top_logprobs")


class Admission:
    """How many paths are under way with each model's engines; more are refused at once instead of queueing.

    Example: Admission({"tiny-m-rft": 512})
    """

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self._capacity = dict(capacity)
        self.under_way = dict.fromkeys(capacity, 0)

    @contextmanager
    def admitted(self, model: str, paths: int) -> Iterator[None]:
        """Hold room for some paths. Raises Refusal (429, with Retry-After) where there is none."""
        if self.under_way[model] and self.under_way[model] + paths > self._capacity[model]:
            message = f"{model} is working on {self.under_way[model]} paths already: try again"
            raise Refusal(429, message, code="overloaded", headers={"Retry-After": str(RETRY_AFTER_S)})
        self.under_way[model] += paths
        try:
            yield
        finally:
            self.under_way[model] -= paths
