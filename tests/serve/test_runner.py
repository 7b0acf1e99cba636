"""The start of a service: a line for each engine, and readiness over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serve import runner
from serve.runner import EngineProgress, StartError


def test_each_engine_has_a_line_once_it_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    progress = EngineProgress(None, time.monotonic() - 12)
    starting = {"ingress": {"RUNNING": 1}, "limits": {"RUNNING": 1}, "model:a-rft": {"STARTING": 2}}
    for rft, sft in ((0, 0), (1, 0), (1, 0), (2, 1), (2, 1)):
        progress.print_new(starting | {"model:a-rft": {"RUNNING": rft}, "model:a-sft": {"RUNNING": sft}})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["engine of a-rft: up after 12 s"] * 2 + ["engine of a-sft: up after 12 s"]


def test_the_engine_of_a_single_process_is_its_ingress(capsys: pytest.CaptureFixture[str]) -> None:
    progress = EngineProgress("a-rft", time.monotonic())
    progress.print_new({"ingress": {"STARTING": 1}, "limits": {"RUNNING": 1}})
    progress.print_new({"ingress": {"RUNNING": 1}, "limits": {"RUNNING": 1}})
    assert capsys.readouterr().out == "engine of a-rft: up after 0 s\n"


@pytest.fixture
def server() -> Iterator[tuple[HTTPServer, list[int]]]:
    """A server whose answers to /readyz have these statuses in turn; the last one repeats."""
    statuses = [503, 503, 200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made, statuses
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_ready_is_when_readyz_answers_200(
    monkeypatch: pytest.MonkeyPatch, server: tuple[HTTPServer, list[int]], host: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no proxy is between
    monkeypatch.setattr(runner, "POLL_S", 0.01)
    runner._await_ready(host, server[0].server_port)
    assert server[1] == [200]


def test_a_service_that_never_answers_does_not_start(
    monkeypatch: pytest.MonkeyPatch, server: tuple[HTTPServer, list[int]]
) -> None:
    monkeypatch.setattr(runner, "POLL_S", 0.01)
    monkeypatch.setattr(runner, "READY_S", 0.1)
    server[1][:] = [503]
    with pytest.raises(StartError, match=r"/readyz does not answer: .*503"):
        runner._await_ready("127.0.0.1", server[0].server_port)
