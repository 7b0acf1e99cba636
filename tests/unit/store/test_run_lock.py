"""Any number of jobs hold a run's lock; a repair holds it alone, or states that the others have ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rft_ray.cli.store import main
from rft_ray.store import Store, open_store, processes
from rft_ray.store import run_lock as run_lock_module
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.base import StoreUnreachable
from rft_ray.store.run_lock import RunLocked, run_lock
from tests.chaos.small_run import run

DIES = """
import os, sys
from rft_ray.store.run_lock import run_lock
from rft_ray.store import open_store
with run_lock(open_store(sys.argv[1]), "job"):
    os._exit(9)
"""


def test_two_jobs_hold_the_lock_together_and_a_repair_excludes_both(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    jobs = run_lock(store, "job"), run_lock(store, "job")
    with jobs[0], jobs[1], pytest.raises(RunLocked, match=f"process {os.getpid()}"), run_lock(store, "repair"):
        pass
    with run_lock(store, "repair"), pytest.raises(RunLocked, match="a repair"), run_lock(store, "job"):
        pass
    with run_lock(store, "job"):
        pass


def test_a_killed_job_of_this_machine_holds_no_lock(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)]).returncode == 9
    with run_lock(open_store(str(tmp_path)), "repair"):
        pass


def test_a_job_of_another_machine_holds_the_lock_until_a_repair_states_that_it_ended(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    far = {"kind": "job", "host": "elsewhere", "pid": "1", "started": "5", "at_unix": "1.0"}
    store.create("present/job-far.began.json", json.dumps(far).encode())
    with pytest.raises(RunLocked, match="elsewhere"), run_lock(store, "repair"):
        pass
    with run_lock(store, "repair", others_ended=True):
        pass
    with run_lock(store, "repair"):
        pass


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"RENEW_S": 0.1, "RETRY_S": 0.1, "LEASE_S": 1.0, "POLL_S": 0.05}.items():
        monkeypatch.setattr(run_lock_module, name, seconds)


def on_another_machine(store: Store, name: str) -> None:
    """Move the record of a holder to a machine whose processes cannot be seen from here."""
    path = store.local_path(f"present/{name}.began.json")
    assert path is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))


def names(store: Store) -> list[str]:
    return [
        key.removeprefix("present/").removesuffix(".began.json") for key in store.list("present/") if "began" in key
    ]


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("others_ended", [False, True])
def test_a_holder_elsewhere_that_renews_its_lease_works(tmp_path: Path, others_ended: bool) -> None:
    store = open_store(str(tmp_path))
    with run_lock(store, "job"):
        on_another_machine(store, names(store)[0])
        with pytest.raises(RunLocked, match="elsewhere"), run_lock(store, "repair", others_ended=others_ended):
            pass


@pytest.mark.usefixtures("short_leases")
def test_a_holder_elsewhere_whose_lease_runs_out_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path))
    assert subprocess.run([sys.executable, "-c", DIES, str(tmp_path)]).returncode == 9
    on_another_machine(store, names(store)[0])
    with run_lock(store, "repair"):
        assert "elsewhere still works" in capsys.readouterr().out
    with run_lock(store, "repair"):
        assert capsys.readouterr().out == ""


def taken_for_dead(store: Store) -> None:
    """What a repair on another machine records of the only holder, whose lease it has not seen renewed."""
    store.create(f"present/{names(store)[0]}.ended.json", b"{}")


def job_beside_a_repair(store: Store) -> None:
    """A job that is taken for dead by a repair on another machine, which goes on."""
    far = {"kind": "repair", "host": "elsewhere", "pid": "1", "started": "5", "at_unix": "1.0", "leased": True}
    with run_lock(store, "job"):
        store.create("present/repair-far.began.json", json.dumps(far).encode())
        taken_for_dead(store)
        time.sleep(20)  # is interrupted
        pytest.fail("the job was not interrupted")


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("short_leases")
def test_a_job_that_was_taken_for_dead_is_seen_again_by_the_next_repair(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with run_lock(store, "job"):
        taken_for_dead(store)
        wait_until(lambda: sum("lease" in key for key in store.list("present/")) == 2)  # it has looked for repairs
        with pytest.raises(RunLocked, match=f"process {os.getpid()}"), run_lock(store, "repair"):
            pass
    with run_lock(store, "repair"):
        pass


@pytest.mark.usefixtures("short_leases")
def test_a_job_that_was_taken_for_dead_ends_where_a_repair_runs_meanwhile(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(RunLocked, match=r"this job was taken for dead.* locked: a repair .*process 1 on elsewhere"):
        job_beside_a_repair(store)


@pytest.mark.usefixtures("short_leases")
def test_a_job_that_was_taken_for_dead_looks_for_a_repair_until_the_store_answers(tmp_path: Path) -> None:
    class Flickering(LocalStore):
        looked = 0

        def list(self, prefix: str = "") -> Iterator[str]:
            if threading.current_thread() is not threading.main_thread():
                self.looked += 1
                if self.looked == 1:
                    raise StoreUnreachable("S3 is out of reach")
            return super().list(prefix)

    store = Flickering(tmp_path)
    with pytest.raises(RunLocked, match="this job was taken for dead"):
        job_beside_a_repair(store)
    assert len([key for key in store.list("present/") if key.startswith("present/job-") and "began" in key]) == 2


class Slow(LocalStore):
    """A store whose answers come too late unless it is hurried, and whose first five hurried renewals fail."""

    failures = 0

    def hurried(self) -> Slow:
        self.hurries = True
        return self

    def replace(self, key: str, data: bytes) -> None:
        if not vars(self).get("hurries"):
            time.sleep(20)
        self.failures += 1
        if self.failures <= 5:
            raise StoreUnreachable("S3 is out of reach")
        super().replace(key, data)


def test_a_failed_renewal_is_tried_again_soon_and_never_waits_for_a_slow_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"RENEW_S": 1.0, "RETRY_S": 0.05}.items():
        monkeypatch.setattr(run_lock_module, name, seconds)
    store, began = Slow(tmp_path), time.monotonic()
    with run_lock(store, "job"):
        wait_until(lambda: any("lease" in key for key in store.list("present/")))
    assert time.monotonic() - began < 4  # six tries, of which only the first waited for RENEW_S


@pytest.mark.usefixtures("short_leases")
def test_a_process_that_proc_hides_is_judged_by_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `hidepid=2`, another user's process has no folder in /proc, as the first process has none."""
    store = open_store(str(tmp_path))
    with run_lock(store, "job"):
        for module in (run_lock_module, processes):
            monkeypatch.setattr(module, "started", lambda _: "")
        monkeypatch.setattr(processes, "_shows_all_processes", lambda: False)
        with pytest.raises(RunLocked, match=str(os.getpid())), run_lock(store, "repair"):
            pass


