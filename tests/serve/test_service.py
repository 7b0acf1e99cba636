"""The real service over HTTP, killed, and ended by a signal: with two models, and with one in one process."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import grpc
import openai
import pytest
from transformers import AutoTokenizer

from rft_ray.data import prompts
from tests.serve.running import (
    END_TIMEOUT_S,
    KEY,
    LIMITED,
    START_TIMEOUT_S,
    TEMPLATE,
    Service,
    listening,
    listening_beyond_loopback,
    processes,
    running,
    within,
)

EARLY_S = 15
"""Most seconds of an answer while the engines start and use all cores; the bounds of the service are 1 and 5 s."""
MODEL, BASE = "tiny-rft", "tiny-base"
QUESTION = "Tom has 3 pens. He buys 4 pens. How many pens does Tom have now?"
ROUTES = {
    "/healthz": "get",
    "/readyz": "get",
    "/metrics": "get",
    "/solve": "post",
    "/v1/models": "get",
    "/v1/models/{model}": "get",
    "/v1/chat/completions": "post",
    "/v1/completions": "post",
}

pytestmark = pytest.mark.timeout(START_TIMEOUT_S + END_TIMEOUT_S)


@pytest.fixture(scope="module", params=["compare", "rft"], ids=["two models", "single process"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two models behind Serve's proxy and an ingress, and one model in one process."""
    models = [MODEL, BASE] if request.param == "compare" else [MODEL]
    with running(tmp_path_factory.mktemp("service"), request.param, models) as started:
        yield started


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16} | changes


def test_health_needs_no_key_and_readiness_names_the_models_to_callers_with_one(service: Service) -> None:
    with service.client(None) as stranger, service.client() as client:
        assert stranger.get("/healthz").json() == {"status": "ok"}
        assert stranger.get("/readyz").json() == {"status": "ready"}
        assert client.get("/readyz").json() == {"status": "ready", "models": service.models}


def test_every_route_but_health_needs_a_valid_key(service: Service) -> None:
    with service.client() as client:
        listed = client.get("/openapi.json").json()["paths"]
        assert client.get("/docs").status_code == 200
    assert {path: next(iter(methods)) for path, methods in listed.items()} == ROUTES
    paths = [*ROUTES, "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/nothing", "/", "/v1/embeddings"]
    for key in (None, "wrong"):
        with service.client(key) as stranger:
            for path in set(paths) - {"/healthz", "/readyz"}:
                for method in ("GET", "POST", "OPTIONS"):
                    if path == "/" and method == "GET":  # the page: static files without any secret
                        continue
                    answer = stranger.request(method, path, headers={"Origin": "https://example.com"})
                    assert answer.status_code == 401, (method, path)
                    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_models_have_their_lineage(service: Service) -> None:
    with service.client() as client:
        listed = client.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == service.models
        details = client.get(f"/v1/models/{MODEL}").json()
        assert listed["data"][0].items() < details.items()
        assert (details["settings"], details["corpus"]) == ({"template": TEMPLATE}, None)
        assert listed["data"][0]["stage"] == "rft"
        assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_solve_accounts_for_every_path(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/solve", json={"question": QUESTION, "k": 12, "max_tokens": 60})
    solved = answer.json()
    assert answer.status_code == 200, solved
    silent = solved["undecided"] + solved["no_answer"] + solved["truncated"]
    assert sum(vote["count"] for vote in solved["votes"]) + silent == solved["came"]
    assert solved["came"] + solved["saved"]["paths"] == solved["k"] == 12
    assert solved["model"] == MODEL
    if solved["votes"]:
        assert solved["answer"] == solved["votes"][0]["answer"]
        assert solved["confidence"] == pytest.approx(solved["votes"][0]["count"] / solved["came"])
        assert solved["answer"] in solved["path"]["text"]
        assert solved["distinct_paths"] >= 1


def test_a_streamed_solve_has_the_events_of_each_path_and_ends_with_the_result(service: Service) -> None:
    body = {"question": QUESTION, "k": 6, "temperature": 1, "stream": True, "early_stop": False, "deltas": True}
    with service.client() as client, client.stream("POST", "/solve", json=body) as answer:
        events = [(e, json.loads(d)) for e, d in (block.split("\ndata: ") for block in blocks(answer.iter_text()))]
    kinds = [kind.removeprefix("event: ") for kind, _ in events]
    assert (kinds[0], kinds[-1]) == ("start", "result")
    assert kinds.count("path") == kinds.count("vote") == events[-1][1]["came"] == 6
    whole = {body["index"]: body["text"] for kind, body in events if kind == "event: path"}
    grown = dict.fromkeys(whole, "")
    for kind, body in events:
        if kind == "event: text":
            assert body["texts"].keys() <= {str(index) for index in grown}  # none of a path that has come
            for index, text in body["texts"].items():
                grown[int(index)] += text
        elif kind == "event: path":
            text = grown.pop(body["index"])
            assert whole[body["index"]].startswith(text)
    assert any(kind == "event: text" for kind, _ in events)


def blocks(texts: Iterator[str]) -> list[str]:
    return "".join(texts).strip().split("\n\n")


def test_a_disconnected_clients_samples_are_cancelled(service: Service) -> None:
    """64 paths of 256 tokens, disconnected after the first event, ten times: the engine is free at once."""
    chatted = chat(n=64, max_tokens=256, temperature=2, stream=True)
    body = {"question": QUESTION, "k": 64, "temperature": 2, "stream": True, "early_stop": False}
    with service.client() as client:
        began = time.monotonic()
        client.post("/solve", json=body | {"stream": False})
        whole_s = time.monotonic() - began
        for path, asked in (("/solve", body), ("/v1/chat/completions", chatted)) * 5:
            with client.stream("POST", path, json=asked) as answer:
                next(answer.iter_text())
        began = time.monotonic()
        client.post("/solve", json={"question": QUESTION, "k": 1, "max_tokens": 4})
        assert time.monotonic() - began < whole_s


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
        ("/solve", {"question": "pens " * 1500}, 400, None),
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


def test_the_engine_answers_after_bad_requests(service: Service) -> None:
    with service.client() as client:
        assert client.get("/readyz").status_code == 200


def test_it_listens_on_loopback_only_and_prints_where(service: Service) -> None:
    assert listening_beyond_loopback(processes(service.mark)) == set()
    log = service.log.read_text()
    printed = {int(port) for port in re.findall(r"^  \S+:(\d+) +\S", log, re.MULTILINE)}
    replicas = service.replicas_of("ingress") + service.replicas_of("limits") + service.replicas()
    assert printed >= {port for _, port in listening(replicas + service.engines())}  # Ray starts further workers later
    assert len(re.findall(r"HTTP: the service$", log, re.MULTILINE)) == 1
    assert "reachable from other machines" not in log


def test_each_engine_has_a_line_before_the_service_is_ready(service: Service) -> None:
    log = service.log.read_text()
    start = log[log.index(f"starting {len(service.models)} engine") : log.index("ready: ")]
    assert sorted(re.findall(r"^engine of (\S+): up after \d+ s$", start, re.MULTILINE)) == sorted(service.models)


def test_requests_before_it_is_ready_are_503_with_retry_after_and_do_not_wait(service: Service) -> None:
    """A single process listens once it is ready, so that early requests are refused by the system."""
    refused = [answer for answer, _ in service.early if answer.status_code != 200]
    assert bool(refused) == (len(service.models) > 1)
    for answer in refused:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] in ("unavailable", "not_ready")
    assert all(seconds < EARLY_S for _, seconds in service.early), service.early


