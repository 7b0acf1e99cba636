"""The real service through OpenAI's routes and SDK, and what it refuses: its prompts, fields, streams and limits."""

from __future__ import annotations

import functools
import json
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from rft_ray.data import prompts
from tests.serve.running import (
    BASE,
    END_TIMEOUT_S,
    KEY,
    LIMITED,
    MODEL,
    QUESTION,
    START_TIMEOUT_S,
    TEMPLATE,
    Service,
    chat,
)

LONG = "pens " * 1500

pytestmark = pytest.mark.timeout(START_TIMEOUT_S + END_TIMEOUT_S)


def test_paths_of_one_request_differ(service: Service) -> None:
    with service.client() as client:
        choices = client.post("/v1/chat/completions", json=chat(n=8, temperature=1.5)).json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) > 1


def test_solve_greedy_is_the_chat_completion(service: Service) -> None:
    with service.client() as client:
        solved = client.post("/solve", json={"question": QUESTION, "k": 1, "temperature": 0}).json()
        choice = client.post("/v1/chat/completions", json=chat(temperature=0, max_tokens=256)).json()["choices"][0]
    if solved["path"]:
        assert solved["path"]["text"] == choice["message"]["content"]
    else:
        assert solved["undecided"] + solved["no_answer"] + solved["truncated"] == 1


def test_chat_renders_the_prompt_of_training(service: Service) -> None:
    with service.client() as client:
        chatted = client.post("/v1/chat/completions", json=chat(temperature=0)).json()
        prompt = prompts.render(TEMPLATE, QUESTION)
        plain = client.post(
            "/v1/completions", json={"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 16}
        ).json()
    assert chatted["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
    assert chatted["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_the_openai_sdk_works(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, timeout=60, max_retries=0)
    assert [model.id for model in client.models.list()] == service.models
    messages: Any = chat()["messages"]
    whole = client.chat.completions.create(model=MODEL, messages=messages, n=2, max_tokens=16, temperature=0.7)
    assert len(whole.choices) == 2
    greedy = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=16, temperature=0)
    chunks = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=16, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == greedy.choices[0].message.content
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=messages)


def test_the_sdks_fields_have_their_documented_effect(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, timeout=60, max_retries=0)
    assert client.models.retrieve(MODEL).id == MODEL
    messages: Any = chat()["messages"]
    ask = functools.partial(client.chat.completions.create, model=MODEL, messages=messages, temperature=0)
    completion = ask(max_tokens=8, logprobs=True, top_logprobs=3)
    assert completion.usage is not None
    assert completion.usage.completion_tokens <= 8
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    scored = completion.choices[0].logprobs and completion.choices[0].logprobs.content
    assert scored
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in scored)
    text = completion.choices[0].message.content or ""
    stop = text[len(text) // 2]
    assert (ask(max_tokens=8, stop=[stop]).choices[0].message.content or "") == text.partition(stop)[0]
    plain = client.completions.create(model=MODEL, prompt="Question: 1+1?\nAnswer:", n=2, max_tokens=4, temperature=1)
    assert [choice.index for choice in plain.choices] == [0, 1]
    chunks = list(ask(max_tokens=8, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == completion.usage
    with pytest.raises(openai.BadRequestError) as refused:
        ask(max_tokens=5000)
    assert (refused.value.param, refused.value.type) == ("max_tokens", "invalid_request_error")
    assert refused.value.request_id
    with pytest.raises(openai.APITimeoutError):
        ask(max_tokens=256, n=1, timeout=0.001)


def test_chat_has_exactly_the_tokens_of_training(service: Service) -> None:
    """Each log-probability depends on all tokens before it, so equal ones mean equal tokens."""
    tokenizer = AutoTokenizer.from_pretrained(next(service.log.parent.glob("model")))
    ids = prompts.encode_prompt(tokenizer, prompts.render(TEMPLATE, QUESTION))
    with service.client() as client:
        chatted = client.post("/v1/chat/completions", json=chat(temperature=0, logprobs=True)).json()
        plain = client.post(
            "/v1/completions",
            json={"model": MODEL, "prompt": ids, "temperature": 0, "max_tokens": 16, "logprobs": 1},
        ).json()
    assert chatted["usage"]["prompt_tokens"] == len(ids)
    logprobs = [token["logprob"] for token in chatted["choices"][0]["logprobs"]["content"]]
    assert logprobs == pytest.approx(plain["choices"][0]["logprobs"]["token_logprobs"], abs=1e-4)


def test_the_base_model_has_the_prompt_of_the_trained_one(service: Service) -> None:
    """Both have the same weights here: their answers are the same, and their lineages differ."""
    if BASE not in service.models:
        with service.client() as client:
            assert client.post("/v1/chat/completions", json=chat(model=BASE)).status_code == 404
        return
    with service.client() as client:
        trained, base = (
            client.post("/v1/chat/completions", json=chat(model=name, temperature=0)).json() for name in (MODEL, BASE)
        )
        details = client.get(f"/v1/models/{BASE}").json()
    assert base["choices"][0]["message"]["content"] == trained["choices"][0]["message"]["content"]
    assert base["usage"] == trained["usage"]
    assert (details["stage"], details["fingerprint"], details["corpus"]) == ("base", "", None)


def test_a_keys_tokens_are_counted_and_limited(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=LIMITED, timeout=60, max_retries=0)
    messages: Any = chat()["messages"]
    ask = functools.partial(client.chat.completions.create, model=MODEL, messages=messages, max_tokens=60)
    chunks = list(ask(stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)  # counted, and not shown
    with pytest.raises(openai.RateLimitError) as refused:
        assert [ask(n=4) for _ in range(30)] == []
    assert refused.value.type == "tokens"
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_a_stream_ends_with_done(service: Service) -> None:
    body = {"model": MODEL, "prompt": "Question: 1+1?\nAnswer:", "max_tokens": 8, "stream": True}
    with service.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert all(json.loads(line)["object"] == "text_completion" for line in lines[:-1])


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/solve", {"k": 3}, 400, "question"),
        ("/solve", {"question": QUESTION, "k": 65}, 400, "k"),
        ("/solve", {"question": QUESTION, "colour": 1}, 400, "colour"),
        ("/solve", {"question": QUESTION, "model": "other"}, 404, "model"),
        ("/solve", {"question": "x" * (1 << 20)}, 413, None),
        ("/v1/chat/completions", chat(messages="hello"), 400, None),
        ("/v1/chat/completions", chat(model="other"), 404, "model"),
        ("/v1/chat/completions", chat(temperature=-1), 400, None),
        ("/v1/chat/completions", chat(n=100_000), 400, "n"),
        ("/v1/chat/completions", chat(seed=1), 400, "seed"),
        ("/v1/completions", {"model": MODEL, "prompt": ["a"] * 65}, 400, "prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": "a", "seed": 1}, 400, "seed"),
    ],
)
def test_bad_requests_are_refused_in_openais_shape(
    service: Service, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    with service.client() as client:
        answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/solve", {"question": LONG, "max_tokens": 1024}, "question"),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": LONG}]), "messages"),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": LONG}], stream=True), "messages"),
        ("/v1/completions", {"model": MODEL, "prompt": LONG}, "prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": [5] * 7000, "echo": True, "max_tokens": 1}, "prompt"),
    ],
)
def test_a_prompt_beyond_the_context_has_its_code_on_each_route(
    service: Service, path: str, body: dict[str, Any], param: str
) -> None:
    with service.client() as client:
        context = client.get("/v1/models").json()["data"][0]["max_model_len"]
        answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param), error
    assert str(context) in error["message"]


