"""The real application in front of scripted engines, served over HTTP in a thread, without Ray."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from serve.access.api_keys import Keys, load_keys
from serve.scripted import ScriptedServer, application
from tests.serve.running import within

KEY = "a-good-key-of-the-tests"
QUESTION = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does Tom have now?"
CAPACITY = 100
SMALLEST: dict[str, dict[str, Any]] = {
    "/solve": {"question": QUESTION, "k": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": QUESTION}]},
    "/v1/completions": {"prompt": QUESTION},
}
"""The smallest valid body of each route."""


@dataclass(frozen=True)
class Running:
    """A served application, its scripted engines, and a client that may use it."""

    app: Any
    engines: dict[str, ScriptedServer]
    url: str

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)


def two_models() -> Iterator[Running]:
    """Two models, and KEY as the only key."""
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
