"""The supervisor while the store is out of reach or hangs: it decides and answers at once, and records later."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from rft_ray.sampling import places, quarantine
from rft_ray.sampling.assignment import Work
from rft_ray.sampling.journal import journal_folder, replay
from rft_ray.sampling.places import LoadFailure, Place, Sites
from rft_ray.sampling.record_writer import RecordWriter
from rft_ray.sampling.supervisor import Supervisor
from rft_ray.store import outages
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreError, StoreUnreachable
from tests.unit.sampling.test_supervisor import HERE, SHARDS, A, B, C, fail_exclusively

OTHER = Place("n3", "10.0.0.3", ("0",))


@dataclass
class Weather:
    """How the store is: `out` of reach, `hangs` until `over` is set, `loses` so many answers to creates."""

    kind: str = ""
    loses: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def strike(self) -> None:
        if self.kind == "hangs":
            self.over.wait(30)
        elif self.kind == "full":
            raise StoreError("disk full: failures")
        elif self.kind == "out" and not self.over.is_set():
            raise StoreUnreachable("S3 is out of reach")


class WeatheredStore(LocalStore):
    def __init__(self, path: Path, weather: Weather) -> None:
        super().__init__(path)
        self.weather = weather

    def list(self, prefix: str = "") -> Iterator[str]:
        self.weather.strike()
        return super().list(prefix)

    def create(self, key: str, data: bytes) -> bool:
        self.weather.strike()
        made = super().create(key, data)
        if self.weather.loses:
            self.weather.loses -= 1
            raise StoreUnreachable("the answer is lost")
        return made


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.01)


@pytest.fixture
def weather() -> Iterator[Weather]:
    weather = Weather()
    yield weather
    weather.over.set()  # threads that still wait end


@pytest.fixture
def supervisor(tmp_path: Path, weather: Weather) -> Supervisor:
    store = WeatheredStore(tmp_path, weather)
    return Supervisor(store, max_failures=2, max_quarantined=1, failures={C: 1}, background=True)


def recorded(tmp_path: Path) -> dict[str, int]:
    return quarantine.failures(LocalStore(tmp_path))


@pytest.mark.parametrize("kind", ["out", "hangs"])
def test_deaths_during_an_outage_are_counted_at_once_and_recorded_after_it(
    supervisor: Supervisor, weather: Weather, tmp_path: Path, kind: str
) -> None:
    weather.kind = kind
    began = time.monotonic()
    fail_exclusively(supervisor, A, "p1")
    assert supervisor.decide(A, "s", "p2")[0] == "exclusive"
    supervisor.started(A, "s", "p2")
    assert supervisor.decide(A, "s", "p3")[0] == "quarantined"  # the death of p2 was not reported: it is noticed
    supervisor.failed(B, "s", "p3", "an empty sample")
    assert supervisor.decide(B, "s", "p3")[0] == "exclusive"
    assert time.monotonic() - began < 5
    assert recorded(tmp_path) == {}
    assert len(supervisor.flush(0.05)) == 3
    weather.over.set()
    assert supervisor.flush(10) == {}
    assert recorded(tmp_path) == {A: 2, B: 1}


def test_a_failure_during_an_outage_adds_to_those_of_earlier_jobs(supervisor: Supervisor, weather: Weather) -> None:
    weather.kind = "out"
    assert supervisor.decide(C, "s", "p1")[0] == "exclusive"
    fail_exclusively(supervisor, C, "p1", "it broke again")
    assert supervisor.decide(C, "s", "p2") == ("quarantined", "it broke again")


def test_a_failure_whose_record_was_written_and_its_answer_lost_is_recorded_once(
    supervisor: Supervisor, weather: Weather, tmp_path: Path
) -> None:
    weather.loses = 2
    fail_exclusively(supervisor, A, "p1", "it broke")
    fail_exclusively(supervisor, A, "p2", "it broke")
    assert supervisor.flush(10) == {}
    assert recorded(tmp_path) == {A: 2}
    assert weather.loses == 0


def test_a_record_goes_past_the_number_that_another_driver_takes_meanwhile(tmp_path: Path) -> None:
    store, taken = LocalStore(tmp_path), []

    class Contended(LocalStore):
        def create(self, key: str, data: bytes) -> bool:
            if not taken:
                taken.append(store.create(key, b'{"reason": "of another driver"}'))
            return super().create(key, data)

    quarantine.Record(A, quarantine.FAILED, "it broke").write(Contended(tmp_path))
    assert recorded(tmp_path) == {A: 2}
    reasons = [json.loads(store.read(key))["reason"] for key in store.list(quarantine.FOLDER)]
    assert reasons == ["of another driver", "it broke"]


@pytest.mark.parametrize("kind", ["out", "hangs"])
def test_a_bad_place_during_an_outage_is_left_at_once_and_recorded_after_it(
    supervisor: Supervisor, weather: Weather, tmp_path: Path, kind: str
) -> None:
    weather.kind = kind
    supervisor.begin_round(1, [Work(SHARDS[0], "m", "llama", 8)], Sites(hosts=2, places=8))
    began = time.monotonic()
    supervisor.load_failed("m", "s", HERE, "no kernel image", False)
    assert supervisor.load_verdict("m", HERE)[0] == "elsewhere"
    assert supervisor.load_verdict("m", OTHER)[0] == "load"
    assert time.monotonic() - began < 5
    weather.over.set()
    assert supervisor.flush(10) == {}
    assert places.noted(LocalStore(tmp_path)) == [LoadFailure("m", HERE, "no kernel image")]


def test_failures_that_cannot_be_recorded_are_named_and_places_are_not(
    supervisor: Supervisor, weather: Weather, tmp_path: Path
) -> None:
    """A place's record is for the summary only; without those of a shard a later job would count too few."""
    weather.kind = "full"
    supervisor.begin_round(1, [], Sites(hosts=2, places=8))
    supervisor.load_failed("m", "s", HERE, "no kernel image", False)
    fail_exclusively(supervisor, A, "p1")
    assert supervisor.flush(10) == {f"failure 1 of {A}": "disk full: failures"}
    weather.kind = ""
    fail_exclusively(supervisor, A, "p2")
    assert list(supervisor.flush(10)) == [f"failure 1 of {A}"]
    assert recorded(tmp_path) == {A: 1}


