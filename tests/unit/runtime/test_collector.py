"""Nothing is collected in a block, and blocks that overlap leave the collector as they found it."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from weakref import ref

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


def test_later_collections_leave_out_what_was_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_package.py").write_text("OBJECTS = [[number] for number in range(1000)]")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = gc.get_freeze_count()
    with heavy_imports():
        importlib.import_module("heavy_package")
    try:
        assert gc.get_freeze_count() >= before + 1000
    finally:
        gc.unfreeze()


def test_garbage_is_collected_where_nothing_was_left_to_import() -> None:
    class Weights:
        pass

    weights = Weights()
    weights.layer = weights  # type: ignore[attr-defined]
    alive = ref(weights)
    gc.disable()
    del weights
    with heavy_imports():
        pass
    gc.enable()
    gc.collect()
    assert alive() is None


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
