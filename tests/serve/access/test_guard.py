"""API keys, and the guard in front of all routes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI, Request
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from serve.access import failed_keys
from serve.access.api_keys import Keys, KeysError, load_keys
from serve.access.guard import PUBLIC_PATHS, Guard, deeper_than, is_loopback
from serve.api import errors

KEY = "a-good-key-of-the-tests"
KEYS = load_keys(None, {"RFT_API_KEYS": f"{KEY}, another-key-of-the-tests"})


def guarded(keys: Keys, max_body_bytes: int = 100) -> FastAPI:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(Guard, keys=keys, max_body_bytes=max_body_bytes, body_timeout_s=0.3, public_files=["/file"])

    @app.get("/healthz")
    @app.get("/readyz")
    async def healthz() -> str:
        return "ok"

    @app.get("/file")
    @app.post("/file")
    async def file() -> str:
        return "public"

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


def client(keys: Keys, host: str = "localhost", peer: str = "127.0.0.1") -> TestClient:
    return TestClient(guarded(keys), base_url=f"http://{host}", client=(peer, 1234), raise_server_exceptions=False)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_come_from_file_and_variable_and_only_hashes_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\na-file-key-of-the-tests\n\n")
    for keys in (
        load_keys(str(file), {"RFT_API_KEYS": "an-env-key-of-the-tests"}),
        load_keys(None, {"RFT_API_KEYS_FILE": str(file), "RFT_API_KEYS": "an-env-key-of-the-tests,"}),
    ):
        assert keys.digests == {
            hashlib.sha256(key).digest() for key in (b"a-file-key-of-the-tests", b"an-env-key-of-the-tests")
        }
        assert not [key for key in ("a-file-key-of-the-tests", "an-env-key-of-the-tests") if key in repr(keys)]


@pytest.mark.parametrize("content", [None, "", "# only a comment\n", "two words\n", "ключ\n"])
def test_a_key_file_without_a_usable_key_is_refused_without_showing_it(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(KeysError, match=r"keys") as refused:
        load_keys(str(file), {})
    assert "two words" not in str(refused.value)
    assert "ключ" not in str(refused.value)


def test_without_a_configured_key_keys_are_false() -> None:
    assert not load_keys(None, {})
    assert not load_keys(None, {"RFT_API_KEYS": " , "})
    assert not Keys().identify(None)


@pytest.mark.parametrize(
    "header",
    [None, "", KEY, f"Basic {KEY}", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \udcff"],
)
def test_anything_but_a_whole_key_is_refused(header: str | None) -> None:
    assert not KEYS.identify(header)


def test_each_key_is_accepted_and_the_scheme_has_any_case() -> None:
    assert all(
        KEYS.identify(f"{scheme} {key}") for key in (KEY, "another-key-of-the-tests") for scheme in ("Bearer", "bearer")
    )


PATHS = [
    "/echo",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/oauth2-redirect",
    "/",
    "/nothing",
    "/healthz/",
    "//healthz",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Origin": "https://example.com"}])
def test_every_path_but_health_needs_a_key(path: str, method: str, headers: dict[str, str]) -> None:
    answer = client(KEYS, host="any.example", peer="10.1.2.3").request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_with_a_key_routes_answer() -> None:
    caller = client(KEYS, host="any.example", peer="10.1.2.3")
    assert caller.post("/echo", headers=bearer(KEY), content=b"123").json() == 3
    assert caller.get("/openapi.json", headers=bearer(KEY)).status_code == 200
    assert caller.get("/healthz").json() == caller.get("/readyz").json() == "ok"


def test_public_files_are_for_get_and_without_keys_for_this_machine_only() -> None:
    assert client(KEYS, peer="10.1.2.3").get("/file").json() == "public"
    assert client(KEYS, peer="10.1.2.3").post("/file").status_code == 401
    assert client(Keys(), peer="10.1.2.3").get("/file").status_code == 403


def test_failed_keys_are_throttled_and_an_accepted_key_of_the_same_address_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failed_keys, "FAILURES_PER_MINUTE", 3)
    caller = client(KEYS)
    answers = [caller.post("/echo", headers=bearer("wrong")) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) > 0
    assert caller.post("/echo").status_code == 401  # no key is not a failed one
    assert caller.post("/echo", headers=bearer(KEY)).status_code == 200


def test_where_all_keys_are_revoked_requests_from_this_machine_are_refused_too(tmp_path: Path) -> None:
    assert client(Keys(file=str(tmp_path / "keys"))).post("/echo").status_code == 401


def test_a_websocket_is_closed() -> None:
    with pytest.raises(WebSocketDisconnect) as closed, client(KEYS).websocket_connect("/echo"):
        pass
    assert closed.value.code == 1008


@pytest.mark.parametrize(
    ("host", "peer", "status"),
    [
        ("localhost:8000", "127.0.0.1", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("[::1]:8000", "::1", 200),
        ("localhost", "::ffff:127.0.0.1", 200),
        ("localhost", "10.1.2.3", 403),
        ("evil.example", "127.0.0.1", 403),
        ("localhost.evil.example", "127.0.0.1", 403),
    ],
)
def test_without_keys_only_this_machine_is_answered(host: str, peer: str, status: int) -> None:
    caller = client(Keys(), peer=peer)
    assert caller.post("/echo", headers={"Host": host}).status_code == status
    assert caller.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"]
)
def test_without_keys_what_a_proxy_forwarded_is_refused(header: str) -> None:
    for value in ("127.0.0.1", "for=127.0.0.1", ""):
        assert client(Keys()).post("/echo", headers={header: value}).status_code == 403
    assert client(KEYS).post("/echo", headers={header: "10.1.2.3"} | bearer(KEY)).status_code == 200


@pytest.mark.parametrize("keys", [Keys(), KEYS])
@pytest.mark.parametrize("path", ["/echo", "/healthz"])
def test_two_host_headers_are_refused(keys: Keys, path: str) -> None:
    hosts = [("Host", "localhost"), ("Host", "localhost"), ("Authorization", f"Bearer {KEY}")]
    answer = client(keys).request("GET" if path == "/healthz" else "POST", path, headers=hosts)
    assert answer.status_code == 400


def test_a_body_over_the_bound_is_refused_declared_or_not() -> None:
    caller = client(Keys())

    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 60] * 2

    assert caller.post("/echo", content=b"x" * 100).json() == 100
    for answer in (caller.post("/echo", content=b"x" * 101), caller.post("/echo", content=chunks())):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("length", "status"),
    [("0" * 5000, 200), ("0" * 5000 + "100", 200), ("0" * 5000 + "101", 413), ("9" * 5000, 413)]
    + [(length, 400) for length in ("\u00b2", "-1", "1_0", "1e1", "+1", "")],
)
def test_a_declared_length_is_a_number_of_any_number_of_digits(length: str, status: int) -> None:
    async def ask() -> int:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-length", length.encode("latin-1"))]
        scope = {"type": "http", "method": "POST", "path": "/echo", "query_string": b"", "headers": headers}
        await guarded(Keys())(scope | {"client": ("127.0.0.1", 1)}, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(ask()) == status


def test_a_body_of_many_small_messages_takes_linear_time() -> None:
    """Messages of one byte up to the bound: copying the body for each message would take minutes."""
    count = 1 << 18

    async def ask() -> int:
        left, sent = iter(range(count)), list[Message]()

        async def receive() -> Message:
            more = next(left, None) is not None
            return {"type": "http.request", "body": b"1" * 4 if more else b"", "more_body": more}

        async def send(message: Message) -> None:
            sent.append(message)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": len((await receive())["body"]), "headers": []})

        scope = {"type": "http", "method": "POST", "path": "/echo", "headers": [(b"host", b"localhost")]}
        await Guard(app, keys=Keys())(scope | {"client": ("127.0.0.1", 1)}, receive, send)
        return int(sent[0]["status"])

    began = time.monotonic()
    assert asyncio.run(ask()) == 4 * count
    assert time.monotonic() - began < 15


def test_a_body_that_does_not_arrive_times_out() -> None:
    async def ask() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.sleep(0.1)
            return {"type": "http.request", "body": b"1", "more_body": True}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/echo", "headers": headers, "client": ("127.0.0.1", 1)}
        await guarded(Keys())(scope, receive, send)
        return sent

    sent = asyncio.run(ask())
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("body", "depth"),
    [(b"1", 0), (b"[[]]", 2), (b'{"a": [1, {}]}', 3), (b'"[[["', 0), (b'["\\"[[", []]', 2), (b'["\\\\", [[]]]', 3)],
)
def test_depth_is_that_of_brackets_outside_of_strings(body: bytes, depth: int) -> None:
    assert not deeper_than(body, depth)
    assert depth == 0 or deeper_than(body, depth - 1)


def test_a_deep_body_is_refused_and_finding_out_is_fast() -> None:
    answer = client(Keys()).post("/echo", content=b"[" * 50)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_deep")
    for body in (b'"' * (1 << 20), b'"\\' * (1 << 19), b"[]" * (1 << 19), b'["' + b"\\" * (1 << 20)):
        began = time.monotonic()
        deeper_than(body, 16)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", None, "127.0.0.1.example.com"])
def test_other_names(host: str | None) -> None:
    assert not is_loopback(host)


def test_kubernetes_probes_the_application_where_it_needs_no_key() -> None:
    manifest = yaml.safe_load((Path(__file__).parents[3] / "k8s" / "rayservice.yaml").read_text())
    (group,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    probed = re.findall(r"localhost:8000(/\S+)", " ".join(container["readinessProbe"]["exec"]["command"]))
    assert probed == ["/-/healthz", "/readyz"]  # the first is the proxy's own
    assert set(probed[1:]) <= PUBLIC_PATHS