def test_a_record_is_given_up_after_the_bound_of_an_outage_and_the_next_one_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_S", 0.1)
    writer, written = RecordWriter(background=True), []

    def unreachable() -> None:
        raise StoreUnreachable("503")

    writer.add("a", unreachable)
    writer.add("b", lambda: written.append("b"))
    assert writer.flush(10) == {"a": "503"}
    assert written == ["b"]


KILLED = """
import os, sys
from pathlib import Path
from rft_ray.sampling import journal
from rft_ray.sampling.supervisor import Supervisor
from tests.unit.sampling.test_store_outages import A, B, Weather, WeatheredStore, fail_exclusively, journal_files
folder, kind = Path(sys.argv[1]), sys.argv[2]
supervisor = Supervisor(WeatheredStore(folder / "run", Weather(kind)), 2, 9, background=True, journal=folder / "kept")
fail_exclusively(supervisor, A, "p1", "it broke")
supervisor.failed(B, "s", "p2", "an empty sample")
journal_files(folder / "kept", 2)
os.kill(os.getpid(), 9)
"""


def journal_files(folder: Path, count: int) -> None:
    """Wait until the folder has so many files."""
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.json"))) != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["out", "hangs"])
def test_failures_outlive_a_driver_that_is_killed_in_an_outage(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), kind]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert recorded(tmp_path / "run") == {}
    for _ in range(2):
        replay(tmp_path / "kept", LocalStore(tmp_path / "run"))
        assert recorded(tmp_path / "run") == {A: 1, B: 1}
    assert not list((tmp_path / "kept").iterdir())


def test_a_failure_that_another_driver_has_recorded_or_still_holds_is_recorded_once(
    weather: Weather, tmp_path: Path
) -> None:
    weather.kind = "out"
    store, kept = WeatheredStore(tmp_path / "run", weather), tmp_path / "kept"
    supervisor = Supervisor(store, max_failures=2, max_quarantined=9, background=True, journal=kept)
    fail_exclusively(supervisor, A, "p1", "it broke")
    journal_files(kept, 1)
    [copy] = [path.read_bytes() for path in kept.glob("*.json")]
    replay(kept, LocalStore(tmp_path / "run"))  # by another driver, which reaches the store
    assert recorded(tmp_path / "run") == {A: 1}
    weather.over.set()
    assert supervisor.flush(10) == {}
    (kept / "again.json").write_bytes(copy)  # as if killed before it was deleted
    (kept / "half.json").write_bytes(copy[:20])
    replay(kept, LocalStore(tmp_path / "run"))
    assert recorded(tmp_path / "run") == {A: 1}


@pytest.mark.parametrize("background", [False, True])
def test_what_is_recorded_is_kept_no_longer(tmp_path: Path, background: bool) -> None:
    store, kept = LocalStore(tmp_path / "run"), tmp_path / "kept"
    supervisor = Supervisor(store, max_failures=9, max_quarantined=9, background=background, journal=kept)
    for process in range(8):
        fail_exclusively(supervisor, A, str(process), "it broke")
    assert supervisor.flush(10) == {}
    assert recorded(tmp_path / "run") == {A: 8}
    supervisor._journal._writer.flush(10)
    assert not list(kept.iterdir())


@pytest.mark.parametrize("other", [{"kind": "postponed"}, {"stem": "a\nb"}, {"stem": "../../a"}, {"at": 1}])
def test_a_file_of_the_journal_that_is_no_failure_of_a_shard_is_passed_over(
    tmp_path: Path, other: dict[str, object]
) -> None:
    store, kept = LocalStore(tmp_path / "run"), tmp_path / "kept"
    record = asdict(quarantine.Record("completions/x", quarantine.FAILED, "it broke", 1.0, "5f0c"))
    kept.mkdir()
    for name in ("a.json", "b.json"):  # as if one could not be deleted
        (kept / name).write_text(json.dumps(record | other))
    replay(kept, store)
    assert [*store.list("")] == []


@pytest.mark.parametrize("run", ["/etc", "../../x", ""])
def test_a_run_that_was_given_the_name_of_a_folder_has_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    monkeypatch.setenv("RFT_CACHE", str(tmp_path))
    assert journal_folder("5f0c") == tmp_path / "failures" / "5f0c"
    assert journal_folder(run) is None


def test_a_journal_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"")
    supervisor = Supervisor(LocalStore(tmp_path / "run"), max_failures=2, max_quarantined=9, journal=file / "kept")
    fail_exclusively(supervisor, A, "p1", "it broke")
    replay(file / "kept", LocalStore(tmp_path / "run"))
    assert recorded(tmp_path / "run") == {A: 1}
