"""Which shard a dead engine is counted against, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling import places, quarantine
from rft_ray.sampling.assignment import Work
from rft_ray.sampling.places import LoadFailure, Place, Sites
from rft_ray.sampling.supervisor import SILENT, Supervisor, Turn
from rft_ray.store import open_store

JOB = SamplingJob(ModelRef("m", "sft", "f" * 16), "5" * 16, 8, 4, SamplingSettings(0.7, 1.0, 64, 2, "{query}"), 4, 0)
HERE, THERE = Place("n1", "10.0.0.1", ("0",)), Place("n2", "10.0.0.2", ("0",))
SHARDS = list(JOB.shards())
A, B, C, D = (shard.stem for shard in SHARDS)


def work(models: str) -> list[Work]:
    """A shard of each model."""
    return [Work(shard, model, "llama", 8) for shard, model in zip(SHARDS, models, strict=False)]


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(open_store(str(tmp_path)), max_failures=2, max_quarantined=1)


def failures(tmp_path: Path) -> dict[str, int]:
    return {stem: past.failures for stem, past in quarantine.histories(open_store(str(tmp_path))).items()}


def fail_exclusively(supervisor: Supervisor, stem: str, process: str, reason: str = "it broke") -> None:
    supervisor.started(stem, "s", process)
    supervisor.died("s", process, reason)


def test_shards_that_shared_a_dead_engine_are_tried_exclusively_and_count_no_failure(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    assert supervisor.decide(A, "s", "p1") == ("shared", "")
    supervisor.started(A, "s", "p1")
    supervisor.started(B, "s", "p1")
    assert supervisor.decide(C, "s", "p2") == ("shared", "")  # a new process: the old one is dead
    assert [supervisor.decide(stem, "s", "p2")[0] for stem in (A, B)] == ["exclusive", "exclusive"]
    assert failures(tmp_path) == {}


def test_a_shard_alone_in_a_dead_engine_counts_a_failure_without_a_report(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.started(A, "s", "p1")
    supervisor.decide(B, "s", "p2")
    assert failures(tmp_path) == {A: 1}
    [record] = open_store(str(tmp_path)).list("failures/")
    assert SILENT in open_store(str(tmp_path)).read(record).decode()


def test_a_shard_that_the_engine_names_counts_a_failure_and_the_others_do_not(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.started(A, "s", "p1")
    supervisor.started(B, "s", "p1")
    supervisor.died("s", "p1", "an empty sample", A)
    assert failures(tmp_path) == {A: 1}
    assert supervisor.decide(B, "s", "p2")[0] == "shared"


def test_a_shard_that_a_dying_process_starts_in_another_thread_counts_no_failure(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    fail_exclusively(supervisor, A, "p1")
    supervisor.started(B, "s", "p1")
    assert supervisor.decide(B, "s", "p2")[0] == "shared"
    assert failures(tmp_path) == {A: 1}


def test_a_death_is_counted_once_however_often_it_is_reported(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.started(A, "s", "p1")
    for _ in range(3):
        supervisor.died("s", "p1", "it hangs")
    supervisor.decide(B, "s", "p2")
    assert failures(tmp_path) == {A: 1}


def test_a_finished_shard_is_not_counted_when_the_engine_dies_later(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.started(A, "s", "p1")
    supervisor.started(B, "s", "p1")
    supervisor.died("s", "p1", "it hangs")
    supervisor.started(A, "s", "p2")
    supervisor.answered(A, "s", "p2")
    assert supervisor.decide(A, "s", "p2")[0] == "shared"
    assert supervisor.decide(B, "s", "p2")[0] == "exclusive"


def test_enough_failures_quarantine_a_shard_and_too_many_shards_stop_the_stage(supervisor: Supervisor) -> None:
    for attempt in range(2):
        fail_exclusively(supervisor, A, f"a{attempt}")
    assert supervisor.decide(A, "s", "x") == ("quarantined", "it broke")
    assert supervisor.decide(C, "s", "x")[0] == "shared"
    for attempt in range(2):
        fail_exclusively(supervisor, B, f"b{attempt}")
    assert supervisor.decide(C, "s", "x")[0] == "aborted"


def test_a_new_supervisor_knows_earlier_failures_and_retries(supervisor: Supervisor, tmp_path: Path) -> None:
    fail_exclusively(supervisor, A, "p1")
    after = Supervisor(open_store(str(tmp_path)), max_failures=2, max_quarantined=1, failures={A: 1})
    assert after.decide(A, "s", "p2")[0] == "exclusive"
    fail_exclusively(after, A, "p2", "again")
    assert after.decide(A, "s", "p3") == ("quarantined", "again")
    store = open_store(str(tmp_path))
    [held] = quarantine.held(store, [JOB], list(JOB.shards()), 2)
    assert (held.shard.stem, held.model, held.samples, held.failures, held.reason) == (A, "m (sft)", 8, 2, "again")
    quarantine.retry(store, [held])
    assert quarantine.held(store, [JOB], list(JOB.shards()), 2) == []
    quarantine.Record(A, quarantine.FAILED, "anew").write(store)
    assert failures(tmp_path) == {A: 1}
    assert len(list(store.list("failures/"))) == 4


def test_a_model_that_runs_out_of_memory_is_tried_max_failures_times(supervisor: Supervisor) -> None:
    supervisor.load_failed("m", "s", HERE, "out of memory", True)
    assert supervisor.load_verdict("m", HERE) == ("load", "")
    supervisor.load_failed("m", "s", HERE, "out of memory", True)
    assert supervisor.load_verdict("m", HERE) == ("unloadable", "out of memory (2 times)")


@pytest.fixture
def fleet(supervisor: Supervisor) -> Supervisor:
    """The supervisor of two models on 8 places, one of which has failed with m."""
    supervisor.begin_round(1, work("mn"), Sites(hosts=2, places=8))
    supervisor.load_failed("m", "s", HERE, "no kernel image", False)
    return supervisor


def test_a_place_that_others_stand_in_for_is_recorded(fleet: Supervisor, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert places.noted(store) == [LoadFailure("m", HERE, "no kernel image")]
    alone = Supervisor(store, max_failures=2, max_quarantined=1)
    alone.load_failed("n", "s", HERE, "no such model", False)
    assert len(places.noted(store)) == 1


def test_a_sampler_gets_no_shard_of_a_model_that_its_place_cannot_load(fleet: Supervisor) -> None:
    """B is the shard of the other model."""
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("shared", SHARDS[1])
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("wait")
    assert fleet.take(A, "t", "p2", THERE, 1) == Turn("shared", SHARDS[0])
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("none")


def test_a_sampler_waits_where_it_can_load_none_of_the_models_until_the_round_is_over(fleet: Supervisor) -> None:
    fleet.begin_round(1, work("m"), Sites(hosts=2, places=8))
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("wait")
    assert fleet.status().waiting == 1
    fleet.begin_round(2, work("m"), Sites(hosts=2, places=8))
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("given_up")
    assert fleet.status().waiting == 0


def test_a_shard_that_a_place_gives_back_is_taken_by_another(fleet: Supervisor) -> None:
    fleet.begin_round(1, work("n"), Sites(hosts=2, places=8))
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("shared", SHARDS[0])
    assert fleet.take(A, "t", "p2", THERE, 1) == Turn("none")
    fleet.load_failed("n", "s", HERE, "no kernel image", False)
    fleet.give_back(A, "s", 1)
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("wait")
    assert fleet.take(A, "t", "p2", THERE, 1) == Turn("shared", SHARDS[0])


def test_a_sampler_that_waits_gets_the_shard_to_return_when_no_place_can_load_its_model(fleet: Supervisor) -> None:
    fleet.begin_round(1, work("m"), Sites(hosts=2, places=8))
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("wait")
    fleet.load_failed("m", "t", THERE, "no kernel image", False)
    assert fleet.load_verdict("m", HERE)[0] == "unloadable"
    assert fleet.take(A, "s", "p1", HERE, 1) == Turn("shared", SHARDS[0])
    assert fleet.status().waiting == 0


def test_a_sampler_that_waits_with_one_turn_and_samples_in_another_works(fleet: Supervisor) -> None:
    fleet.begin_round(1, work("m"), Sites(hosts=2, places=8))
    fleet.take(A, "s", "p1", HERE, 1)
    fleet.load_began("n", "s")
    assert fleet.status().waiting == 0
    fleet.loaded("n", "s")
    fleet.started(B, "s", "p1")
    assert fleet.status().waiting == 0
    fleet.answered(B, "s", "p1")
    assert fleet.status().waiting == 1


def test_the_shards_of_a_dead_process_are_given_out_again(supervisor: Supervisor) -> None:
    """C has been returned."""
    supervisor.begin_round(1, work("mmm"), Sites(hosts=2, places=8))
    assert [supervisor.take(A, "s", "p1", HERE, 1).shard for _ in SHARDS[:3]] == SHARDS[:3]
    assert supervisor.take(A, "s", "p1", HERE, 1, [C]) == Turn("none")
    supervisor.started(A, "s", "p1")
    assert supervisor.may_start("s", "p2", HERE, 1)
    turns = [supervisor.take(A, "t", "p3", THERE, 1) for _ in SHARDS[:3]]
    assert [turn.shard for turn in turns] == [SHARDS[0], SHARDS[1], None]
    assert [turn.decision for turn in turns] == ["exclusive", "shared", "none"]


def test_a_place_that_can_load_none_of_a_rounds_models_takes_no_shard(fleet: Supervisor) -> None:
    assert fleet.may_start("s", "p1", HERE, 1)  # n may load there
    fleet.begin_round(2, work("m"), Sites(hosts=2, places=8))
    assert not fleet.may_start("t", "p2", HERE, 2)
    assert fleet.status().waiting_at_start == 1
    assert fleet.may_start("u", "p3", THERE, 2)
    fleet.begin_round(3, work("n"), Sites(hosts=2, places=8))
    assert fleet.may_start("t", "p2", HERE, 2)  # its round is over: its process may end


def test_samplers_wait_for_their_round_to_begin(supervisor: Supervisor) -> None:
    """Their processes and the supervisor's start at the same time; who waits for that holds up nobody."""
    assert not supervisor.may_start("s", "p1", HERE, 1)
    assert supervisor.status().waiting_at_start == 0
    supervisor.begin_round(1, work("m"), Sites(hosts=2, places=8))
    assert supervisor.may_start("s", "p1", HERE, 1)
    assert not supervisor.may_start("t", "p2", HERE, 2)
    supervisor.drain()
    assert supervisor.may_start("t", "p2", HERE, 2)


