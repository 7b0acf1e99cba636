"""The real service over HTTP, killed, and ended by a signal: with two models, and with one in one process.

The last tests end the service: other files that use it (`conftest.py`) have names that sort before this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from serve.http.timeouts import MAX_HEAD_BYTES
from tests.serve.running import (
    END_TIMEOUT_S,
    KEY,
    LIMITED,
    MODEL,
    QUESTION,
    START_TIMEOUT_S,
    TEMPLATE,
    Service,
    chat,
    listening,
    listening_beyond_loopback,
    processes,
    within,
)

EARLY_S = 15
"""Most seconds of an answer while the engines start and use all cores; the bounds of the service are 1 and 5 s."""
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


def test_a_head_beyond_its_bound_is_refused_before_a_key_is_asked_for(service: Service) -> None:
    """Serve's proxy and the single process both refuse it, and both answer one within the bound."""
    host, port = service.url.removeprefix("http://").split(":")
    for size, status in ((MAX_HEAD_BYTES - 1000, b"HTTP/1.1 401 "), (MAX_HEAD_BYTES + 1, b"HTTP/1.1 431 ")):
        with socket.create_connection((host, int(port)), timeout=60) as peer, suppress(ConnectionError):
            peer.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * size + b"\r\n\r\n")
            assert peer.recv(len(status)) == status


def test_the_engine_answers_after_bad_requests(service: Service) -> None:
    with service.client() as client:
        assert client.get("/readyz").status_code == 200


def test_it_listens_on_loopback_only_and_prints_where(service: Service) -> None:
    assert listening_beyond_loopback(processes(service.mark)) == set()
    log = service.log.read_text()
    [address] = re.findall(r"^  \S+:(\d+) +HTTP: the service$", log, re.MULTILINE)
    [others] = re.findall(r"^  (\d+) ports of Ray, Serve and vLLM on loopback$", log, re.MULTILINE)
    replicas = service.replicas_of("ingress") + service.replicas_of("limits") + service.replicas()
    ports = {port for _, port in listening(replicas + service.engines())}
    assert int(others) >= len(ports - {int(address)}) > 0  # Ray starts further workers later
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


@pytest.mark.long
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
    log = service.log.read_text()
    assert log.rstrip().endswith("stopped")
    assert "(raylet)" not in log  # Ray reports no error of its end
