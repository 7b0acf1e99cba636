"""Whose fault a failed load is: a model's, or a place's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft_ray.sampling.places import FOLDER, LoadFailure, LoadRecord, Place, Sites, note, noted, sites_of
from rft_ray.store import open_store

G0, G1 = Place("n1", "10.0.0.1", ("0",)), Place("n1", "10.0.0.1", ("1",))
OTHER = Place("n2", "10.0.0.2", ("0",))
FLEET = Sites(hosts=4, places=32)


def record(sites: Sites, *failed: Place, model: str = "m") -> LoadRecord:
    loads = LoadRecord(3, sites)
    for place in failed:
        loads.failed(model, "s", place, "no kernel image", again=False)
    return loads


def test_a_model_that_fails_at_one_place_of_several_is_left_to_the_others() -> None:
    loads = record(FLEET, G0)
    assert loads.verdict("m", G0) == ("elsewhere", "no kernel image")
    assert loads.verdict("m", OTHER) == ("load", "")


def test_a_model_that_fails_at_the_only_place_is_unloadable_at_once() -> None:
    assert record(Sites(), G0).verdict("m", G0) == ("unloadable", "no kernel image")


def test_a_model_that_fails_on_two_hosts_is_unloadable_and_both_are_named() -> None:
    verdict, reason = record(FLEET, G0, OTHER).verdict("m", OTHER)
    assert verdict == "unloadable"
    assert reason == "no kernel image (at 10.0.0.1 (node n1) GPU 0, 10.0.0.2 (node n2) GPU 0)"


def test_two_gpus_of_one_host_do_not_condemn_a_model_while_there_are_other_hosts() -> None:
    assert record(FLEET, G0, G1).verdict("m", OTHER) == ("load", "")
    assert record(Sites(hosts=1, places=8), G0, G1).verdict("m", G0)[0] == "unloadable"


def test_one_place_that_fails_again_and_again_is_one_place() -> None:
    loads = record(Sites(hosts=1, places=8), G0, G0, G0)
    assert loads.verdict("m", G1) == ("load", "")
    assert len(loads.failures) == 1


def test_a_model_that_some_place_has_loaded_is_not_unloadable_however_many_others_fail() -> None:
    loads = record(FLEET)
    loads.began("m", "good")
    loads.loaded("m", "good")
    for place in (G0, OTHER):
        loads.failed("m", "s", place, "no kernel image", again=False)
    assert loads.verdict("m", G0)[0] == "elsewhere"
    assert loads.verdict("m", G1)[0] == "load"


def test_a_model_that_fails_at_every_place_is_unloadable_although_one_has_loaded_it_before() -> None:
    loads = record(Sites())
    loads.began("m", "s")
    loads.loaded("m", "s")
    loads.failed("m", "s", G0, "no kernel image", again=False)
    assert loads.verdict("m", G0)[0] == "unloadable"


def test_a_load_in_progress_is_waited_for_before_a_model_is_unloadable() -> None:
    loads = record(FLEET)
    loads.began("m", "slow")
    for place in (G0, OTHER):
        loads.failed("m", "s", place, "no kernel image", again=False)
    assert loads.verdict("m", G0)[0] == "elsewhere"
    loads.ended("slow")
    assert loads.verdict("m", G0)[0] == "unloadable"


def test_a_failure_of_one_model_says_nothing_of_another() -> None:
    assert record(FLEET, G0, OTHER).verdict("n", G0) == ("load", "")


def test_a_place_has_failed_after_max_failures_attempts_where_another_process_may_succeed() -> None:
    loads = record(FLEET)
    for attempt in range(3):
        assert loads.verdict("m", G0)[0] == "load", attempt
        loads.failed("m", "s", G0, "out of memory", again=True)
    assert loads.verdict("m", G0) == ("elsewhere", "out of memory (3 times)")


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [(0, Sites(2, 2)), (1, Sites(2, 12)), (0.25, Sites(2, 12)), (4, Sites(2, 3)), (16, Sites(1, 1))],
)
def test_sites_are_the_hosts_and_places_with_room_for_an_engine(gpus: float, expected: Sites) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"object_store_memory": 1.0}},
        {"Alive": False, "Resources": {"CPU": 32.0, "GPU": 8.0}},
    ]
    assert sites_of(nodes, gpus) == expected


def test_gpus_of_a_type_that_engines_do_not_use_are_no_places() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 8.0, "accelerator_type:A100": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "accelerator_type:T4": 1.0}},
    ]
    assert sites_of(nodes, 1) == Sites(2, 9)
    assert sites_of(nodes, 1, "A100") == Sites(1, 8)


def test_a_recorded_place_is_read_back_once_and_a_damaged_record_is_left_out(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    failures = [LoadFailure("a" * 16, G0, "no kernel image"), LoadFailure("a" * 16, OTHER, "no driver")]
    for failure in [*failures, LoadFailure("a" * 16, G0, "again")]:
        note(store, failure)
    store.create(f"{FOLDER}{'b' * 16}/0.json", b"{}")
    assert noted(store) == failures
