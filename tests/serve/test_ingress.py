"""The real application in front of scripted engines, over HTTP without Ray: streams, disconnects, keys, bounds."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.routing import APIRoute
from ray.exceptions import RayActorError
from starlette.testclient import TestClient

from serve import page, ray_private
from serve.access.api_keys import Keys, load_keys
from serve.scripted import ScriptedServer, application
from serve.solving.events import Pieces
from tests.serve.running import within

KEY = "a-good-key-of-the-tests"
QUESTION = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does Tom have now?"
CAPACITY = 100
ORIGIN = "https://app.example.org"


@dataclass(frozen=True)
class Running:
    """A served application, its scripted engines, and a client that may use it."""

    app: Any
    engines: dict[str, ScriptedServer]
    url: str

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    engines = {name: ScriptedServer(name, token_s=0.01) for name in ("tiny-sft", "tiny-rft")}
    yield from serving(engines, load_keys(None, {"RFT_API_KEYS": KEY}))


def serving(engines: dict[str, ScriptedServer], keys: Keys) -> Iterator[Running]:
    app = application(engines, keys, capacity=CAPACITY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        assert within(60, lambda: server.started)
        yield Running(app, engines, f"http://127.0.0.1:{taken.getsockname()[1]}")
        server.should_exit = True
        thread.join(10)


def asked(**changes: Any) -> dict[str, Any]:
    return {"question": QUESTION, "k": 8, "model": "tiny-rft"} | changes


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny-rft", "messages": [{"role": "user", "content": QUESTION}]} | changes


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    blocks = [block.split("\ndata: ") for block in answer.text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data)) for kind, data in blocks]


def test_a_stream_is_the_plain_answer_told_step_by_step(running: Running) -> None:
    with running.client as client:
        streamed = client.post("/solve", json=asked(stream=True, early_stop=False, deltas=True))
        plain = client.post("/solve", json=asked(early_stop=False)).json()
    told = events(streamed)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["cache-control"] == "no-store"
    assert [kind for kind, _ in told if kind != "text"] == ["start", *["path", "vote"] * 8, "result"]
    assert {**told[-1][1], "seconds": 0} == {**plain, "seconds": 0}
    votes = [data for kind, data in told if kind == "vote"]
    assert [vote["came"] for vote in votes] == list(range(1, 9))
    assert votes[-1]["votes"] == plain["votes"]


def test_paths_come_before_the_last_is_finished(running: Running) -> None:
    with running.client as client, client.stream("POST", "/solve", json=asked(stream=True, k=32)) as answer:
        texts = answer.iter_text()
        seen = next(texts)
        while "event: path" not in seen:
            seen += next(texts)
        assert running.engines["tiny-rft"].running > 0


def test_stopping_early_saves_samples_and_tokens_and_keeps_the_answer(running: Running) -> None:
    with running.client as client:
        early, whole = (client.post("/solve", json=asked(k=32, early_stop=early)).json() for early in (True, False))
    assert early["answer"] == whole["answer"]
    assert early["saved"]["paths"] == 32 - early["came"] > 0
    assert early["tokens"] < whole["tokens"]
    assert running.engines["tiny-rft"].running == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/solve", "/v1/chat/completions"])
def test_a_client_that_hangs_up_frees_the_engine(running: Running, path: str, stream: bool) -> None:
    engine = running.engines["tiny-sft"]
    engine.token_s = 0.5
    body = asked(k=20, model="tiny-sft", stream=stream) if path == "/solve" else chat(model="tiny-sft", n=20)
    try:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as client:
            content = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            client.sendall(head.encode() + content)
            assert within(5, lambda: engine.running > 0)
        assert within(2, lambda: engine.running == 0)
    finally:
        engine.token_s = 0.01
    with running.client as client:  # and its capacity is free again
        assert client.post("/solve", json=asked(k=64, model="tiny-sft")).status_code == 200


def test_an_engine_that_fails_ends_the_stream_with_an_error(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(question: str, index: int) -> tuple[str, str]:
        if index == 3:
            raise RuntimeError("secret")
        return "#### 1", "stop"

    monkeypatch.setattr(running.engines["tiny-rft"], "script", fail)
    with running.client as client:
        told = events(client.post("/solve", json=asked(stream=True)))
        plain = client.post("/solve", json=asked())
    assert [told[0][0], told[-1][0]] == ["start", "error"]
    assert told[-1][1]["error"]["type"] == plain.json()["error"]["type"] == "server_error"
    assert plain.status_code == 500
    assert "secret" not in plain.text + str(told)


def test_more_than_the_engines_can_hold_is_refused_at_once(running: Running) -> None:
    engine = running.engines["tiny-sft"]
    engine.token_s = 0.3
    try:
        with running.client as client, client.stream("POST", "/solve", json=asked(k=64, model="tiny-sft", stream=True)):
            began = time.monotonic()
            refused = client.post("/solve", json=asked(k=64, model="tiny-sft"))
            chatted = client.post("/v1/chat/completions", json=chat(model="tiny-sft", n=60))
            took_s = time.monotonic() - began
            assert client.post("/solve", json=asked(k=64)).status_code == 200  # the other model has capacity
    finally:
        engine.token_s = 0.01
    assert took_s < 1
    for answer in (refused, chatted):
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "overloaded"


def test_room_is_given_back_whatever_became_of_a_request(running: Running) -> None:
    with running.client as client:
        for _ in range(8):
            client.post("/solve", json=asked(k=64))
            client.post("/solve", json=asked(k=64, model="other"))
            client.post("/v1/chat/completions", json=chat(n=64))
            with client.stream("POST", "/solve", json=asked(k=64, stream=True)) as left:
                next(left.iter_text())
            assert within(2, lambda: running.engines["tiny-rft"].running == 0)
        assert client.post("/solve", json=asked(k=64)).status_code == 200


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
        ("/solve", asked(seed=1), "seed"),
        ("/solve", asked(temperature=0), "temperature"),
        ("/solve", asked(stream="yes please"), "stream"),
        ("/solve", asked(model="other"), "model"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(running: Running, path: str, body: Any, param: str) -> None:
    with running.client as client:
        answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert (error["param"].removesuffix(".str"), error["type"]) == (param, "invalid_request_error")


def test_text_parts_and_plain_fields_are_taken(running: Running) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    earlier = {"role": "assistant", "content": "8", "refusal": None, "tool_calls": None, "annotations": []}
    plain = {"stop": ["\n\n"], "user": "me", "metadata": {"a": "b"}, "response_format": {"type": "text"}, "tools": None}
    with running.client as client:
        assert (
            client.post("/v1/chat/completions", json=chat(messages=[message, earlier, message], **plain)).status_code
            == 200
        )


SMALLEST: dict[str, dict[str, Any]] = {
    "/solve": {"question": QUESTION, "k": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": QUESTION}]},
    "/v1/completions": {"prompt": QUESTION},
}


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


def test_every_route_but_probes_and_the_page_is_closed_without_a_key(running: Running) -> None:
    """The page's files hold no secret: they are the same for all, and the data that they show needs the key."""
    routes = [(route.path, method) for route in running.app.routes for method in getattr(route, "methods", ())]
    assert {path for path, _ in routes} >= {"/solve", "/openapi.json", "/docs", *page.FILES}
    assert len([route for route in running.app.routes if isinstance(route, APIRoute)]) == 8 + len(page.FILES)
    is_open = {(path, "GET") for path in ("/healthz", "/readyz", *page.FILES)}
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with httpx.Client(base_url=running.url, headers=headers) as stranger:
            for path, method in [*routes, ("/nothing", "GET"), ("/page/../solve", "POST")]:
                answer = stranger.request(method, path.replace("{model:path}", "tiny-rft"))
                expected = 200 if (path, method) in is_open else 401
                probe = path in ("/healthz", "/readyz")
                assert answer.status_code == expected or (probe and method != "GET"), (method, path)


