"""The fields of requests over HTTP: their bounds, null, and fields without effect, by one rule on each route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from serve import ray_private
from tests.serve.scripted_service import QUESTION, SMALLEST, Running, asked, chat, events, two_models

MAX_TOKENS = ("max_tokens", "max_completion_tokens")
OUT_OF_BOUNDS = ("-5", "-5.0", "-1" + "0" * 400, "-1000000000000", "1025", "1" + "0" * 400, "0", " -5 ", -5.0, 1025.0)
"""Numbers that the engine's lax types read from a text or a decimal number, too."""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from two_models()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat(n=65), "n"),
        ("/v1/chat/completions", chat(n=-64), "n"),  # a negative number would free capacity
        ("/v1/chat/completions", chat(n=0), "n"),
        ("/v1/chat/completions", chat(messages=None), "messages"),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": "\ud800"}]), "messages.0.content"),
        ("/v1/chat/completions", chat(stream_options={"include_usage": True}), "stream_options"),
        ("/v1/chat/completions", chat(max_tokens=5000), "max_tokens"),
        ("/v1/chat/completions", chat(max_completion_tokens=5000), "max_completion_tokens"),
        ("/v1/chat/completions", chat(stop=["a"] * 5), "stop"),
        ("/v1/chat/completions", chat(stop="a" * 201), "stop"),
        ("/v1/chat/completions", chat(seed=1), "seed"),
        ("/v1/chat/completions", chat(logit_bias={str(i): 1 for i in range(301)}), "logit_bias"),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs=-1), "top_logprobs"),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs=20, n=32, max_tokens=256), "top_logprobs"),
        ("/v1/completions", {"model": "tiny-rft", "prompt": "a", "logprobs": -1}, "logprobs"),
        (
            "/v1/completions",
            {"model": "tiny-rft", "prompt": "a", "logprobs": 20, "n": 32, "max_tokens": 256},
            "logprobs",
        ),
        ("/v1/completions", {"model": "tiny-rft", "prompt": "a" * 2000, "echo": True, "n": 64}, "n"),
        ("/v1/chat/completions", chat(chat_template="{{ 1 }}"), "chat_template"),
        ("/v1/chat/completions", chat(structured_outputs={"regex": "(a+)+"}), "structured_outputs"),
        ("/v1/chat/completions", chat(use_beam_search=True), "use_beam_search"),
        ("/v1/chat/completions", chat(colour="red"), "colour"),
        ("/v1/chat/completions", chat(response_format={"type": "json_object"}), "response_format"),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": "a"}] * 65), "messages"),
        (
            "/v1/chat/completions",
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/"}}]}]),
            "messages.0.content",
        ),
        ("/v1/completions", {"model": "tiny-rft", "prompt": ["a"] * 65}, "prompt"),
        ("/v1/completions", {"model": "tiny-rft", "prompt": "a", "logprobs": 21}, "logprobs"),
        ("/v1/completions", {"model": "tiny-rft", "prompt": "a", "use_beam_search": True}, "use_beam_search"),
        ("/v1/chat/completions", chat(max_tokens=0), "max_tokens"),
        ("/v1/chat/completions", chat(max_tokens=-5), "max_tokens"),
        ("/v1/chat/completions", chat(temperature=0, seed="one"), "seed"),
        ("/v1/chat/completions", chat(stop={"a": 1}), "stop"),
        ("/v1/chat/completions", chat(logit_bias={"a": "b"}), "logit_bias"),
        ("/v1/completions", {"model": "tiny-rft", "prompt": "a", "stop": ["a"] * 5}, "stop"),
        ("/v1/completions", {"model": "tiny-rft", "prompt": "a", "max_tokens": -1, "echo": True}, "max_tokens"),
        *(("/v1/chat/completions", chat(**{name: value}), name) for name in MAX_TOKENS for value in OUT_OF_BOUNDS),
        *(("/v1/completions", {"prompt": "a", "max_tokens": value}, "max_tokens") for value in OUT_OF_BOUNDS),
        ("/v1/completions", {"prompt": "a", "max_tokens": "-1", "echo": "true"}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": "9" * 5000}, "max_tokens"),
        ("/v1/chat/completions", chat(n="65"), "n"),
        ("/v1/chat/completions", chat(n="-1000000000000"), "n"),
        ("/v1/chat/completions", chat(top_k="1" + "0" * 30), "top_k"),
        ("/v1/chat/completions", chat(top_k=10**30), "top_k"),
        ("/v1/chat/completions", chat(top_k="-2"), "top_k"),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs="21"), "top_logprobs"),
        ("/v1/completions", {"prompt": "a", "logprobs": "21"}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "best_of": "65"}, "best_of"),
        ("/v1/completions", {"prompt": "a", "min_tokens": "5000"}, "min_tokens"),
        ("/solve", asked(k="65"), "k"),
        ("/solve", asked(max_tokens="-5"), "max_tokens"),
        ("/solve", asked(seed=1), "seed"),
        ("/solve", asked(temperature=0), "temperature"),
        ("/solve", asked(stream="yes please"), "stream"),
        ("/solve", asked(model="other"), "model"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_fields_name(
    running: Running, path: str, body: Any, param: str
) -> None:
    with running.client as client:
        answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert (error["param"].removesuffix(".str"), error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("value", [5, "5", 5.0, "5.0"])
def test_max_tokens_within_bounds_are_accepted_in_any_form(running: Running, value: Any) -> None:
    with running.client as client:
        answer = client.post("/v1/chat/completions", json=chat(max_tokens=value))
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 5
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": "0", "echo": True}).status_code == 200


def test_text_parts_and_supported_fields_are_accepted(running: Running) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    earlier = {"role": "assistant", "content": "8", "refusal": None, "tool_calls": None, "annotations": []}
    plain = {"stop": ["\n\n"], "user": "me", "metadata": {"a": "b"}, "response_format": {"type": "text"}, "tools": None}
    with running.client as client:
        assert (
            client.post("/v1/chat/completions", json=chat(messages=[message, earlier, message], **plain)).status_code
            == 200
        )


@pytest.mark.parametrize("path", SMALLEST)
def test_null_is_absent_in_each_field_of_each_route(running: Running, path: str) -> None:
    schema = {"/solve": "SolveRequest", "/v1/chat/completions": "ChatRequest", "/v1/completions": "TextRequest"}[path]
    fields = running.app.openapi()["components"]["schemas"][schema]["properties"]
    with running.client as client:
        for name in set(fields) - set(SMALLEST[path]):
            answer = client.post(path, json=SMALLEST[path] | {name: None})
            assert answer.status_code == 200, (name, answer.text)
        for name in set(SMALLEST[path]) - {"k"}:
            assert client.post(path, json=SMALLEST[path] | {name: None}).json()["error"]["param"] == name


@pytest.mark.parametrize("path", SMALLEST)
def test_fields_without_effect_are_accepted_on_each_route(running: Running, path: str) -> None:
    ignored = {"user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k"}
    with running.client as client:
        answer = client.post(path, json=SMALLEST[path] | ignored | {"seed": 7, "temperature": 0})
        assert answer.status_code == 200, answer.text
    document = running.app.openapi()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = running.app.openapi()["components"]["schemas"][document["$ref"].rpartition("/")[2]]
    assert set(ignored) <= set(schema["properties"])


def test_the_seed_of_an_echo_has_no_effect(running: Running) -> None:
    with running.client as client:
        body = {"prompt": "a", "echo": True, "max_tokens": 0, "seed": 7}
        assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("path", SMALLEST)
def test_max_tokens_beyond_the_servers_limit_are_lowered_on_each_route(running: Running, path: str) -> None:
    """256 here; the bound of the schema is 1,024."""
    with running.client as client:
        assert client.post(path, json=SMALLEST[path] | {"max_tokens": 1024}).status_code == 200
        refused = client.post(path, json=SMALLEST[path] | {"max_tokens": 1025})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
        streamed = client.post("/solve", json=asked(k=1, max_tokens=1024, stream=True))
    assert events(streamed)[0][1]["max_tokens"] == 256


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("This model's maximum context length is 9 tokens.", None, "context_length_exceeded"),
        ("Input length (9) exceeds model's maximum context length (8).", None, "context_length_exceeded"),
        ("n must be 1 when using greedy sampling, got 2.", "n", "invalid_request"),
        ("The decoder prompt cannot be empty", None, "invalid_request"),
        ("stop cannot contain an empty string.", "stop", "invalid_request"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_error_of_the_engine_names_its_field_and_a_long_prompt_has_its_code(
    running: Running, monkeypatch: pytest.MonkeyPatch, path: str, message: str, param: str | None, code: str
) -> None:
    async def refuse(*_: Any) -> Any:
        raise ray_private.openai_http_exception()(status_code=400, message=message, type="BadRequestError")
        yield

    for method in ("chat", "completions"):
        monkeypatch.setattr(running.engines["tiny-sft"], method, refuse)
    with running.client as client:
        answer = client.post(path, json=SMALLEST[path])
    error = answer.json()["error"]
    prompt = next(iter(SMALLEST[path]))
    assert (answer.status_code, error["param"], error["code"]) == (400, param or prompt, code)
