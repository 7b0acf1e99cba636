"""A model behind an endpoint: what it is asked, what its answers become, and what its failures mean."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from rft_ray import config
from rft_ray.data.prompts import Chat, Message
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem, problem_id
from rft_ray.sampling import chat_endpoint
from rft_ray.sampling.engine import Answered, Generated, Misbehaved, Request, Unavailable, Usage
from rft_ray.sampling.openai_engine import OpenAIEngine
from tests.unit.sampling.chat_server import HANG, Answer, ChatServer, Script, completion, refusal, serving

KEY = "sk-the-secret-key-of-the-tests"
SETTINGS = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine="openai")
QUESTIONS = [f"What is {number}+1?" for number in range(4)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def request(question: str = QUESTIONS[0], n: int = 2, start: int = 0) -> Request:
    return Request(Problem(problem_id(question), question, "", "1"), question, start, n)


def endpoint(url: str, **settings: Any) -> config.Endpoint:
    return config.Endpoint(base_url=url, **{"retry_seconds": 1, "timeout_seconds": 20, **settings})


@contextmanager
def engine(script: Script, *, spent: int = 0, **settings: Any) -> Iterator[tuple[OpenAIEngine, ChatServer]]:
    with serving(script) as server:
        opened = OpenAIEngine("gpt-x", endpoint(server.url, **settings), spent=spent, seed=7)
        try:
            yield opened, server
        finally:
            opened.close()


def echo(body: dict[str, Any], _: int) -> Answer:
    question = body["messages"][-1]["content"]
    return completion(*(f"{question} #### {i}" for i in range(body.get("n", 1))))


def test_samples_come_in_one_request_with_their_tokens_shared_out() -> None:
    with engine(lambda *_: completion("ab" * 10, "ab" * 20, completion_tokens=30)) as (opened, server):
        [answer] = opened.generate([request()], SETTINGS)
    samples = (Generated("ab" * 10, "stop", 10), Generated("ab" * 20, "stop", 20))
    assert answer == Answered(5, samples, Usage(5, 30))
    assert server.asked == [
        {
            "model": "gpt-x",
            "messages": [{"role": "user", "content": QUESTIONS[0]}],
            "max_tokens": 64,
            "temperature": 0.7,
            "n": 2,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


def test_settings_that_openais_api_lacks_are_sent_where_they_have_an_effect() -> None:
    settings = replace(SETTINGS, top_k=50, min_p=0.1, repetition_penalty=1.1)
    with engine(echo, server="vllm") as (opened, server):
        opened.generate([request()], settings)
        opened.generate([request()], SETTINGS)
    names = ("top_k", "min_p", "repetition_penalty")
    assert [{name: body.get(name) for name in names} for body in server.asked] == [
        {"top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1},
        dict.fromkeys(names),
    ]


def test_a_chat_is_sent_as_it_is_with_the_arguments_of_its_template() -> None:
    chat = Chat((Message("system", "Be brief."), Message("user", "1+1?")), {"enable_thinking": False})
    with engine(echo, key_env=None) as (opened, server):
        opened.generate([replace(request(), prompt=chat)], SETTINGS)
    assert server.asked[0]["messages"] == chat.as_data()
    assert server.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.keys == ["Bearer none"]


def test_an_endpoint_without_n_is_asked_once_for_each_sample() -> None:
    def refuses_n(body: dict[str, Any], _: int) -> Answer:
        return refusal(400, "n must be 1") if "n" in body else completion("x")

    for script, asked in ((refuses_n, [2, 1, 1, 1, 1]), (lambda *_: completion("x"), [2, 1, 1, 1])):
        with engine(script) as (opened, server):
            for question in QUESTIONS[:2]:
                [answer] = opened.generate([request(question)], SETTINGS)
                assert len(answer.samples) == 2
                assert answer.usage == Usage(10, 24)
        assert [body.get("n", 1) for body in server.asked] == asked


def test_reasoning_stands_in_front_and_a_cut_text_is_truncated() -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        answer = completion("4", reasoning_content="2+2") if number else completion("ab", reasoning="hm")
        return Answer(200, answer.body.replace(b'"stop"', b'"length"') if number else answer.body)

    with engine(script) as (opened, _):
        texts = [opened.generate([request(n=1, start=i)], SETTINGS)[0].samples[0] for i in range(2)]
    assert [(text.text, text.finish_reason) for text in texts] == [
        ("<think>hm</think>ab", "stop"),
        ("<think>2+2</think>4", "length"),
    ]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_or_failing_endpoint_is_asked_again(status: int) -> None:
    with engine(lambda body, number: refusal(status) if number < 2 else echo(body, number), retry_seconds=9) as opened:
        [answer] = opened[0].generate([request()], SETTINGS)
    assert len(answer.samples) == 2
    assert len(opened[1].asked) == 3


def test_retry_after_is_waited_for_and_bounded() -> None:
    def once(body: dict[str, Any], number: int) -> Answer:
        return refusal(429, Retry_After="2") if not number else echo(body, number)

    started = time.monotonic()
    with engine(once, retry_seconds=9) as (opened, _):
        opened.generate([request()], SETTINGS)
    assert time.monotonic() - started > 1.9
    reason = r"HTTP 429: .*slow down.*asks to wait 3600 s.*retry_seconds=1"
    with (
        engine(lambda *_: refusal(429, "slow down", Retry_After="3600")) as (opened, server),
        pytest.raises(Unavailable, match=reason),
    ):
        opened.generate([request()], SETTINGS)
    assert len(server.asked) == 1


def test_an_endpoint_that_is_busy_from_some_time_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rft_ray.sampling.chat_endpoint.LONGEST_WAIT_S", 0.5)

    def used_up(body: dict[str, Any], number: int) -> Answer:
        return echo(body, number) if number == 2 or number > 30 else refusal(429, "used up")

    with engine(used_up) as (opened, _), pytest.raises(Unavailable, match=r"used up.*retry_seconds=1"):
        opened.generate([request(question) for question in QUESTIONS[:2]], SETTINGS)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the key is refused: .*OPENAI_API_KEY"),
        (403, "the key may not use this model"),
        (404, "there is no such model or address: .* endpoint.base_url"),
    ],
)
def test_a_refused_key_or_unknown_model_says_what_to_do_without_the_key(status: int, words: str) -> None:
    with engine(lambda *_: refusal(status, f"bad key {KEY}")) as (opened, server):
        for _ in range(2):
            with pytest.raises(Unavailable, match=f"gpt-x at {server.url}: HTTP {status}: {words}") as error:
                opened.generate([request()], SETTINGS)
            assert KEY not in str(error.value)
    assert len(server.asked) == 1


def test_an_error_message_never_holds_the_key() -> None:
    with (
        engine(lambda *_: refusal(500, f"bad {KEY} there"), retry_seconds=0) as (opened, _),
        pytest.raises(Unavailable, match=r"bad \*\*\* there") as error,
    ):
        opened.generate([request()], SETTINGS)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(200, completion("x").body[:20]), "no chat completion .*Invalid JSON"),
        (Answer(200, b'{"choices": []}'), "choices"),
        (Answer(200, b'{"choices": [{"message": {"content": "x"}}]}'), "usage: Field required"),
        (Answer(200, b"<html>"), "no chat completion"),
        (completion("x", completion_tokens=-1), "usage.completion_tokens"),
        (completion("x", prompt_tokens=10**30), "usage.prompt_tokens"),
        (Answer(200, b'{"choices": ' + b"[" * 100_000), "no chat completion"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_and_then_misbehaviour(answer: Answer, words: str) -> None:
    with (
        engine(lambda *_: answer, retry_seconds=20) as (opened, server),
        pytest.raises(Misbehaved, match=words) as error,
    ):
        opened.generate([request()], SETTINGS)
    assert len(server.asked) == 3
    assert "\n" not in str(error.value)


def test_an_answer_that_comes_byte_by_byte_is_given_up_at_the_timeout() -> None:
    with (
        engine(lambda *_: replace(completion("x"), byte_pause_s=0.1), timeout_seconds=0.5, retry_seconds=0) as (
            opened,
            _,
        ),
        pytest.raises(Unavailable, match=r"no answer within 0\.5 s"),
    ):
        opened.generate([request()], SETTINGS)


def test_an_endpoint_that_hangs_or_is_gone_is_unavailable() -> None:
    reason = r"no answer within 0\.3 s, for longer than endpoint\.retry_seconds=1"
    with (
        engine(lambda *_: Answer(HANG), timeout_seconds=0.3) as (opened, _),
        pytest.raises(Unavailable, match=reason),
    ):
        opened.generate([request()], SETTINGS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        opened = OpenAIEngine("gpt-x", endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}"), spent=0, seed=7)
        with pytest.raises(Unavailable, match=r"no connection.*: correct endpoint.base_url, or run the same"):
            opened.generate([request()], SETTINGS)
        opened.close()


def test_a_prompt_beyond_the_context_is_skipped_and_other_refusals_are_not() -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        if body["messages"][0]["content"] == QUESTIONS[1]:
            return refusal(400, "This model's maximum context length is 8 tokens")
        return refusal(400, "odd") if body["messages"][0]["content"] == QUESTIONS[2] else echo(body, number)

    with engine(script) as (opened, _):
        good, long = opened.generate([request(), request(QUESTIONS[1])], SETTINGS)
        assert (len(good.samples), long.samples) == (2, ())
        with pytest.raises(Misbehaved, match=r"HTTP 400: .*odd"):
            opened.generate([request(QUESTIONS[2])], SETTINGS)
    with (
        engine(lambda *_: refusal(400, "temperature is not supported")) as (opened, _),
        pytest.raises(Unavailable, match="temperature is not supported: correct the sampling settings"),
    ):
        opened.generate([request()], SETTINGS)


def context_of(tokens: int, prompt_tokens: int, message: str = "maximum context length is {} tokens") -> Script:
    """An endpoint with a context of so many tokens, which refuses what prompt and new tokens together exceed."""

    def script(body: dict[str, Any], number: int) -> Answer:
        if prompt_tokens + body["max_tokens"] > tokens:
            return refusal(400, f"This model's {message.format(tokens)}. However, you requested more")
        most = body["max_tokens"]
        return completion(*["x"] * body.get("n", 1), prompt_tokens=prompt_tokens, completion_tokens=most)

    return script


def test_a_prompt_that_fits_without_all_new_tokens_is_no_skipped_one() -> None:
    with engine(context_of(50, 20)) as (opened, server):
        [answer] = opened.generate([request()], SETTINGS)
    assert (answer.prompt_tokens, len(answer.samples)) == (20, 2)
    assert answer.usage == Usage(40, 31), "the request for one token is charged too"
    assert [(body["max_tokens"], body.get("n", 1)) for body in server.asked[-2:]] == [(1, 1), (30, 2)]
    with engine(context_of(50, 50)) as (opened, _):
        [answer] = opened.generate([request()], SETTINGS)
    assert answer == Answered(0, (), Usage())


def test_a_context_whose_length_is_not_said_fails_the_shard_and_skips_nothing() -> None:
    with (
        engine(context_of(50, 20, "prompt is too long")) as (opened, _),
        pytest.raises(Misbehaved, match="too long"),
    ):
        opened.generate([request()], SETTINGS)


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
def test_a_text_that_the_endpoint_broke_off_is_no_sample(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT_S", 0.01)

    def script(body: dict[str, Any], number: int) -> Answer:
        broken = completion("5 is", "2+3 = 5").body.replace(b'"stop"', f'"{reason}"'.encode(), 1)
        return Answer(200, broken) if number < 2 else echo(body, number)

    with engine(script, retry_seconds=9) as (opened, server):
        [answer] = opened.generate([request()], SETTINGS)
    assert [sample.text for sample in answer.samples] == [f"{QUESTIONS[0]} #### {i}" for i in range(2)]
    assert len(server.asked) == 3
    with engine(lambda *_: script({}, 0), retry_seconds=9) as (opened, _), pytest.raises(Misbehaved, match=reason):
        opened.generate([request()], SETTINGS)


def test_the_newer_name_of_the_token_limit_is_learnt() -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        return refusal(400, "use max_completion_tokens instead") if "max_tokens" in body else echo(body, number)

    with engine(script, retry_seconds=9) as (opened, server):
        opened.generate([request()], SETTINGS)
    assert server.asked[-1]["max_completion_tokens"] == 64


def test_no_more_requests_than_allowed_are_in_progress() -> None:
    with engine(echo, max_concurrency=3) as (opened, server):
        opened.generate([request(question) for question in QUESTIONS * 5], SETTINGS)
    assert server.most_at_once == 3


def test_answers_of_a_failed_shard_are_not_paid_for_twice() -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        bad = body["messages"][0]["content"] == QUESTIONS[1] and number < 6
        return Answer(200, b"{") if bad else echo(body, number)

    requests = [request(question) for question in QUESTIONS]
    with engine(script, retry_seconds=20) as (opened, server):
        with pytest.raises(Misbehaved):
            opened.generate(requests, SETTINGS)
        assert len(server.asked) == 6
        assert len(opened.generate(requests, SETTINGS)) == 4
    assert len(server.asked) == 7


def test_a_missing_key_is_named_and_a_local_endpoint_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(Unavailable, match="variable OPENAI_API_KEY is not set where the samplers run"):
        OpenAIEngine("gpt-x", config.Endpoint(), spent=0, seed=7)
    with engine(echo, key_env=None) as (opened, _):
        assert len(opened.generate([request()], SETTINGS)[0].samples) == 2
