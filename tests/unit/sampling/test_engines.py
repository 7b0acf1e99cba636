"""Engines: seeds never repeat; the scripted engine's texts depend only on problem and sample index."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rft_ray.config.engine_script import parse
from rft_ray.grading import grade
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import SKIPPED, Problem, Status
from rft_ray.sampling.engine import Answered, Generated, Misbehaved, Request, check_answers, engine_seed
from rft_ray.sampling.sampler import completions
from rft_ray.sampling.scripted_engine import Batch, ScriptedEngine

SETTINGS = SamplingSettings(0.7, 1.0, 64, 8, "{query}")
PROBLEM = Problem("a" * 16, "Tom has 3 pens and buys 2. How many?", "3+2 = <<3+2=5>>5\n#### 5", "5")


def test_every_start_of_an_engine_has_its_own_seed() -> None:
    seeds = {engine_seed(0, str(i)) for i in range(2000)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_runs_seed_changes_every_engines_seed() -> None:
    assert engine_seed(0, "x") != engine_seed(1, "x")


def test_scripted_samples_depend_only_on_problem_and_index() -> None:
    whole = ScriptedEngine(1).generate([Request(PROBLEM, "q", 0, 8)], SETTINGS)[0].samples
    halves = [ScriptedEngine(2).generate([Request(PROBLEM, "q", s, 4)], SETTINGS)[0].samples for s in (0, 4)]
    assert whole == halves[0] + halves[1]


def test_scripted_samples_give_every_verdict() -> None:
    samples = ScriptedEngine(0).generate([Request(PROBLEM, "q", 0, 64)], SETTINGS)[0].samples
    verdicts = {grade(s.text, "5", "paper", truncated=s.finish_reason == "length").status for s in samples}
    assert {Status.CORRECT, Status.WRONG_ANSWER, Status.NO_ANSWER, Status.BAD_EQUATION} <= verdicts


def test_every_sample_of_a_prompt_longer_than_the_context_is_skipped() -> None:
    rows = completions(Request(PROBLEM, "q", 8, 3), Answered(9000, ()))
    assert [(row.sample_index, row.finish_reason, row.text) for row in rows] == [
        (8, SKIPPED, ""),
        (9, SKIPPED, ""),
        (10, SKIPPED, ""),
    ]


def test_a_lone_surrogate_in_a_sample_is_stored_as_a_replacement() -> None:
    rows = completions(Request(PROBLEM, "q", 0, 1), Answered(3, (Generated("5 \ud800", "stop", 2),)))
    assert rows[0].text == "5 ?"


@pytest.mark.parametrize(
    ("fault", "message"),
    [("few:", "7 samples instead of 8"), ("empty:", "without a s"), ("endless:", "4000000 t")],
)
def test_impossible_answers_are_refused(fault: str, message: str) -> None:
    asked = [Request(PROBLEM, "q", 0, 8)]
    check_answers(asked, ScriptedEngine(0).generate(asked, SETTINGS), SETTINGS)
    check_answers(asked, [Answered(9000, ())], SETTINGS)  # a prompt that is too long
    with pytest.raises(Misbehaved, match=message):
        check_answers(asked, ScriptedEngine(0, fault).generate(asked, SETTINGS), SETTINGS)
    with pytest.raises(Misbehaved, match="0 answers to 1"):
        check_answers(asked, [], SETTINGS)


def test_a_batch_gives_each_sequence_a_token_a_step_and_lets_in_what_has_room() -> None:
    batch = Batch(step_s=0.5, most=2)
    assert batch.end_of([4, 6, 2], now=100.0) == 103.0  # 4 and 6 tokens at once, then 2 in the place of the 4
    assert batch.end_of([2], now=100.0) == 104.0  # another request waits behind it: both places are free at 103.0
    assert batch.end_of([2], now=200.0) == 201.0
    assert batch.end_of([], now=300.0) == 300.0


def test_a_scripted_step_takes_time_for_all_requests_together() -> None:
    """32 samples of 10 tokens at most, 8 at once: four times ten steps; two requests at once take twice as long."""
    engine = ScriptedEngine(0, "step=0.005", max_num_seqs=8)
    alone = ScriptedEngine(0).generate([Request(PROBLEM, "q", 0, 32)], SETTINGS)
    steps = sum(sample.tokens for sample in alone[0].samples) / 8
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda _: engine.generate([Request(PROBLEM, "q", 0, 32)], SETTINGS), range(2))]
    assert time.monotonic() - began >= 2 * steps * 0.005
    assert answers == [alone, alone]
    assert engine.progress == 4  # of each request: its texts, and its end


@pytest.mark.parametrize("script", ["step=", "step=x", "step=0", "step=-1", "step=inf", "step=1,step=2", "step"])
def test_a_step_without_a_time_is_refused(script: str) -> None:
    with pytest.raises(ValueError, match="bad step"):
        parse(script)


def test_opening_takes_the_time_of_the_script() -> None:
    began = time.monotonic()
    ScriptedEngine(0, "open-slow=0.2:GPU 1", "10.0.0.7 GPU 1")
    assert time.monotonic() - began >= 0.2
