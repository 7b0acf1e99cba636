"""An endpoint's answer of any size costs bounded memory and ends in one line; the other shards go on."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rft_ray import config
from rft_ray.plan.jobs import SamplingSettings
from rft_ray.records import Problem, problem_id
from rft_ray.sampling.engine import Misbehaved, Request, Unavailable
from rft_ray.sampling.openai_engine import OpenAIEngine
from tests.unit.sampling.chat_server import Answer, ChatServer, Script, completion, serving

SETTINGS = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine="openai")
ENDLESS = b" " * 10_000


def request(question: str) -> Request:
    return Request(Problem(problem_id(question), question, "", "1"), question, 0, 1)


@contextmanager
def engine(script: Script) -> Iterator[tuple[OpenAIEngine, ChatServer]]:
    with serving(script) as server:
        endpoint = config.Endpoint(base_url=server.url, key_env=None, retry_seconds=1, timeout_seconds=9)
        opened = OpenAIEngine("gpt-x", endpoint, spent=0, seed=7)
        try:
            yield opened, server
        finally:
            opened.close()


def only(answer: Answer, *, after: int) -> Script:
    """Proper answers to the first `after` requests, then this one."""

    def script(_: dict[str, Any], number: int) -> Answer:
        return completion("3") if number < after else answer

    return script


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(("after", "failure"), [(0, Unavailable), (1, Misbehaved)])
def test_an_answer_without_end_is_the_endpoints_failure_at_the_bound(
    status: int, after: int, failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rft_ray.sampling.response_bounds.MOST_BODY_BYTES", 1 << 20, raising=False)
    with engine(only(Answer(status, ENDLESS, endless=True), after=after)) as (opened, server):
        for number in range(after):
            opened.generate([request(f"What is {number}+1?")], SETTINGS)
        with pytest.raises(failure, match=r"larger than 1 MiB.*check what answers at endpoint\.base_url") as error:
            opened.generate([request("What is 1+2?")], SETTINGS)
    assert "\n" not in str(error.value)
    assert len(server.asked) == after + 1  # asked again, it would cost the tokens again


def test_answers_to_other_requests_are_kept_past_one_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft_ray.sampling.response_bounds.MOST_BODY_BYTES", 1 << 20, raising=False)

    def script(body: dict[str, Any], number: int) -> Answer:
        endless = body["messages"][0]["content"] == "bad" and number < 3
        return Answer(200, ENDLESS, endless=True) if endless else completion("3")

    with engine(script) as (opened, server):
        opened.generate([request("first")], SETTINGS)
        with pytest.raises(Misbehaved):
            opened.generate([request("good"), request("bad")], SETTINGS)
        assert len(opened.generate([request("good"), request("bad")], SETTINGS)) == 2
    assert [body["messages"][0]["content"] for body in server.asked].count("good") == 1


def test_a_body_is_refused_by_its_length_before_it_is_read() -> None:
    large = Answer(200, b"{", {"Content-Length": str(10**12)})
    with engine(only(large, after=0)) as (opened, _), pytest.raises(Unavailable, match="larger than 64 MiB"):
        opened.generate([request("What is 1+2?")], SETTINGS)


def test_a_compressed_answer_which_can_become_any_size_is_refused() -> None:
    bomb = Answer(200, gzip.compress(completion("x" * (1 << 20)).body), {"Content-Encoding": "gzip"})
    with (
        engine(only(bomb, after=0)) as (opened, _),
        pytest.raises(Unavailable, match=r"compressed \(gzip\).*turn compression off"),
    ):
        opened.generate([request("What is 1+2?")], SETTINGS)
