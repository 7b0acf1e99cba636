"""The bounds of OpenAI requests, checked before they reach an engine.

vLLM's request types have some ninety fields, among them templates and grammars that the server would run for the
client. This service accepts the fields of a text model, and refuses any other by name. The engine itself checks the
length of a prompt, because only it has the tokenizer.
Source: vllm/entrypoints/openai/*/protocol.py (0.29), whose validators raise exceptions that pydantic does not catch.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError, model_validator

from serve.api import fields, schemas
from serve.api.errors import Refusal
from serve.llm import ChatCompletionRequest, CompletionRequest
from serve.vllm_private import VLLMClientError

_SAMPLING = {
    "model", "n", "stop", "temperature", "top_p", "top_k", "min_p", "max_tokens", "logprobs", "seed", "stream",
    "stream_options", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", *fields.NO_EFFECT,
}  # fmt: skip
CHAT_FIELDS = frozenset(_SAMPLING | {"messages", "max_completion_tokens", "top_logprobs", "response_format"})
COMPLETION_FIELDS = frozenset(_SAMPLING | {"prompt", "echo", "suffix"})
MAX_STOPS, MAX_STOP_CHARS = 4, 200
"""As many stop strings as vLLM accepts (VLLM_MAX_STOP_STRINGS)."""
MAX_LOGPROBS = 20
MAX_VALUES = schemas.MAX_PATHS * schemas.MAX_TOKENS
"""Most values of one answer: paths times tokens times (1 + log-probabilities of each token)."""
MAX_BIASES = 300
MAX_TOP_K = 2**31 - 1
"""More than any vocabulary has; a number beyond 64 bits cannot be sent to the engine."""
MAX_MESSAGES = 64
ROLES = ("system", "developer", "user", "assistant")


class ChatRequest(ChatCompletionRequest):  # type: ignore[misc]
    """The engine's chat request, with text only. Exceptions of the engine's validators become refusals."""

    @model_validator(mode="wrap")
    @classmethod
    def _bounded(cls, given: Any, read: Callable[[Any], Any]) -> Any:
        body = _parse(_known_fields(given, CHAT_FIELDS, _check_messages), read)
        _check_max_tokens(body, given)
        return body

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return _documented(handler.resolve_ref_schema(handler(core)), CHAT_FIELDS)


class TextRequest(CompletionRequest):  # type: ignore[misc]
    """The engine's completion request. Exceptions of the engine's validators become refusals."""

    @model_validator(mode="wrap")
    @classmethod
    def _bounded(cls, given: Any, read: Callable[[Any], Any]) -> Any:
        body = _parse(_known_fields(given, COMPLETION_FIELDS, _check_prompt), read)
        _check_max_tokens(body, given)
        return body

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return _documented(handler.resolve_ref_schema(handler(core)), COMPLETION_FIELDS)


def _documented(schema: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The engine's schema without the fields that this service refuses."""
    properties = {name: field for name, field in schema["properties"].items() if name in known}
    for name in ("max_tokens", "max_completion_tokens"):
        if name in properties:
            properties[name] = {**properties[name], "description": schemas.MAX_TOKENS_RULE}
    properties |= {name: {"description": fields.IGNORED} for name in fields.NO_EFFECT}
    return {**schema, "properties": properties}


def check_chat(body: ChatRequest) -> None:
    """Raises Refusal for a chat request beyond the bounds."""
    _check_sampling(body, prompts=1)
    if not 0 <= (body.top_logprobs or 0) <= MAX_LOGPROBS:
        raise Refusal(400, f"top_logprobs must be 0 to {MAX_LOGPROBS}", param="top_logprobs")


def check_completion(body: TextRequest) -> None:
    """Raises Refusal for a completion request beyond the bounds."""
    _check_sampling(body, prompts=prompts_of(body))
    if not 0 <= (body.logprobs or 0) <= MAX_LOGPROBS:
        raise Refusal(400, f"logprobs must be 0 to {MAX_LOGPROBS}", param="logprobs")


def prompts_of(body: TextRequest) -> int:
    """The number of prompts of a completion request: a text, or a list of token ids, is one prompt."""
    many = isinstance(body.prompt, list) and bool(body.prompt) and not isinstance(body.prompt[0], int)
    return len(body.prompt) if many else 1


def max_tokens_field(body: Any) -> str:
    """The field of a request that holds the most tokens of a path; chat's `max_tokens` was moved to the newer one."""
    return "max_completion_tokens" if "max_completion_tokens" in type(body).model_fields else "max_tokens"


def check_values(body: ChatRequest | TextRequest, paths: int, tokens: int) -> None:
    """Raises Refusal for a request whose answer may hold more than `MAX_VALUES`. `tokens`: most of one path."""
    if isinstance(body, TextRequest):
        field, logprobs = "logprobs", 0 if body.logprobs is None else 1 + body.logprobs
        tokens += _prompt_chars(body.prompt) if body.echo else 0
    else:
        field, logprobs = "top_logprobs", 1 + (body.top_logprobs or 0) if body.logprobs else 0
    values = paths * tokens * (1 + logprobs)
    if values > MAX_VALUES:
        message = f"the answer may have {values} values, and {MAX_VALUES} is the bound: paths ({paths}) times tokens "
        message += f"({tokens}) times 1 + log-probabilities of a token ({logprobs}); lower one of them"
        raise Refusal(400, message, param=field if logprobs else "n")


