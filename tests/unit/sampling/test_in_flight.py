"""How many shards are in an engine at once: enough to fill its batch, and no more than its share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rft_ray import config
from rft_ray.config.endpoint import Endpoint
from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling.assignment import Assignment, Pace, Work
from rft_ray.sampling.engine import Answered, Request
from rft_ray.sampling.engine_host import EngineHost
from rft_ray.sampling.in_flight import Gate, InFlight, in_flight, sequences_at_once, sequences_of
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import mark_run, open_store
from tests.chaos.small_run import PROBLEMS, commit_problems
from tests.unit.sampling.test_assignment import first_shards, work

GREEDY, COLLECTED = 50, 800
"""Sequences of a shard of 50 problems: one of each, and 16 of each."""


@pytest.mark.parametrize(
    ("sizes", "engines", "most"),
    [
        ([COLLECTED] * 300, 8, 4),
        ([COLLECTED] * 300 + [GREEDY] * 27, 8, 21),
        ([GREEDY] * 27, 1, 21),
        ([GREEDY] * 27, 2, 13),
        ([GREEDY] * 27, 8, 4),
        ([1] * 1000, 1, 32),
    ],
)
def test_small_shards_fill_an_engine_and_leave_the_others_theirs(sizes: list[int], engines: int, most: int) -> None:
    engine = config.Engine(max_num_seqs=512)
    assert in_flight(engine, engine.max_num_seqs, sizes, engines) == InFlight(4, most, 1024)
    chosen = config.Engine(max_num_seqs=512, shards_in_flight=2)
    bounds = in_flight(chosen, chosen.max_num_seqs, sizes, engines)
    assert (bounds.least, bounds.most) == (2, 2)


def job(engine: str, model: str = "m") -> SamplingJob:
    settings = SamplingSettings(0.7, 1.0, 64, 2, "{query}", engine=engine)
    return SamplingJob(ModelRef(model, "base", model * 16), PROBLEMS.fingerprint, PROBLEMS.count, 1, settings, 4, 0)


def test_an_endpoint_gets_requests_of_whole_problems_and_others_sequences() -> None:
    endpoints = {"m": Endpoint(max_concurrency=64), "n": Endpoint()}
    asked = [job("openai", name) for name in "mn"]
    assert sequences_at_once(config.Engine(), asked, endpoints) == 64
    assert sequences_at_once(config.Engine(), [job("vllm")], {}) == config.Engine().max_num_seqs
    shard = next(iter(job("vllm").shards()))
    assert sequences_of(shard, job("vllm")) == 2 * sequences_of(shard, job("openai")) == 2


def test_a_sampler_takes_no_more_than_its_share_of_what_is_left() -> None:
    assignment = Assignment(work({"a": 20}), Pace())
    assert first_shards(assignment, "s", 6) == ["a"] * 6  # nobody else is there
    assert first_shards(assignment, "t", 11) == ["a"] * 10 + ["wait"]
    assert first_shards(assignment, "s", 5) == ["a"] * 4 + ["none"]


def test_a_sampler_has_its_least_shards_whatever_is_left() -> None:
    assignment = Assignment(work({"a": 6}), Pace(), least=4)
    first_shards(assignment, "t", 1)
    assert first_shards(assignment, "s", 5) == ["a"] * 4 + ["wait"]
    assignment.ended("t")
    assert first_shards(assignment, "s", 2) == ["a", "a"]


def test_shards_of_different_sizes_share_by_sequences() -> None:
    [large, *small] = work({"a": 9})
    shards = [Work(large.shard, "a", "llama", 8 * large.sequences), *small]
    assignment = Assignment(shards, Pace(), least=1)
    assert first_shards(assignment, "s", 1) == ["a"]
    assert first_shards(assignment, "t", 1) == ["a"]
    assert first_shards(assignment, "s", 1) == ["wait"]
    assert first_shards(assignment, "t", 8) == ["a"] * 7 + ["none"]


def test_a_gate_lets_shards_in_until_the_engine_is_full() -> None:
    gate = Gate(InFlight(least=2, most=9, sequences=100))
    inside, most, lock = 0, [0], threading.Lock()
    release = threading.Semaphore(0)

    def work_on(sequences: int) -> None:
        nonlocal inside
        with gate.taking():
            gate.enter(sequences)
        with lock:
            inside += 1
            most[0] = max(most[0], inside)
        entered.release()
        release.acquire(timeout=20)
        with lock:
            inside -= 1
        gate.leave(sequences)

    for sizes, expected in (([30] * 9, 4), ([500] * 9, 2), ([100] + [1] * 8, 2)):
        entered, most[0] = threading.Semaphore(0), 0
        with ThreadPoolExecutor(9) as threads:
            for size in sizes:
                threads.submit(work_on, size)
            for _ in range(expected):
                assert entered.acquire(timeout=20)
            assert not entered.acquire(timeout=0.1)
            release.release(9)
        assert most[0] == expected or sizes[0] == 100  # the small ones follow a large one together


def test_as_many_small_shards_are_in_the_engine_as_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight shards of two sequences, and room for eight sequences: four at once, and never a fifth."""
    together, at_once, inside, lock = threading.Barrier(4), [0], [0], threading.Lock()
    generate = EngineHost.generate

    def counted(self: EngineHost, requests: list[Request], settings: SamplingSettings) -> list[Answered]:
        with lock:
            inside[0] += 1
            at_once[0] = max(at_once[0], inside[0])
        together.wait(20)
        answers = generate(self, requests, settings)
        together.wait(20)
        with lock:
            inside[0] -= 1
        return answers

    monkeypatch.setattr(EngineHost, "generate", counted)
    store = open_store(str(tmp_path))
    mark_run(store)
    commit_problems(store, PROBLEMS)
    shards = list(job("scripted").shards())
    sampler = Sampler(store, [job("scripted")], config.Engine(), False, 0, bounds=InFlight(1, 8, 8))
    with ThreadPoolExecutor(8) as threads:
        assert [receipt.rows for receipt in threads.map(sampler, shards)] == [2] * len(shards) == [2] * 8
    assert at_once == [4]
