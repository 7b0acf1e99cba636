"""A disk of its own for one run: it fills, or turns read-only, at a chosen operation, and later recovers.

`python -m tests.chaos.disks full|read-only AT RESULT` mounts a tmpfs in a mount namespace of its own, so nothing else
on the machine sees it, and runs the small run on it. At operation `AT` the disk fails; the run stops with an error. The
disk recovers, and the same run is submitted again. RESULT gets a JSON object: the error, and what became of the files.

Limits: needs root, because it mounts; tmpfs stands for a disk, so it shows errors but not what a loss of power leaves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from rft_ray.store import names, open_store, repair
from rft_ray.store.backends.faults import FaultyStore
from rft_ray.store.backends.local import LocalStore
from tests.chaos.small_run import Outcome, outcome, run

ROOT = Path(__file__).parents[2]
KINDS = ("full", "read-only")
SIZE, ROOM = "8m", 1 << 10
"""The disk's size, and what a full one has left: less than a page, so that no file has room."""


@dataclass(frozen=True)
class Report:
    """What became of one run on a failing disk.

    Example: Report("full", 40, "disk full: completions/…", 12, [], [], True)
    """

    kind: str
    at: int
    message: str
    """The error that stopped the run; empty where none did."""
    acknowledged: int
    """Commits that were acknowledged before the disk recovered."""
    lost: list[str]
    """Acknowledged files that are missing or changed, after the failure or at the end."""
    torn: list[str]
    """Files that are there after the failure although nothing acknowledged them, and are damaged."""
    same: bool
    """Whether the run has, after it was submitted again, the files of one without faults, and verifies."""


def refused() -> str:
    """Why no disk can be mounted here; empty where one can."""
    if os.geteuid() != 0:
        return "needs root"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


def fail(kind: str, disk: Path) -> None:
    if kind == "read-only":
        _mount("-o", "remount,ro", str(disk))
        return
    free = os.statvfs(disk)
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, max(1, free.f_bavail * free.f_frsize - ROOM))


def recover(kind: str, disk: Path) -> None:
    if kind == "read-only":
        _mount("-o", "remount,rw", str(disk))
    else:
        (disk / "filler").unlink()


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@contextmanager
def recorded(kind: str, at: int, disk: Path) -> Iterator[dict[str, bytes]]:
    """The acknowledged creates of the block; its operation number `at` finds the disk failed."""
    acknowledged: dict[str, bytes] = {}
    create, operation, count = LocalStore.create, FaultyStore._around, 0

    def counted(self: FaultyStore, what: str, act: object) -> object:
        nonlocal count
        count += 1
        if count == at:
            fail(kind, disk)
        return operation(self, what, act)  # type: ignore[arg-type]

    def noted(self: LocalStore, key: str, data: bytes) -> bool:
        committed = create(self, key, data)
        if committed:
            acknowledged[key] = data
        return committed

    os.environ["RFT_STORE_FAULTS"] = ""
    with mock.patch.object(FaultyStore, "_around", counted), mock.patch.object(LocalStore, "create", noted):
        yield acknowledged
    del os.environ["RFT_STORE_FAULTS"]


def conduct(kind: str, at: int, disk: Path, expected: Outcome) -> Report:
    """One run on a disk that fails at operation `at`, then has room again, or can be written again."""
    url, message = str(disk / "run"), ""
    with recorded(kind, at, disk) as acknowledged:
        try:
            run(url)
        except RuntimeError as error:  # a StoreError, or a sampler's error around one
            message = str(error)
    before = len(acknowledged)
    lost, torn = _lost(url, acknowledged), _torn(url)
    recover(kind, disk)
    run(url)
    lost += _lost(url, acknowledged)
    same = outcome(url).files == expected.files and not repair.find(repair.examine(open_store(url)))
    return Report(kind, at, message, before, lost, torn, same)


def _lost(url: str, acknowledged: dict[str, bytes]) -> list[str]:
    store = open_store(url)
    return [key for key, data in acknowledged.items() if not store.exists(key) or store.read(key) != data]


def _torn(url: str) -> list[str]:
    """The files under final names that do not verify."""
    store = open_store(url)
    tables = [key for key in names.committed_files(store.list()).values() if key.endswith(".parquet")]
    return [finding.key for finding in repair.find(repair.examine(store)) if finding.corrupt] if tables else []


def on_a_disk(kind: str, points: Sequence[int]) -> list[Report]:
    """One run for each operation of `points`, each on a new disk, in a process with mounts of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", "tests.chaos.disks", kind, ",".join(map(str, points)), str(result)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"the run on its own disk ended with {done.returncode}: {done.stderr[-2000:]}")
        return [Report(**report) for report in json.loads(result.read_text())]


def main(kind: str, points: str, result: str) -> None:
    """Conduct the runs, in the mount namespace of this process."""
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        free = f"{folder}/free"
        run(free)
        expected = outcome(free)
        for at in map(int, points.split(",")):
            disk = Path(folder, f"disk-{at}")
            disk.mkdir()
            _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk))
            try:
                reports.append(asdict(conduct(kind, at, disk, expected)))
            finally:
                subprocess.run(["umount", str(disk)], check=True)
    Path(result).write_text(json.dumps(reports))


if __name__ == "__main__":
    main(*sys.argv[1:])