def _prompt_chars(prompt: Any) -> int:
    """Characters, or token ids, of the longest prompt: at least its tokens."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return max(len(part) for part in prompt)
    return len(prompt or "")


def _known_fields(given: Any, known: frozenset[str], check: Callable[[Mapping[str, Any]], None]) -> Any:
    """The known fields of a request. Raises Refusal where an unknown field has a value."""
    if not isinstance(given, dict):
        return given
    given = fields.without_idle_seed(fields.without_nulls(given))
    for name, value in given.items():
        if name not in known and value not in ([], {}, False):
            shown = str(name).encode("ascii", "replace").decode()[:64]
            raise Refusal(400, f"{shown} is not supported", param=shown, code="unsupported_field")
    check(given)
    if given.get("response_format", {"type": "text"}) != {"type": "text"}:
        raise Refusal(400, "response_format: only text is supported", param="response_format")
    dropped = {"response_format", *fields.NO_EFFECT}
    kept = {name: value for name, value in given.items() if name in known - dropped}
    if "max_completion_tokens" in known and "max_tokens" in kept:  # the older name of the same field
        kept.setdefault("max_completion_tokens", kept.pop("max_tokens"))
    return kept


def _check_max_tokens(body: Any, given: Any) -> None:
    """Raises Refusal where the parsed number is out of bounds. `given`: the request, which may hold it as a text."""
    name = max_tokens_field(body)
    asked, least = getattr(body, name), 0 if getattr(body, "echo", False) else 1
    if asked is not None and not least <= asked <= schemas.MAX_TOKENS:
        name = name if given.get(name) is not None else "max_tokens"
        raise Refusal(400, f"{name} must be {least} to {schemas.MAX_TOKENS}", param=name)


def _parse(given: Any, read: Callable[[Any], Any]) -> Any:
    """The parsed request. Raises Refusal for exceptions of the engine's validators."""
    try:
        return read(given)
    except ValidationError:
        raise
    except VLLMClientError as error:  # str(error) would repeat the value
        message = str(error.args[0])[:300] if error.args else "the request is not valid"
        parameter = getattr(error, "parameter", None)
        raise Refusal(400, message, param=parameter if parameter in given else _wrong_field(given, read)) from None
    except (TypeError, AttributeError, LookupError, ArithmeticError, ValueError):
        wrong = _wrong_field(given, read)
        message = f"{wrong or 'a field'} has a value of the wrong type"
        raise Refusal(400, message, param=wrong) from None


def _wrong_field(given: Any, read: Callable[[Any], Any]) -> str | None:
    """The field without which a request is valid; None where there is no single one."""
    for name in given if isinstance(given, dict) else ():
        try:
            read({other: value for other, value in given.items() if other != name})
        except Exception:
            continue
        return str(name)
    return None


def _check_messages(given: Mapping[str, Any]) -> None:
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages or len(messages) > MAX_MESSAGES:
        raise Refusal(400, f"messages must be a list of 1 to {MAX_MESSAGES}", param="messages")
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if not isinstance(message, dict) or any(message[name] for name in set(message) - {"role", "content", "name"}):
            raise Refusal(400, "a message has a role and a content", param=where)
        for name in set(message) - {
            "role",
            "content",
            "name",
        }:  # empty fields: the SDK dumps them with an earlier answer
            del message[name]
        if message.get("role") not in ROLES:
            raise Refusal(400, f"role must be one of {', '.join(ROLES)}", param=f"{where}.role")
        _check_content(message.get("content"), f"{where}.content")


def _check_content(content: Any, where: str) -> None:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Refusal(400, "the models accept text only", param=where)
        _check_text(part["text"], where)


def _check_prompt(given: Mapping[str, Any]) -> None:
    prompt = given.get("prompt")
    if prompt is None or prompt == []:
        raise Refusal(400, "prompt is missing", param="prompt", code="missing_field")
    for text in prompt if isinstance(prompt, list) else [prompt]:
        if isinstance(text, str):
            _check_text(text, "prompt")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(400, "the text has a lone surrogate, which is half of a character", param=where) from None


def _check_sampling(body: Any, *, prompts: int) -> None:
    if body.n is not None and body.n < 1:
        raise Refusal(400, "n must be at least 1", param="n")
    if (body.n or 1) * prompts > schemas.MAX_PATHS:
        wrong = "prompt" if prompts > schemas.MAX_PATHS else "n"
        message = f"n times the number of prompts must be at most {schemas.MAX_PATHS}"
        raise Refusal(400, message, param=wrong)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
        raise Refusal(400, f"stop: at most {MAX_STOPS} strings of {MAX_STOP_CHARS} characters", param="stop")
    if not -1 <= (body.top_k or 0) <= MAX_TOP_K:
        raise Refusal(400, f"top_k must be -1 to {MAX_TOP_K}", param="top_k")
    if len(body.logit_bias or {}) > MAX_BIASES:
        raise Refusal(400, f"logit_bias: at most {MAX_BIASES} tokens", param="logit_bias")