@pytest.mark.usefixtures("short_leases")
def test_where_the_system_names_neither_boot_nor_namespace_a_host_name_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in some sandboxes, of which two may have one host name."""
    for module in (run_lock_module, processes):
        monkeypatch.setattr(module, "machine", lambda: "node")
    store = open_store(str(tmp_path))
    with run_lock(store, "job"):
        [began] = [key for key in store.list("present/") if key.endswith(".began.json")]
        record = json.loads(store.read(began)) | {"pid": "4194304"}  # in the other one
        (tmp_path / began).write_text(json.dumps(record))
        with pytest.raises(RunLocked, match="4194304"), run_lock(store, "repair"):
            pass


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"kind": "job", "host": "", "pid": "x"}'])
def test_a_damaged_record_excludes_a_repair_and_its_message_names_the_file(tmp_path: Path, data: bytes) -> None:
    store = open_store(str(tmp_path))
    store.create("present/job-0.began.json", data)
    store.create("present/notes.txt", b"not a record")
    with pytest.raises(RunLocked, match=r"present/job-0\.began\.json is damaged"), run_lock(store, "repair"):
        pass
    with run_lock(store, "job"), pytest.raises(RunLocked), run_lock(store, "repair", others_ended=True):
        pass
    with run_lock(store, "repair", others_ended=True):
        pass


def record(store: Store, started: str, *, leased: bool = True) -> None:
    """The `began` record of this process as earlier versions wrote it, with the given `started`."""
    with run_lock(store, "job"):
        [key] = [key for key in store.list("present/") if ".began." in key]
        own = json.loads(store.read(key))
    old = {key: value for key, value in own.items() if leased or key != "leased"} | {"started": started}
    store.create("present/job-0.began.json", json.dumps(old).encode())


def test_a_record_of_an_earlier_version_is_compared_by_its_ticks_since_boot(tmp_path: Path) -> None:
    """Earlier versions stored field 22 of /proc/<pid>/stat as text."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    alive, ended = open_store(str(tmp_path / "alive")), open_store(str(tmp_path / "ended"))
    record(alive, ticks)
    with pytest.raises(RunLocked, match=f"process {os.getpid()}"), run_lock(alive, "repair"):
        pass
    record(ended, str(int(ticks) - 1))
    with run_lock(ended, "repair"):
        pass


def test_a_process_that_is_seen_to_work_excludes_a_repair_whatever_is_stated(tmp_path: Path) -> None:
    """Without a lease, as in records of earlier versions, only this process table shows that it works."""
    store = open_store(str(tmp_path))
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    record(store, ticks, leased=False)
    with pytest.raises(RunLocked, match=f"process {os.getpid()}"), run_lock(store, "repair", others_ended=True):
        pass
    assert not store.exists("present/job-0.ended.json")


def test_repair_is_refused_while_a_job_runs_and_verify_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(str(tmp_path))
    with run_lock(open_store(str(tmp_path)), "job"):
        assert main(["verify", str(tmp_path)]) == 0
        assert main(["verify", "--repair", "--yes", str(tmp_path)]) == 2
        assert "--no-job-runs" in capsys.readouterr().err
    assert main(["verify", "--repair", "--yes", str(tmp_path)]) == 0
