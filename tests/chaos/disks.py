"""A disk of its own for one run: it fills, or turns read-only, at a chosen operation, and later recovers.

`python -m tests.chaos.disks full|read-only AT:ROOM,… RESULT` mounts a tmpfs in a mount namespace of its own, so nothing
else on the machine sees it, and runs the small run on it. At operation `AT` the disk fails: it is read-only, or has
`ROOM` bytes left, so that a later write fails, in the middle of a file or not. The run stops with an error. The disk
recovers, and the same run is submitted again. RESULT gets a JSON list: the errors, and what became of the files.

Limits: needs root, because it mounts; tmpfs stands for a disk, so it shows errors but not what a loss of power leaves.
"""

from __future__ import annotations

import json
import os
import random
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
from tests.chaos.small_run import ROWS, Outcome, outcome, run
from tests.chaos.table import Tally

ROOT = Path(__file__).parents[2]
KINDS = ("full", "read-only")
SIZE, ROOM, MOST_ROOM = "8m", 1 << 10, 64 << 10
"""The disk's size, and what a full one has left: less than a page, so that no file has room; at most so much."""
LAST = 100
"""Failures happen up to this operation of a run, which has some more."""


@dataclass(frozen=True)
class Report:
    """What became of one run on a failing disk.

    Example: Report("full", 40, "disk full: completions/…", 12, [], [], True, (0, 0, 0))
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
    samples: tuple[int, int, int]
    """Lost, duplicated and phantom samples at the end."""

    @property
    def tally(self) -> Tally:
        lost, duplicated, phantom = self.samples
        sound = self.same and not self.torn
        return Tally(1, int(bool(self.message)), ROWS, lost, duplicated, phantom, len(self.lost), int(not sound))


def refused() -> str:
    """Why no disk can be mounted here; empty where one can."""
    if os.geteuid() != 0:
        return "needs root"
    tried = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


def must_run() -> bool:
    """Whether a refusal is a failure: in continuous integration, which runs these trials as root."""
    return os.environ.get("CI") == "true" and os.geteuid() == 0


def fail(kind: str, room: int, disk: Path) -> None:
    if kind == "read-only":
        _mount("-o", "remount,ro", str(disk))
        return
    free = os.statvfs(disk)
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, max(1, free.f_bavail * free.f_frsize - room))


def recover(kind: str, disk: Path) -> None:
    if kind == "read-only":
        _mount("-o", "remount,rw", str(disk))
    else:
        (disk / "filler").unlink()


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@contextmanager
def recorded(kind: str, at: int, room: int, disk: Path) -> Iterator[dict[str, bytes]]:
    """The acknowledged creates of the block; its operation number `at` finds the disk failed."""
    acknowledged: dict[str, bytes] = {}
    create, operation, count = LocalStore.create, FaultyStore._around, 0

    def counted(self: FaultyStore, what: str, act: object) -> object:
        nonlocal count
        count += 1
        if count == at:
            fail(kind, room, disk)
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


def conduct(kind: str, at: int, room: int, disk: Path, expected: Outcome) -> Report:
    """One run on a disk that fails at operation `at`, then has room again, or can be written again."""
    url, message = str(disk / "run"), ""
    with recorded(kind, at, room, disk) as acknowledged:
        try:
            run(url)
        except RuntimeError as error:  # a StoreError, or a sampler's error around one
            message = str(error)
    before = len(acknowledged)
    lost, torn = _lost(url, acknowledged), _torn(url)
    recover(kind, disk)
    run(url)
    lost += _lost(url, acknowledged)
    reached = outcome(url)
    same = reached.files == expected.files and not repair.find(repair.examine(open_store(url)))
    return Report(kind, at, message, before, lost, torn, same, (reached.lost, reached.duplicated, reached.phantom))


def _lost(url: str, acknowledged: dict[str, bytes]) -> list[str]:
    store = open_store(url)
    return [key for key, data in acknowledged.items() if not store.exists(key) or store.read(key) != data]


def _torn(url: str) -> list[str]:
    """The files under final names that do not verify."""
    store = open_store(url)
    tables = [key for key in names.committed_files(store.list()).values() if key.endswith(".parquet")]
    return [finding.key for finding in repair.find(repair.examine(store)) if finding.corrupt] if tables else []


def random_points(seed: int, count: int) -> list[tuple[int, int]]:
    """Random operations of a run at which a disk fails, and random bytes that it has left if it fills."""
    draw = random.Random(f"disks {seed}")
    return [(draw.randint(1, LAST), draw.choice((0, ROOM, draw.randrange(MOST_ROOM)))) for _ in range(count)]


def on_a_disk(kind: str, points: Sequence[tuple[int, int]]) -> list[Report]:
    """One run for each of `points`: an operation, and the room in bytes that a full disk has left.

    Each runs on a new disk, all in one process with mounts of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, places = Path(folder, "result.json"), ",".join(f"{at}:{room}" for at, room in points)
        command = [sys.executable, "-m", "tests.chaos.disks", kind, places, str(result)]
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
    """Conduct the runs on failing disks, in the mount namespace of this process."""
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        free = f"{folder}/free"
        run(free)
        expected = outcome(free)
        for number, point in enumerate(points.split(",")):
            at, room = map(int, point.split(":"))
            disk = Path(folder, f"disk-{number}")
            disk.mkdir()
            _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk))
            try:
                reports.append(asdict(conduct(kind, at, room, disk, expected)))
            finally:
                subprocess.run(["umount", str(disk)], check=True)
    Path(result).write_text(json.dumps(reports))


if __name__ == "__main__":
    main(*sys.argv[1:])
