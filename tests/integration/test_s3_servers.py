"""S3 servers that are absent, unreachable or faulty: one message each, and no lost commit. They listen on loopback."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from botocore.config import Config

from rft_ray.data.base_models import resolve
from rft_ray.store import Store, StoreError, open_store, prune
from rft_ray.store.backends import s3 as s3_module
from rft_ray.store.backends.s3 import S3Store
from rft_ray.store.base import StoreUnreachable, check_create_only
from tests.integration.test_store_s3 import VARIABLES


def test_missing_credentials_raise_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"no S3 credentials for .*: set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/run").check()


@pytest.fixture
def dummy_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "dummy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummy-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@contextmanager
def closed() -> Iterator[str]:
    """The address of a port on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@contextmanager
def mute() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("dummy_credentials")
@pytest.mark.parametrize("endpoint", [closed, mute])
def test_an_unreachable_endpoint_raises_one_clear_error_within_15_s(
    endpoint: Callable[[], AbstractContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address.replace("://", "://user:hidden@"))
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"out of reach for s3://bucket/run .*: check AWS_ENDPOINT_URL") as raised:
            open_store("s3://bucket/run").check()
        assert time.monotonic() - start < 15
        assert "hidden" not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3's own retries."""
    monkeypatch.setattr(s3_module, "PATIENT", Config(retries={"total_max_attempts": 1}))


class S3Handler(BaseHTTPRequestHandler):
    """Answers requests on connections that stay open; the answers' own headers are `extra`."""

    protocol_version = "HTTP/1.1"

    def extra(self) -> dict[str, str]:
        return {}

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **self.extra()}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Careless(S3Handler):
    """An S3 server that overwrites whatever the condition of a PUT says."""

    objects: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def do_HEAD(self) -> None:
        self.answer(200)

    def do_GET(self) -> None:
        self.answer(200, self.objects.get(self.path, b""))


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.usefixtures("dummy_credentials")
def test_a_store_that_ignores_create_only_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Careless) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StoreError, match=r"does not honour create-only writes.*choose another store"):
            open_store("s3://bucket/run").check()


class Racing(S3Handler):
    """An S3 server that checks the condition of a PUT and then writes, without a lock between the two."""

    objects: ClassVar[dict[str, tuple[bytes, str]]] = {}
    window_s: ClassVar[float] = 0.001

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        exists = self.path in self.objects
        time.sleep(self.window_s)
        if not exists:
            self.objects[self.path] = (body, self.headers.get("x-amz-meta-rft-writer", ""))
        self.answer(412 if exists else 200)

    def do_HEAD(self) -> None:
        known = self.path.partition("?")[0].count("/") < 2 or self.path in self.objects
        self.answer(200 if known else 404)

    def do_GET(self) -> None:
        self.answer(200, self.objects[self.path][0])

    def do_DELETE(self) -> None:
        self.answer(204)

    def extra(self) -> dict[str, str]:
        return {"x-amz-meta-rft-writer": self.objects[self.path][1]} if self.path in self.objects else {}


@pytest.mark.usefixtures("dummy_credentials")
def test_a_server_that_checks_and_then_writes_is_refused_each_of_50_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    with serving(Racing) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = open_store("s3://bucket/run")
        for _ in range(50):
            monkeypatch.setattr(Racing, "window_s", rng.uniform(0.001, 0.005))
            with pytest.raises(StoreError, match="does not honour create-only writes"):
                check_create_only(store)


