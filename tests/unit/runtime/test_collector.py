"""Nothing is collected in a block, and blocks that overlap leave the collector as they found it."""

from __future__ import annotations

import gc
from contextlib import suppress
from threading import Event, Thread

import pytest

from rft_ray.runtime.collector import heavy_imports


def test_pauses_and_goes_on_after_an_error() -> None:
    enabled = []
    with suppress(ImportError), heavy_imports():
        enabled.append(gc.isenabled())
        raise ImportError("a package that is not there")
    assert [*enabled, gc.isenabled()] == [False, True]


def test_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with heavy_imports():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_later_collections_leave_out_what_was_imported() -> None:
    before = gc.get_freeze_count()
    with heavy_imports():
        imported = [[number] for number in range(1000)]
    try:
        assert gc.get_freeze_count() >= before + len(imported)
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_is_on_after_two_threads_have_overlapped(first_ends_first: bool) -> None:
    inside, second_may_end = Event(), Event()

    def second() -> None:
        with heavy_imports():
            inside.set()
            assert second_may_end.wait(10)

    thread = Thread(target=second)
    with heavy_imports():
        thread.start()
        assert inside.wait(10)
        if not first_ends_first:
            second_may_end.set()
            thread.join()
    second_may_end.set()
    thread.join()
    assert gc.isenabled()