def test_whoever_waits_is_released_when_the_run_is_drained(fleet: Supervisor) -> None:
    fleet.begin_round(2, work("m"), Sites(hosts=2, places=8))
    assert not fleet.may_start("s", "p1", HERE, 2)
    fleet.drain()
    assert fleet.may_start("s", "p1", HERE, 2)
    assert fleet.take(A, "s", "p1", HERE, 2).decision == "draining"


def test_a_restarted_sampler_loads_no_longer_what_its_last_process_did(supervisor: Supervisor) -> None:
    supervisor.begin_round(1, work("m"), Sites(hosts=2, places=2))
    supervisor.load_began("m", "killed")
    assert supervisor.may_start("killed", "p2", HERE, 1)
    for place in (HERE, THERE):
        supervisor.load_failed("m", "s", place, "no kernel image", False)
    assert supervisor.load_verdict("m", HERE)[0] == "unloadable"


def test_no_shard_starts_while_the_run_is_drained(supervisor: Supervisor) -> None:
    supervisor.drain()
    assert supervisor.decide(A, "s", "p")[0] == "draining"
    assert supervisor.take(A, "s", "p", HERE, 1).decision == "draining"


def test_a_lost_node_makes_no_shard_a_suspect_until_it_has_lost_several(tmp_path: Path) -> None:
    """A spot node takes a whole engine's shards with it, and none of them is the cause."""
    lost: set[str] = set()
    supervisor = Supervisor(
        open_store(str(tmp_path)), max_failures=2, max_quarantined=1, failures={D: 1}, is_lost=lost.__contains__
    )
    supervisor.begin_round(1, [], Sites(hosts=2, places=8))
    for number in range(4):
        assert supervisor.may_start("s", f"p{number}", Place(f"n{number}", "10.0.0.1", ("0",)), 1)
        decisions = [supervisor.decide(stem, "s", f"p{number}")[0] for stem in (A, B)]
        assert decisions == (["shared"] * 2 if number <= 2 else ["exclusive"] * 2)
        for stem in (A, B):
            supervisor.started(stem, "s", f"p{number}")
        lost.add(f"n{number}")
    assert failures(tmp_path) == {}


def test_a_lost_node_counts_no_failure_of_a_shard_that_was_alone_there(tmp_path: Path) -> None:
    supervisor = Supervisor(open_store(str(tmp_path)), 3, 1, {A: 1}, {"n1"}.__contains__)
    supervisor.begin_round(1, [], Sites(hosts=2, places=8))
    for process, place in (("p1", HERE), ("p2", THERE), ("p3", THERE)):
        assert supervisor.may_start("s", process, place, 1)
        assert supervisor.decide(A, "s", process)[0] == "exclusive"
        assert failures(tmp_path) == ({A: 1} if process == "p3" else {})  # n2 is there: a process has ended
        supervisor.started(A, "s", process)