class LosesACompletion(S3Handler):
    """An S3 server that completes an upload, breaks the connection, and then no longer knows the upload."""

    writer: ClassVar[str] = ""
    completed: ClassVar[bool] = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in self.path:
            type(self).writer = self.headers["x-amz-meta-rft-writer"]
            self.answer(200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
        elif not self.completed:
            type(self).completed = True
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.answer(404, b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def do_HEAD(self) -> None:
        self.answer(200 if self.completed else 404)

    def do_DELETE(self) -> None:
        self.answer(404, b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>")

    def extra(self) -> dict[str, str]:
        return {"ETag": '"e"', "x-amz-meta-rft-writer": self.writer}


@pytest.mark.usefixtures("dummy_credentials")
def test_a_lost_answer_to_a_completion_is_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"weights")
    monkeypatch.setattr(s3_module, "SINGLE_PUT_BYTES", 1)
    with serving(LosesACompletion) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert open_store("s3://bucket/run").create_file("weights", tmp_path / "file")
    assert LosesACompletion.completed


@pytest.mark.usefixtures("dummy_credentials")
def test_a_lost_answer_to_the_completion_of_a_view_is_its_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "SINGLE_PUT_BYTES", 1)
    monkeypatch.setattr(LosesACompletion, "completed", False)
    with serving(LosesACompletion) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_store("s3://bucket/run").replace("completions.jsonl", b"rows")
    assert LosesACompletion.completed


class AtOnce(S3Handler):
    """An S3 server that answers a part only when sixteen of them have arrived."""

    parts: ClassVar[dict[int, bytes]] = {}
    together: ClassVar[threading.Barrier] = threading.Barrier(16)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        begins = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        self.answer(200, begins if "uploads" in self.path else b"<CompleteMultipartUploadResult/>")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.together.wait(timeout=20)
        self.parts[int(re.search(r"partNumber=(\d+)", self.path)[1])] = body
        self.answer(200)

    def extra(self) -> dict[str, str]:
        return {"ETag": '"e"'}


@pytest.mark.usefixtures("dummy_credentials")
def test_sixteen_parts_of_a_file_are_uploaded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(0).randbytes(31 * 1000 + 7)
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr(s3_module, "SINGLE_PUT_BYTES", 1)
    monkeypatch.setattr(s3_module, "PART_BYTES", 1000)
    with serving(AtOnce) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert open_store("s3://bucket/run").create_file("weights", tmp_path / "file")
    assert [len(AtOnce.parts[number]) for number in range(1, 33)] == [1000] * 31 + [7]
    assert b"".join(AtOnce.parts[number] for number in range(1, 33)) == content


class BreaksOff(S3Handler):
    """An S3 server whose every body breaks off."""

    def do_HEAD(self) -> None:
        self.answer(200, b"weights")

    def do_GET(self) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": "7", "ETag": '"e"'}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"wei")
        self.close_connection = True


@pytest.mark.usefixtures("dummy_credentials", "one_try")
@pytest.mark.parametrize("use", ["fetch", "read", "list", "a base model"])
def test_a_body_that_breaks_off_each_time_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """And no damaged file, bad model or place: what is tried again through outages, is tried again here."""
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    uses: dict[str, Callable[[Store], object]] = {
        "fetch": lambda store: store.fetch("weights", tmp_path / "weights"),
        "read": lambda store: store.read("weights"),
        "list": lambda store: list(store.list()),
        "a base model": lambda store: resolve(store.url),
    }
    with serving(BreaksOff) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StoreUnreachable, match=r"S3 (is out of reach|failed) for .*s3://bucket/run"):
            uses[use](open_store("s3://bucket/run"))
    assert not (tmp_path / "weights").exists()


class DeniesDeletes(S3Handler):
    """An S3 server whose key may not delete."""

    def do_DELETE(self) -> None:
        self.answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")


@pytest.mark.usefixtures("dummy_credentials")
def test_a_key_that_may_not_delete_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(DeniesDeletes) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StoreError, match=r"S3 denies access to work/a in s3://bucket/run .*bucket's policy"):
            open_store("s3://bucket/run").discard(["work/a"])
        with pytest.raises(StoreError, match=r"S3 denies access to paths/a .*; a lifecycle rule can delete work/"):
            prune.delete(open_store("s3://bucket/run"), [prune.Unneeded("paths/a", 1, "void")])


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://UPPER/x", "s3://key:secret@bucket/x", "s3://bucket/../x", "s3://bucket/a//b", "s3://bucket/x?y"],
)
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(StoreError, match="bad S3 url") as raised:
        open_store(url)
    assert "secret" not in str(raised.value)


def test_a_trailing_slash_means_the_same_store() -> None:
    assert open_store("s3://bucket/run/").url == S3Store("s3://bucket/run").url == "s3://bucket/run"
    assert open_store("s3://bucket/").url == "s3://bucket"
