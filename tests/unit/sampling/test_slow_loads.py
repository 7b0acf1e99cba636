"""A model that loads for longer than `stall_seconds`: ended where it stands still, and only there."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rft_ray.data.tiny import model_dir
from rft_ray.sampling import engine_host, loading
from rft_ray.sampling.scripted_engine import ScriptedEngine
from rft_ray.sampling.vllm_arguments import alone_on_gpu
from rft_ray.store import open_store
from rft_ray.store.backends.local import LocalStore
from rft_ray.store.models import cache, hashes
from rft_ray.store.models.arrivals import arrived
from rft_ray.store.models.committed import commit_model
from rft_ray.store.models.node import locked
from tests.unit.sampling.test_engine_host import WAIT_S, A, Opened, host_of

STALL_S = 0.8
LOAD_S = 1.6
READER = """
import sys, time
for _ in range(32):
    open(sys.argv[1], "rb").read()
    time.sleep(0.05)
"""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets why the process would have been ended."""
    reasons: list[str] = []
    monkeypatch.setattr(engine_host, "_end_process", reasons.append)
    return reasons


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store whose models are copied to the cache, as from S3."""
    monkeypatch.setenv("RFT_CACHE", str(tmp_path / "cache"))
    commit_model(open_store(str(tmp_path)), A.fingerprint, model_dir("tiny-s"), {})
    monkeypatch.setattr(LocalStore, "local_path", lambda self, key: None)
    commits = LocalStore(tmp_path)
    monkeypatch.setattr(LocalStore, "read", lambda self, key: (commits._root / key).read_bytes())
    monkeypatch.setattr(LocalStore, "exists", lambda self, key: (commits._root / key).is_file())
    return commits


def fetching(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> None:
    """Fetch files after `write` has taken its time over the first of them."""
    begun: list[str] = []

    def fetch(self: LocalStore, key: str, path: Path) -> None:
        if not begun:
            begun.append(key)
            write(path.with_name(f".{path.name}.partial"))
        path.write_bytes((self._root / key).read_bytes())

    monkeypatch.setattr(LocalStore, "fetch", fetch)


def slowly(path: Path, seconds: float = LOAD_S) -> None:
    """A byte of a file twenty times a second."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(round(seconds / 0.05)):
            file.write(b"x")
            time.sleep(0.05)
    path.unlink()


def loaded(tmp_path: Path, opened: Opened) -> str:
    host = host_of(tmp_path, opened, needs_folder=True, stall_s=STALL_S)
    with host.holding(A) as source:
        return source.weights


@pytest.mark.usefixtures("store")
def test_a_download_that_takes_longer_is_no_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    fetching(monkeypatch, slowly)
    assert loaded(tmp_path, Opened(ScriptedEngine))
    assert ended == []


@pytest.mark.usefixtures("store")
def test_a_download_that_stands_still_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    def stand_still(path: Path) -> None:
        slowly(path, 0.2)
        deadline = time.monotonic() + WAIT_S
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)

    fetching(monkeypatch, stand_still)
    loaded(tmp_path, Opened(ScriptedEngine))
    assert ended == [f"no progress for {STALL_S:g} s: {A.fingerprint}"]


@pytest.mark.usefixtures("store")
def test_a_process_that_waits_for_the_download_of_another_one_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    fetching(monkeypatch, lambda path: None)
    monkeypatch.setattr(hashes, "LARGE", 1 << 60)
    with other_process(tmp_path):
        assert loaded(tmp_path, Opened(ScriptedEngine))
    assert ended == []


@contextmanager
def other_process(tmp_path: Path) -> Iterator[None]:
    """Another holder of the lock of the model in the cache, which downloads and then gives up."""
    attempt = next(path.name for path in (tmp_path / "models" / A.fingerprint).iterdir() if path.is_dir())
    (folder := tmp_path / "cache" / "models" / A.fingerprint).mkdir(parents=True)
    holds = threading.Event()

    def download() -> None:
        with locked(folder / f".{attempt}.lock"):
            holds.set()
            (part := folder / f".{attempt}.abc.part" / "made").mkdir(parents=True)
            slowly(part / "model.safetensors")

    thread = threading.Thread(target=download)
    thread.start()
    assert holds.wait(WAIT_S)
    yield
    thread.join()


def test_a_child_that_reads_weights_for_longer_is_no_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    """As the engine's process does on GPUs."""
    (weights := tmp_path / "weights").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(loading, "STEP_BYTES", 1 << 16)

    def open_slowly(seed: int) -> ScriptedEngine:
        subprocess.run([sys.executable, "-c", READER, str(weights)], check=True)
        return ScriptedEngine(seed)

    with host_of(tmp_path, Opened(open_slowly), stall_s=STALL_S).holding(A):
        pass
    assert ended == []


def test_an_engine_that_neither_reads_nor_writes_while_it_opens_is_ended(tmp_path: Path, ended: list[str]) -> None:
    def hang(seed: int) -> ScriptedEngine:
        deadline = time.monotonic() + WAIT_S
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
        return ScriptedEngine(seed)

    with host_of(tmp_path, Opened(hang), stall_s=STALL_S).holding(A):
        pass
    assert len(ended) == 1


def test_an_engine_that_waits_for_another_to_open_on_its_gpu_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[str]
) -> None:
    """The other one has a watchdog too."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unit-test-9")
    others = threading.Event()

    def open_other() -> None:
        with alone_on_gpu(0.5):
            others.set()
            time.sleep(LOAD_S)

    def open_alone(seed: int) -> ScriptedEngine:
        with alone_on_gpu(0.5):
            return ScriptedEngine(seed)

    other = threading.Thread(target=open_other)
    other.start()
    assert others.wait(WAIT_S)
    with host_of(tmp_path, Opened(open_alone), stall_s=STALL_S).holding(A):
        pass
    other.join()
    assert ended == []


def test_what_the_look_at_the_processes_of_a_large_machine_reads_is_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hundred bytes of each, which is 16 MiB for 6,500 processes in the ten looks of a limit."""
    (stats := tmp_path / "stats").write_bytes(bytes(loading.STEP_BYTES))
    children = psutil.Process.children

    def of_many(self: psutil.Process, recursive: bool = False) -> list[psutil.Process]:
        assert stats.read_bytes()
        return children(self, recursive)

    monkeypatch.setattr(psutil.Process, "children", of_many)
    before = loading.moved()
    assert loading.moved() == before
    stats.read_bytes()
    assert loading.moved() != before


def test_a_cached_folder_counts_while_it_is_made_and_not_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_CACHE", str(tmp_path))
    before, seen = arrived(), []

    def build(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_bytes(bytes(5000))
        seen.append(arrived() - before)

    cache.cached("x/[y]", build, lambda folder: (folder / "deep" / "weights").stat())
    assert seen[0] >= 5000
    assert arrived() == before
