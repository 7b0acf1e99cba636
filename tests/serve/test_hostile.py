"""Hostile requests to the real application: each gets an answer in OpenAI's shape, no 500, and leaves nothing open."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.access.api_keys import Keys
from serve.scripted import ScriptedServer
from tests.serve.scripted_service import Running, serving

CASES = int(os.environ.get("RFT_FUZZ_CASES", "600"))
GOOD: dict[str, dict[str, Any]] = {
    "/solve": {"question": "2+3?", "k": 2, "model": "tiny", "temperature": 0.7, "stream": False, "max_tokens": 9},
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "2+3?"}],
        "n": 1,
        "stop": ["a"],
        "logit_bias": {"1": 1},
        "temperature": 1,
        "max_tokens": 9,
        "stream_options": None,
        "response_format": {"type": "text"},
        "tools": [],
        "user": "me",
    },
    "/v1/completions": {
        "model": "tiny",
        "prompt": "2+3?",
        "n": 1,
        "best_of": 1,
        "echo": False,
        "logprobs": 1,
        "stop": None,
        "suffix": None,
        "max_tokens": 9,
    },
}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 65, 2**31, 2**63, 10**400, -0.0, 1e308, 0.1, "", " ", "a", "\0", "\ud800", "🜁" * 50,
    "x" * 9_000, "NaN", "1", [], {}, [[]], [None], ["a"] * 70, {"": {}}, {"\0": 1}, [{"role": "user", "content": None}],
    [{"role": "user"}], [{"role": "tool", "content": "a"}], [{"role": "assistant", "tool_calls": [{}]}],
    [{"content": 5}], [[1, 2], [3]], [-1], [2**63], [{"role": "user", "content": "\ud800"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    [{"role": "user", "content": [{"type": "text"}, 3]}], {"include_usage": 1}, {"type": "json_schema"}, {"1": "a"},
]  # fmt: skip
FIELDS = ["chat_template", "structured_outputs", "prompt_logprobs", "request_id", "priority", "__class__", "\ud800"]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from serving({"tiny": ScriptedServer("tiny")}, Keys())


def body(rng: random.Random, good: dict[str, Any]) -> Any:
    if rng.random() < 0.05:
        return rng.choice(ODD)
    made = dict(good)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice([*good, *FIELDS]) if rng.random() < 0.9 else str(rng.choice(ODD))
        if rng.random() < 0.1:
            made.pop(name, None)
        else:
            made[name] = rng.choice(ODD)
    return made


def content(rng: random.Random, made: Any) -> bytes:
    text = json.dumps(made, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice([b"", b"\0", b"\xff", b"[" * 20, b"NaN", b'"', b"\xed\xa0\x80"]) + text[at + 1 :]
    return text


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", GOOD)
def test_each_hostile_request_gets_an_answer(running: Running, path: str) -> None:
    rng = random.Random(f"{path}{os.environ.get('RFT_FUZZ_SEED', 0)}")
    with httpx.Client(base_url=running.url, timeout=10) as client:
        for case in range(CASES // len(GOOD)):
            sent = content(rng, body(rng, GOOD[path]))
            kind = rng.choice(["application/json"] * 8 + ["text/plain", "application/x-www-form-urlencoded"])
            answer = client.post(path, content=sent, headers={"Content-Type": kind})
            assert answer.status_code in (200, 400, 404, 413, 422, 429), (case, answer.status_code, sent[:2_000])
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert len(answer.content) < 4_000, sent[:2_000]
        assert client.post("/solve", json=GOOD["/solve"]).status_code == 200
    assert running.engines["tiny"].running == 0
