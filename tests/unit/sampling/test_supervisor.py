"""Whose fault it is when an engine dies, and what is on record of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.plan.jobs import ModelRef, SamplingJob, SamplingSettings
from rft_ray.sampling import quarantine
from rft_ray.sampling.supervisor import SILENT, Foreman
from rft_ray.store import open_store

JOB = SamplingJob(ModelRef("m", "sft", "f" * 16), "5" * 16, 8, 4, SamplingSettings(0.7, 1.0, 64, 2, "{query}"), 4, 0)
A, B, C, D = (shard.stem for shard in JOB.shards())


@pytest.fixture
def foreman(tmp_path: Path) -> Foreman:
    return Foreman(str(tmp_path), max_failures=2, max_quarantined=1)


def failures(tmp_path: Path) -> dict[str, int]:
    return {stem: past.failures for stem, past in quarantine.histories(open_store(str(tmp_path))).items()}


def alone(foreman: Foreman, stem: str, process: str, reason: str = "it broke") -> None:
    foreman.begun(stem, "s", process)
    foreman.died("s", process, reason)


def test_shards_that_were_together_in_a_dead_engine_are_tried_alone_and_not_blamed(
    foreman: Foreman, tmp_path: Path
) -> None:
    assert foreman.order(A, "s", "p1") == ("together", "")
    foreman.begun(A, "s", "p1")
    foreman.begun(B, "s", "p1")
    assert foreman.order(C, "s", "p2") == ("together", "")  # a new process: the old one is dead
    assert [foreman.order(stem, "s", "p2")[0] for stem in (A, B)] == ["alone", "alone"]
    assert failures(tmp_path) == {}


def test_a_shard_that_was_alone_is_blamed_though_the_process_said_nothing(foreman: Foreman, tmp_path: Path) -> None:
    foreman.begun(A, "s", "p1")
    foreman.order(B, "s", "p2")
    assert failures(tmp_path) == {A: 1}
    [record] = open_store(str(tmp_path)).list("failures/")
    assert SILENT in open_store(str(tmp_path)).read(record).decode()


def test_a_shard_that_the_engine_names_is_blamed_and_its_company_is_not(foreman: Foreman, tmp_path: Path) -> None:
    foreman.begun(A, "s", "p1")
    foreman.begun(B, "s", "p1")
    foreman.died("s", "p1", "an empty sample", A)
    assert failures(tmp_path) == {A: 1}
    assert foreman.order(B, "s", "p2")[0] == "together"


def test_what_a_dying_process_begins_in_another_thread_is_not_blamed(foreman: Foreman, tmp_path: Path) -> None:
    alone(foreman, A, "p1")
    foreman.begun(B, "s", "p1")
    assert foreman.order(B, "s", "p2")[0] == "together"
    assert failures(tmp_path) == {A: 1}


def test_what_a_death_did_is_counted_once_whoever_tells_of_it(foreman: Foreman, tmp_path: Path) -> None:
    foreman.begun(A, "s", "p1")
    for _ in range(3):
        foreman.died("s", "p1", "it hangs")
    foreman.order(B, "s", "p2")
    assert failures(tmp_path) == {A: 1}


def test_an_answered_shard_is_not_suspect_any_more(foreman: Foreman, tmp_path: Path) -> None:
    foreman.begun(A, "s", "p1")
    foreman.begun(B, "s", "p1")
    foreman.died("s", "p1", "it hangs")
    foreman.begun(A, "s", "p2")
    foreman.ended(A, "s", "p2")
    assert foreman.order(A, "s", "p2")[0] == "together"
    assert foreman.order(B, "s", "p2")[0] == "alone"


def test_enough_failures_quarantine_a_shard_and_too_many_shards_stop_it_all(foreman: Foreman) -> None:
    for turn in range(2):
        alone(foreman, A, f"a{turn}")
    assert foreman.order(A, "s", "x") == ("quarantined", "it broke")
    assert foreman.order(C, "s", "x")[0] == "together"
    for turn in range(2):
        alone(foreman, B, f"b{turn}")
    assert foreman.order(C, "s", "x")[0] == "given up"


def test_failures_outlive_the_foreman_and_another_chance_is_a_record_too(foreman: Foreman, tmp_path: Path) -> None:
    alone(foreman, A, "p1")
    after = Foreman(str(tmp_path), max_failures=2, max_quarantined=1, suspects=[A])
    assert after.order(A, "s", "p2")[0] == "alone"
    alone(after, A, "p2", "again")
    store = open_store(str(tmp_path))
    [held] = quarantine.held(store, [JOB], list(JOB.shards()), 2)
    assert (held.shard.stem, held.model, held.samples, held.failures, held.reason) == (A, "m (sft)", 8, 2, "again")
    quarantine.retry(store, [held])
    assert quarantine.held(store, [JOB], list(JOB.shards()), 2) == []
    assert quarantine.note(store, A, quarantine.FAILED, "anew") == 1
    assert len(list(store.list("failures/"))) == 4


def test_a_model_that_runs_out_of_memory_is_tried_so_often_and_then_left_out(foreman: Foreman) -> None:
    foreman.refused("m", "out of memory")
    assert foreman.unloadable("m") == ""
    foreman.refused("m", "out of memory")
    assert foreman.unloadable("m") == "out of memory (2 times)"


def test_nothing_is_begun_while_the_run_is_drained(foreman: Foreman) -> None:
    foreman.drain()
    assert foreman.order(A, "s", "p")[0] == "drained"