def test_readiness_names_the_models_to_callers_with_a_key_only(running: Running) -> None:
    with running.client as client:
        assert client.get("/readyz").json() == {"status": "ready", "models": ["tiny-sft", "tiny-rft"]}
    for headers in ({}, {"Authorization": "Bearer a-wrong-key-of-the-tests"}):
        answer = httpx.get(f"{running.url}/readyz", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


class Dying(ScriptedServer):
    """An engine whose process dies during its first `deaths` requests, after `after` pieces."""

    deaths, after = 0, 0

    async def _pieces(self, question: str, k: int, limit: int) -> Pieces:
        sent = 0
        async with aclosing(super()._pieces(question, k, limit)) as batches:
            async for batch in batches:
                if self.deaths and sent >= self.after:
                    self.deaths -= 1
                    raise RayActorError
                sent += 1
                yield batch


@pytest.fixture(scope="module")
def dying() -> Iterator[Running]:
    yield from serving({"tiny-rft": Dying("tiny-rft", token_s=0.001)}, load_keys(None, {"RFT_API_KEYS": KEY}))


@pytest.mark.parametrize("after", [0, 3])
def test_a_lost_engine_costs_a_plain_request_nothing_and_a_begun_stream_an_error_event(
    dying: Running, after: int
) -> None:
    engine: Any = dying.engines["tiny-rft"]
    engine.after = after
    with dying.client as client:
        whole = client.post("/solve", json=asked(early_stop=False)).json()
        engine.deaths = 2
        again = client.post("/solve", json=asked(early_stop=False))
        assert {**again.json(), "seconds": 0} == {**whole, "seconds": 0}
        assert engine.deaths == 0
        engine.deaths = 1
        told = events(client.post("/solve", json=asked(stream=True), headers={"X-Request-Id": "mine"}))
        assert told[-1][0] == "error"  # its start had been sent
        assert told[-1][1]["request_id"] == "mine"
        engine.deaths = 1
        lines = client.post("/v1/chat/completions", json=chat(stream=True)).text.split("\n\n")[:-1]
        assert engine.deaths == 0
        if after:
            assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
        else:
            assert lines[-1] == "data: [DONE]"
    assert within(2, lambda: engine.running == 0)


def test_an_engine_that_is_lost_for_good_is_503_at_once(dying: Running) -> None:
    engine: Any = dying.engines["tiny-rft"]
    engine.after, engine.deaths = 0, 100
    try:
        with dying.client as client:
            answer = client.post("/v1/chat/completions", json=chat(stream=True))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert engine.deaths == 100 - 4
    finally:
        engine.deaths = 0


def test_a_request_has_one_id_in_header_and_error(running: Running) -> None:
    with running.client as client:
        for given in ("mine-1", "two words", "x" * 101):
            answer = client.post("/solve", json={"k": 1}, headers={"X-Request-Id": given})
            assert answer.headers["x-request-id"] == answer.json()["request_id"]
            assert (answer.headers["x-request-id"] == given) == (given == "mine-1")


def test_cors_is_open_to_the_named_origin_alone() -> None:
    app = application({"tiny": ScriptedServer("tiny")}, load_keys(None, {"RFT_API_KEYS": KEY}), cors_origins=[ORIGIN])
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, let in ((ORIGIN, ORIGIN), ("https://other.example", None)):
        asked_first = client.options("/solve", headers={"Origin": origin} | wanted)
        answer = client.get("/v1/models", headers={"Origin": origin, "Authorization": f"Bearer {KEY}"})
        refused = client.get("/v1/models", headers={"Origin": origin})
        assert (asked_first.status_code == 200) == bool(let)
        assert [one.headers.get("access-control-allow-origin") for one in (asked_first, answer, refused)] == [let] * 3
        assert (answer.status_code, refused.status_code) == (200, 401)
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("This model's maximum context length is 9 tokens.", None, "context_length_exceeded"),
        ("Input length (9) exceeds model's maximum context length (8).", None, "context_length_exceeded"),
        ("n must be 1 when using greedy sampling, got 2.", "n", "invalid_request"),
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


def test_head_works_where_get_does(running: Running) -> None:
    paths = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/models",
        "/v1/models/tiny-rft",
        "/openapi.json",
        "/docs",
        *page.FILES,
    ]
    with running.client as client:
        for path in paths:
            got, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (got.status_code, b"") == (200, b""), path
            assert head.headers["content-type"] == got.headers["content-type"]
            if path != "/metrics":
                assert head.headers["content-length"] == got.headers["content-length"]
        assert client.head("/solve").status_code == client.get("/solve").status_code == 405
        assert client.head("/v1/models/other").status_code == 404
        assert 'route="/v1/models"} ' in client.get("/metrics").text
    assert httpx.head(f"{running.url}/v1/models").status_code == 401
    assert httpx.head(running.url).status_code == 200


def test_the_list_of_models_is_short_and_one_model_is_told_in_full(running: Running) -> None:
    with running.client as client:
        listed = client.get("/v1/models").json()["data"]
        one = client.get("/v1/models/tiny-rft").json()
    assert [model["id"] for model in listed] == ["tiny-sft", "tiny-rft"]
    assert "evaluation" not in listed[1]
    assert listed[1].items() < one.items()


def test_the_page_lets_nothing_run_but_its_own_script(running: Running) -> None:
    for path, (_, media_type) in page.FILES.items():
        answer = httpx.get(running.url + path)
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in answer.headers["content-security-policy"]
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
            assert forbidden not in answer.text, path
        assert "https://" not in answer.text.replace("http://www.w3.org", ""), path
