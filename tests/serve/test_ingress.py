"""The application over HTTP without Ray: access, capacity, readiness, request ids, CORS, HEAD and the page."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from serve import page
from serve.access.api_keys import load_keys
from serve.scripted import ScriptedServer, application
from tests.serve.running import within
from tests.serve.scripted_service import KEY, Running, asked, chat, two_models

ORIGIN = "https://app.example.org"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from two_models()


def test_a_request_beyond_the_engines_capacity_is_refused_at_once(running: Running) -> None:
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


def test_capacity_is_released_after_each_outcome_of_a_request(running: Running) -> None:
    with running.client as client:
        for _ in range(8):
            client.post("/solve", json=asked(k=64))
            client.post("/solve", json=asked(k=64, model="other"))
            client.post("/v1/chat/completions", json=chat(n=64))
            with client.stream("POST", "/solve", json=asked(k=64, stream=True)) as left:
                next(left.iter_text())
            assert within(2, lambda: running.engines["tiny-rft"].running == 0)
        # the samples end before they are released
        assert within(2, lambda: client.post("/solve", json=asked(k=64)).status_code == 200)


def test_every_route_but_probes_and_the_page_is_closed_without_a_key(running: Running) -> None:
    """The page's files hold no secret: they are the same for all, and the data that they show needs the key."""
    routes = [(route.path, method) for route in running.app.routes for method in getattr(route, "methods", ())]
    assert {path for path, _ in routes} >= {"/solve", "/openapi.json", "/docs", *page.FILES}
    assert len([route for route in running.app.routes if isinstance(route, APIRoute)]) == 9 + len(page.FILES)
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


def test_a_request_has_one_id_in_header_and_error(running: Running) -> None:
    with running.client as client:
        for given in ("mine-1", "two words", "x" * 101):
            answer = client.post("/solve", json={"k": 1}, headers={"X-Request-Id": given})
            assert answer.headers["x-request-id"] == answer.json()["request_id"]
            assert (answer.headers["x-request-id"] == given) == (given == "mine-1")


def test_cors_allows_the_named_origin_only() -> None:
    app = application({"tiny": ScriptedServer("tiny")}, load_keys(None, {"RFT_API_KEYS": KEY}), cors_origins=[ORIGIN])
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://other.example", None)):
        preflight = client.options("/solve", headers={"Origin": origin} | wanted)
        answer = client.get("/v1/models", headers={"Origin": origin, "Authorization": f"Bearer {KEY}"})
        refused = client.get("/v1/models", headers={"Origin": origin})
        assert (preflight.status_code == 200) == bool(allowed)
        assert [got.headers.get("access-control-allow-origin") for got in (preflight, answer, refused)] == [allowed] * 3
        assert (answer.status_code, refused.status_code) == (200, 401)
        assert "access-control-allow-credentials" not in answer.headers


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


def test_the_list_of_models_is_short_and_a_single_model_has_all_details(running: Running) -> None:
    with running.client as client:
        listed = client.get("/v1/models").json()["data"]
        details = client.get("/v1/models/tiny-rft").json()
    assert [model["id"] for model in listed] == ["tiny-sft", "tiny-rft"]
    assert "evaluation" not in listed[1]
    assert listed[1].items() < details.items()


def test_each_html_page_has_a_strict_policy_and_refers_to_this_host_only(running: Running) -> None:
    pages = []
    with running.client as client:
        for route in running.app.routes:
            answer = client.get(route.path.replace("{model:path}", "tiny-rft"))
            if answer.headers["content-type"].startswith("text/html"):
                pages.append(route.path)
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; "), route.path
                assert not {"unsafe", "http", "data:", "*"} & set(re.findall(r"unsafe|http|data:|\*", policy))
                assert not re.search(r"""(src|href)=["']?(\w+:)?//""", answer.text), route.path
        assert client.get("/redoc").status_code == client.get("/docs/oauth2-redirect").status_code == 404
    assert pages == ["/", "/docs"]


def test_the_pages_policy_allows_its_own_scripts_only(running: Running) -> None:
    for path, (_, media_type) in page.FILES.items():
        answer = httpx.get(running.url + path)
        assert answer.headers["content-type"] == media_type
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in answer.headers["content-security-policy"]
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
            assert forbidden not in answer.text, path
        assert "https://" not in answer.text.replace("http://www.w3.org", ""), path
