"""A model behind an endpoint through the sampler: shards, commits, quarantine, budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.data.problems import ProblemSet, commit_problems, ordered
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.records import Completion, from_table
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import Store, open_store, read_table
from rft_ray.store.shards import missing_shards
from tests.unit.sampling.chat_server import Answer, refusal, serving
from tests.unit.sampling.test_openai_engine import KEY, QUESTIONS, SETTINGS, echo, endpoint, key, request  # noqa: F401 - key is a fixture of every test


def problems() -> ProblemSet:
    return ordered([request(question).problem for question in QUESTIONS], 0, 2)


def teaching_job(samples: int = 4) -> SamplingJob:
    in_set = problems()
    return SamplingJob(
        ModelRef("teacher", "base", "f" * 16, "openai:gpt-x"), in_set.fingerprint, 4, 2, SETTINGS, samples, 0
    )


def sampler(store: Store, url: str, **settings: Any) -> Sampler:
    commit_problems(store, problems())
    endpoints = {"teacher": endpoint(url, **settings)}
    return Sampler(store, [teaching_job()], config.Engine(max_failures=2), False, 0, endpoints=endpoints)


def sampled(store: Store, url: str, **settings: Any) -> list[SampleReceipt]:
    sample = sampler(store, url, **settings)
    return [sample(shard) for shard in missing_shards(store, teaching_job().shards())]


def test_shards_hold_the_samples_and_the_tokens_charged(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with serving(echo) as server:
        receipts = sampled(store, server.url)
    assert [receipt.rows for receipt in receipts] == [4, 4, 4, 4]
    kept = b""
    for shard in teaching_job().shards():
        table, metadata = read_table(store, shard.key())
        rows = from_table(table, Completion)
        assert [row.sample_index for row in rows] == [2 * (shard.sample_block or 0) + i for i in (0, 1)] * 2
        assert json.loads(metadata["counts"]) == {
            "sampled": 4, "skipped": 0, "tokens": 24, "prompt_tokens": 10, "completion_tokens": 24
        }  # fmt: skip
        assert json.loads(metadata["environment"])["engine"] == "openai"
        kept += repr((rows, metadata)).encode() + store.read(shard.key())
    assert KEY.encode() not in kept


def test_a_shard_with_unusable_answers_is_quarantined_and_the_process_lives(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    bad = problems().problems[0].question

    def script(body: dict[str, Any], number: int) -> Answer:
        return Answer(200, b"[1, 2") if body["messages"][0]["content"] == bad else echo(body, number)

    with serving(script) as server:
        receipts = sampled(store, server.url, retry_seconds=20)
    assert [receipt.refusal for receipt in receipts] == ["quarantined", "quarantined", None, None]
    assert "no chat completion" in receipts[0].reason
    assert len(missing_shards(store, teaching_job().shards())) == 2
    assert len(list(store.list("failures/"))) == 4


def test_an_endpoint_that_goes_away_stops_its_model_and_is_resumed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with serving(lambda body, number: echo(body, number) if number < 2 else refusal(503)) as server:
        receipts = sampled(store, server.url)
    assert [bool(receipt.unloadable) for receipt in receipts] == [False, True, True, True]
    assert "HTTP 503" in receipts[-1].unloadable
    assert not list(store.list("failures/"))
    with serving(echo) as server:
        assert len(sampled(store, server.url)) == 3
        assert len(server.asked) == 6
    assert not missing_shards(store, teaching_job().shards())


def test_a_used_up_budget_stops_at_a_shard_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with serving(echo) as server:
        for budget, unfinished in ((68, 2), (68, 2), (1000, 0)):  # a shard of two problems uses 34 tokens
            receipts = sampled(store, server.url, token_budget=budget)
            stopped = [receipt.unloadable for receipt in receipts if receipt.unloadable]
            assert len(missing_shards(store, teaching_job().shards())) == len(stopped) == unfinished
            assert all("the token budget of 68 is used up (68 tokens): raise" in reason for reason in stopped)
        assert len(server.asked) == 8