def test_serves_grpc_asks_for_rays_token(service: Service) -> None:
    """A replica has this port and one of Ray, which has no such method; with a single process also that of HTTP."""
    for name in ("ingress", "limits"):
        codes = []
        for _, port in listening(service.replicas_of(name)):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError) as refused:
                    call(b"", timeout=10)
            codes.append(refused.value.code())
        assert codes.count(grpc.StatusCode.UNAUTHENTICATED) == 1, codes


def test_an_answer_has_one_request_id(service: Service) -> None:
    with service.client() as client:
        named = client.get("/v1/models", headers={"X-Request-ID": "mine"})
        unnamed = client.get("/v1/models")
    assert named.headers.get_list("x-request-id") == ["mine"]
    assert len(unnamed.headers.get_list("x-request-id")) == 1


def test_a_killed_single_process_restarts_at_its_port(service: Service) -> None:
    """After its engine is killed, where waiting clients get an error, and after the process itself is killed."""
    if len(service.models) > 1:
        pytest.skip("several models do not share one process: tests/serve/replicas/test_replicas.py")
    body = {"question": QUESTION, "k": 64, "temperature": 2, "stream": True, "early_stop": False}
    with service.client() as client, client.stream("POST", "/solve", json=body) as answer:
        parts = answer.iter_text()
        texts = [next(parts)]
        os.kill(service.engines()[0], signal.SIGKILL)
        texts.extend(parts)
    assert "".join(texts).rstrip().rpartition("event: ")[2].startswith("error\n")
    with service.client() as client:
        refused = client.post("/v1/chat/completions", json=chat())
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
    first = service.replicas()
    assert within(START_TIMEOUT_S, lambda: service.ready() and service.replicas() != first)
    replica, engines = service.replicas(), service.engines()
    with service.client() as client:
        assert client.get("/healthz").status_code == 200
        os.kill(replica[0], signal.SIGKILL)  # its end of this connection holds the port for a minute
        assert within(60, lambda: not set(service.engines()) & set(engines))
    assert within(START_TIMEOUT_S, lambda: service.ready() and service.replicas() != replica)
    with service.client() as client:
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200


def test_logs_hold_no_key_and_no_question(service: Service) -> None:
    written = [path for ending in ("log", "out", "err") for path in service.ray_folder.rglob(f"*.{ending}")]
    assert written
    for log in [service.log, *written]:
        content = log.read_text(errors="replace")
        assert KEY not in content, log
        assert LIMITED not in content, log
        assert QUESTION not in content, log


def test_sigterm_ends_it_with_everything_that_it_started(service: Service) -> None:
    assert len(processes(service.mark)) > 3
    service.process.terminate()
    assert service.process.wait(END_TIMEOUT_S) == 0
    deadline = time.monotonic() + 10
    while processes(service.mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes(service.mark) == []
    assert service.log.read_text().rstrip().endswith("stopped")