@pytest.mark.parametrize("path", ["/solve", "/v1/chat/completions", "/v1/completions"])
def test_max_tokens_are_lowered_to_the_room_in_the_context_on_each_route(service: Service, path: str) -> None:
    """1,024 is more than the run's own limit, and with the prompt more than the context has room for."""
    prompt = {"/solve": "question", "/v1/chat/completions": "messages", "/v1/completions": "prompt"}[path]
    value = [{"role": "user", "content": QUESTION}] if prompt == "messages" else QUESTION
    with service.client() as client:
        answer = client.post(path, json={"model": MODEL, prompt: value, "max_tokens": 1024})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"serve_multiplexed_model_id", b"other"),
        (b"x-session-id", b"\xff"),
        (b"x-request-timeout-seconds", b"0.001"),
        (b"x-request-timeout-seconds", b"\xff"),
        (b"x-request-disconnect-disabled", b"\xff"),
        (b"x-vllm-priority", b"9" * 30),
        (b"x-data-parallel-rank", b"5"),
        (b"traceparent", b"\xff"),
    ],
)
def test_no_header_of_a_client_steers_serve_or_the_engine(service: Service, name: bytes, value: bytes) -> None:
    headers: Any = [(name, value)]
    with service.client() as client:
        for path, body in (("/v1/chat/completions", chat()), ("/solve", {"question": QUESTION, "k": 2})):
            answer = client.post(path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
