"""EngineHost with the scripted engine: when an engine is swapped, reopened, shared and held exclusively."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from rft_ray.data.tiny import model_dir
from rft_ray.plan.jobs import ModelRef
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling import engine_host
from rft_ray.sampling.engine import Misbehaved, Request
from rft_ray.sampling.engine_host import EngineHost, Unloadable
from rft_ray.sampling.places import Place
from rft_ray.sampling.scripted_engine import ScriptedEngine
from rft_ray.sampling.supervisor import Supervisor
from rft_ray.sampling.supervisor_client import SupervisorClient
from rft_ray.store import open_store, outages
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.models.committed import commit_model, committed_model

A, B = (ModelRef(name, "sft", name * 4) for name in "ab")
SETTINGS = SamplingSettings(0.7, 1.0, 64, 8, "{query}")
PROBLEM = Problem("a" * 16, "Tom has 3 pens and buys 2. How many?", "3+2 = <<3+2=5>>5\n#### 5", "5")
WAIT_S = 10
HERE = Place("n1", "10.0.0.1", ("0",))


class OwnEnginePerModel(ScriptedEngine):
    """Swaps to no other model, like vLLM with models of different layouts."""

    closed = False

    def swap(self, folder: Path | None) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class Opened:
    """Opens engines of one kind and records them."""

    def __init__(self, make: Callable[[int], ScriptedEngine]) -> None:
        self.engines: list[ScriptedEngine] = []
        self.attempts = 0
        self._make = make

    def __call__(self, model: ModelRef, folder: Path | None, /, *, seed: int) -> ScriptedEngine:
        self.attempts += 1
        self.engines.append(self._make(seed))
        return self.engines[-1]


def host_of(
    tmp_path: Path,
    opened: Opened,
    left: list[ModelRef] | None = None,
    *,
    needs_folder: bool = False,
    stall_s: float = 60,
) -> EngineHost:
    store = open_store(str(tmp_path))
    supervisor = SupervisorClient(Supervisor(store, max_failures=3, max_quarantined=10), "s", "p", HERE)
    leave = left.append if left is not None else lambda model: None
    return EngineHost(
        store,
        supervisor,
        opened,
        needs_folder=needs_folder,
        stall_s=stall_s,
        run_seed=0,
        on_leave=leave,
    )


def test_a_swap_keeps_the_engine_and_its_seed(tmp_path: Path) -> None:
    opened, left = Opened(ScriptedEngine), []
    host = host_of(tmp_path, opened, left)
    with host.holding(A) as first:
        pass
    with host.holding(B) as second:
        pass
    assert len(opened.engines) == 1
    assert (second.seed, second.incarnation, second.swaps) == (first.seed, first.incarnation, 1)
    assert left == [A]


def test_a_refused_swap_reopens_with_another_seed(tmp_path: Path) -> None:
    opened = Opened(OwnEnginePerModel)
    host = host_of(tmp_path, opened)
    with host.holding(A) as first:
        pass
    with host.holding(B) as second:
        pass
    assert [getattr(engine, "closed", None) for engine in opened.engines] == [True, False]
    assert [engine.seed for engine in opened.engines] == [first.seed, second.seed]
    assert first.seed != second.seed
    assert first.incarnation != second.incarnation
    assert second.swaps == 0


def test_an_engine_that_is_closed_while_the_watchdog_looks_at_it_does_not_end_the_watch(tmp_path: Path) -> None:
    class ClosedMeanwhile(ScriptedEngine):
        def __bool__(self) -> bool:
            host._engine = None
            return True

    opened = Opened(ClosedMeanwhile)
    host = host_of(tmp_path, opened)
    with host.holding(A):
        assert host._progress() == (opened.engines[0].progress, None)


def test_a_model_that_cannot_be_loaded_is_not_tried_again(tmp_path: Path) -> None:
    opened = Opened(lambda seed: ScriptedEngine(seed, "open-refuse:"))
    host = host_of(tmp_path, opened)
    for _ in range(2):
        with pytest.raises(Unloadable, match="the engine refuses"), host.holding(A):
            pass
    assert opened.attempts == 1


def test_shards_of_one_model_share_the_engine_at_once(tmp_path: Path) -> None:
    host = host_of(tmp_path, Opened(ScriptedEngine))
    both = threading.Barrier(2, timeout=WAIT_S)

    def work() -> None:
        with host.holding(A):
            both.wait()  # raises BrokenBarrierError unless both threads are inside

    thread = threading.Thread(target=work)
    thread.start()
    work()
    thread.join()


def test_no_other_shard_uses_an_engine_that_a_shard_holds_exclusively(tmp_path: Path) -> None:
    host = host_of(tmp_path, Opened(ScriptedEngine))
    entered = threading.Event()

    def work() -> None:
        with host.holding(A):
            entered.set()

    thread = threading.Thread(target=work)
    with host.holding(A, exclusive_to="completions/suspect"):
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(WAIT_S)
    thread.join()


def test_impossible_answers_and_errors_count_as_engine_failures(tmp_path: Path) -> None:
    for script, message in (("few:", "7 samples instead of 8"), ("raise:", "the engine refuses")):
        host = host_of(tmp_path, Opened(lambda seed, script=script: ScriptedEngine(seed, script)))  # type: ignore[misc]
        with host.holding(A), pytest.raises(Misbehaved, match=message):
            host.generate([Request(PROBLEM, "q", 0, 8)], SETTINGS)


def test_what_samples_were_drawn_from_names_the_files_of_the_model(tmp_path: Path) -> None:
    """Two trainings by one recipe can have other weights, and their models have one name."""
    store = open_store(str(tmp_path))
    commit_model(store, A.fingerprint, model_dir("tiny-s"), {})
    manifest = committed_model(store, A.fingerprint)
    with host_of(tmp_path, Opened(lambda seed: ScriptedEngine(seed, "")), needs_folder=True).holding(A) as source:
        assert manifest
        assert source.weights == manifest.attempt


def test_a_store_out_of_reach_is_no_fault_of_the_place_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.0)
    store = open_store(str(tmp_path))
    commit_model(store, A.fingerprint, model_dir("tiny-s"), {})
    failures, read = [StoreUnreachable("S3 is out of reach")] * 2, LocalStore.read

    def flickering(self: LocalStore, key: str) -> bytes:
        if failures:
            raise failures.pop()
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read", flickering)
    with host_of(tmp_path, Opened(ScriptedEngine), needs_folder=True).holding(A) as source:
        assert source.weights


FAILED = "Engine core initialization failed. See root cause above. Its process wrote: "


@pytest.mark.parametrize(
    "cause",
    [
        "AssertionError: Error in memory profiling. Initial free memory 40.9 GiB, current free memory 61.3 GiB.",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
        "port: 41235, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
    ],
)
def test_a_start_that_another_process_disturbed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """An engine that ends while another one opens on its GPU gives memory back."""

    class Ended(BaseException):
        pass

    def end(reason: str) -> NoReturn:
        raise Ended(reason)

    def refuse(seed: int) -> NoReturn:
        raise RuntimeError(FAILED + cause)

    monkeypatch.setattr(engine_host, "_end_process", end)
    with pytest.raises(Ended, match=cause[:40]), host_of(tmp_path, Opened(refuse)).holding(A):
        pass
