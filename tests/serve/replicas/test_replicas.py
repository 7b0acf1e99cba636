"""Two replicas of the ingress and of a scripted engine behind Serve's proxy: killed, replaced, limited, under load.

One service for the whole module, on a Ray of its own. Each request has exactly one outcome.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve.replicas import liveness
from tests.serve.replicated import MODEL
from tests.serve.running import KEY, Started, free_port, started, within

LIMITED, ADDED = "a-key-with-its-own-limits", "a-key-that-is-added-later"
KEY_FILE = f"{KEY}\n{LIMITED} requests=40 concurrency=3\n"
QUESTION = "Tom has 3 pens. He buys 2 boxes with 4 pens each. How many pens does he have?"
START_S = 240.0
REFUSED_S = liveness.WAIT_S + liveness.CHECK_EVERY_S + liveness.DOWN_AFTER_S + liveness.OTHER_REPLICA_S
"""Within this time a request to a model without an engine is refused: docs/serving.md, "Lost and replaced replicas"."""
ANSWER_S = 6.0
"""More than a request takes that an engine answers, in the proxy, the ingress and the engine."""

pytestmark = pytest.mark.timeout(560)


@dataclass(frozen=True)
class Service(Started):
    keys: Path


def read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, port = tmp_path_factory.mktemp("replicas"), free_port()
    keys = folder / "keys"
    keys.write_text(KEY_FILE)
    given = [str(port), str(keys)]
    with started("tests.serve.replicated", given, port, folder / "log", START_S, RAY_worker_niceness="0") as service:
        yield Service(**vars(service), keys=keys)


def asked(**changes: Any) -> dict[str, Any]:
    return {"question": QUESTION, "k": 4, "early_stop": False} | changes


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]} | changes


def test_a_request_to_become_a_websocket_is_answered_by_http(service: Service) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    with service.client() as client:
        assert client.get("/v1/models", headers=upgrade).status_code == 200
        assert client.post("/solve", json=asked(), headers=upgrade).json()["came"] == asked()["k"]


def outcome(service: Service, number: int) -> str:
    """The outcome of one request: streamed or not, /solve or OpenAI, depending on its number."""
    streamed, solve = bool(number & 1), bool(number & 2)
    path, body = ("/solve", asked(stream=streamed)) if solve else ("/v1/chat/completions", chat(stream=streamed))
    try:
        with service.client() as client:
            answer = client.post(path, json=body)
    except httpx.HTTPError as error:
        return f"{type(error).__name__} {path} streamed={streamed}"
    if answer.status_code != 200:
        return f"{answer.status_code} {path} streamed={streamed} {answer.text[:200]}"
    if not streamed:
        return "whole"
    last = [block for block in answer.text.split("\n\n") if block][-1]
    if last.startswith("event: result") or last == "data: [DONE]":
        return "whole"
    return "error event" if '"error"' in last else f"cut: {last[:80]}"


def under_load(service: Service, disturb: Callable[[], object], *, clients: int = 8) -> Counter[str]:
    """The outcomes of requests before, during and after a disturbance, after which requests must succeed again."""
    time.sleep(1)  # the counts of running replicas follow with a delay
    assert within(START_S, lambda: all_run(service)), read(service.log)[-2000:]
    stop, found, numbers = threading.Event(), Counter[str](), iter(range(100_000))

    def load() -> None:
        while not stop.is_set():
            found[outcome(service, next(numbers))] += 1

    with ThreadPoolExecutor(clients) as pool:
        loads = [pool.submit(load) for _ in range(clients)]
        try:
            time.sleep(1.5)
            disturb()
            whole = found["whole"]
            assert within(60, lambda: found["whole"] >= whole + 2 * clients), found
        finally:
            stop.set()
        for one in loads:
            one.result()
    return found


def all_run(service: Service) -> bool:
    """Whether two replicas of both deployments run, which takes longer than that their processes exist."""
    counts = [line for line in read(service.log).splitlines() if line.startswith("running: ")][-1]
    running = json.loads(counts.removeprefix("running: "))
    return all(running[name] == len(service.replicas_of(name)) == 2 for name in ("engine", "ingress"))


def kill_one(service: Service, deployment: str, number: signal.Signals) -> None:
    os.kill(service.replicas_of(deployment)[0], number)


@pytest.mark.long
def test_a_rolling_update_under_load_fails_and_truncates_nothing(service: Service) -> None:
    def replicas() -> set[int]:
        return set(service.replicas_of("engine") + service.replicas_of("ingress"))

    before = replicas()

    def update() -> None:
        service.process.send_signal(signal.SIGUSR1)
        assert within(90, lambda: not before & replicas()), read(service.log)[-2000:]

    found = under_load(service, update)
    assert set(found) == {"whole"}, found
    assert within(START_S, lambda: all_run(service))


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
@pytest.mark.parametrize("deployment", ["engine", "ingress"])
def test_requests_of_a_lost_replica_are_answered_or_end_with_an_error(
    service: Service, deployment: str, number: signal.Signals
) -> None:
    found = under_load(service, lambda: kill_one(service, deployment, number))
    assert set(found) <= {"whole", "error event"}, found


def test_the_sdk_raises_when_its_stream_is_broken(service: Service) -> None:
    assert within(START_S, lambda: all_run(service))
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0)
    messages: Any = chat()["messages"]
    stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
    next(iter(stream))
    for pid in service.replicas_of("engine"):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="again"):
        list(stream)
    began = time.monotonic()
    answer = httpx.post(f"{service.url}/solve", json=asked(), headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    assert time.monotonic() - began < REFUSED_S + ANSWER_S
    assert answer.status_code == 200 or (answer.status_code == 503 and int(answer.headers["retry-after"]) > 0)
    with service.client() as client_:
        assert within(START_S, lambda: client_.get("/readyz").status_code == 200)


def test_a_keys_concurrency_holds_across_replicas_and_is_given_back(service: Service) -> None:
    with ThreadPoolExecutor(12) as pool, service.client(LIMITED) as client:
        answers = list(pool.map(lambda _: client.post("/solve", json=asked()), range(12)))
        counts = Counter(answer.status_code for answer in answers)
        assert counts == {200: 3, 429: 9}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["type"] == "concurrency"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post("/solve", json=asked(k=1)).status_code == 200


def test_a_keys_requests_a_minute_hold_across_replicas(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=LIMITED, max_retries=0)
    messages: Any = chat()["messages"]
    ask = functools.partial(client.chat.completions.create, model=MODEL, messages=messages, max_tokens=1)
    began, answered = time.monotonic(), list[Any]()
    with pytest.raises(openai.RateLimitError) as refused:
        answered.extend(ask() for _ in range(100))
    assert len(answered) <= 40 + (time.monotonic() - began) * 40 / 60
    assert refused.value.type == "requests"


def test_keys_follow_their_file_in_every_replica(service: Service) -> None:
    def statuses(key: str) -> set[int]:
        with service.client(key) as client:
            return {client.get("/v1/models").status_code for _ in range(12)}

    service.keys.write_text(KEY_FILE.replace(LIMITED, ADDED))
    assert within(20, lambda: (statuses(ADDED), statuses(LIMITED)) == ({200}, {401}))
    service.keys.write_text("two words\n")
    time.sleep(1.5)
    assert (statuses(ADDED), statuses(KEY)) == ({200}, {200})
    logs = "".join(read(path) for path in service.ray_folder.rglob("*ingress*.log"))
    assert "API keys stay unchanged" in logs
    assert "two words" not in logs


def test_a_request_keeps_its_id_from_header_to_answer_and_log(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/solve", json=asked(k=1), headers={"X-Request-Id": "my-request.1"})
        refused = client.post("/solve", json={"k": 1}, headers={"X-Request-Id": "my-request.2"})
        named = client.get("/v1/models", headers={"X-Request-Id": "not a plain id"}).headers["x-request-id"]
    assert answer.headers["x-request-id"] == "my-request.1"
    assert refused.headers["x-request-id"] == refused.json()["request_id"] == "my-request.2"
    assert " " not in named
    assert "," not in named
    logged = "".join(read(path) for path in service.ray_folder.rglob("*.log"))
    assert "my-request.1" in logged


def test_no_log_holds_a_key_a_question_or_an_answer(service: Service) -> None:
    written = [path for ending in ("log", "out", "err") for path in service.ray_folder.rglob(f"*.{ending}")]
    secrets = (KEY, LIMITED, ADDED, QUESTION, "Adding 2 to 3", json.dumps(QUESTION)[1:-1])
    assert [(path.name, text) for path in [service.log, *written] for text in secrets if text in read(path)] == []
