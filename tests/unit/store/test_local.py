"""The local store and its files: commits are atomic, damage is detected, errors say what to do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rft_ray.records import Completion, to_table
from rft_ray.store import StoreError, mark_run, open_run, open_store, outages
from rft_ray.store.backends import local
from rft_ray.store.base import StoreUnreachable

ROOT = Path(__file__).parents[3]
TABLE = to_table([Completion("5f0c", i, f"3+{i} = <<3+{i}={3 + i}>>", "stop", 61, 24) for i in range(40)], Completion)


def child(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with `store` opened at the first argument."""
    code = "import os, resource, signal, sys\nfrom rft_ray.store import *\nstore = open_store(sys.argv[1])\n"
    command = [*prefix, sys.executable, "-c", code + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def race(url: str, writer: int, barrier: object, keys: int, winners: object) -> None:
    """One process of `test_one_of_several_concurrent_processes_wins`."""
    store = open_store(url)
    for key in range(keys):
        barrier.wait(30)  # type: ignore[attr-defined]
        if store.create(f"race/{key}", b"%d" % writer * 1000):
            winners.put((key, writer))  # type: ignore[attr-defined]


# --- Commits --------------------------------------------------------------------------------------


def test_one_of_several_concurrent_processes_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, winners = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=race, args=(str(tmp_path), i, barrier, 50, winners), daemon=True) for i in range(3)
    ]
    for process in processes:
        process.start()
    won = dict(winners.get(timeout=60) for _ in range(50))  # a writer that fails leaves the others waiting
    for process in processes:
        process.join(60)
    assert winners.empty()
    store = open_store(str(tmp_path))
    assert [store.read(f"race/{key}") for key in range(50)] == [b"%d" % won[key] * 1000 for key in range(50)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_around_the_link_leaves_the_whole_file_or_none(tmp_path: Path, moment: str) -> None:
    script = """
        link, die = os.link, lambda: os.kill(os.getpid(), signal.SIGKILL)
        os.link = lambda *names: (die() if sys.argv[2] == "before" else link(*names), die())
        store.create("a/b", b"x" * 100_000)
    """
    assert child(script, tmp_path, moment).returncode == -signal.SIGKILL
    store = open_store(str(tmp_path))
    assert list(store.list()) == ([] if moment == "before" else ["a/b"])
    assert store.create("a/b", b"x" * 100_000) == (moment == "before")
    assert store.read("a/b") == b"x" * 100_000


def test_kills_at_random_moments_leave_only_whole_files(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    script = "for i in range(10**6): store.create(f'{os.getpid()}/{i}', bytes([i % 256]) * 300_000)"
    for _ in range(4):
        before = sum(1 for _ in store.list())
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os\nfrom rft_ray.store import *\nstore = open_store({store.url!r})\n{script}",
            ],
            cwd=ROOT,
        )
        while sum(1 for _ in store.list()) < before + 3:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.random() / 10)
        process.kill()
        process.wait()
    for key in store.list():
        assert store.read(key) == bytes([int(key.split("/")[1]) % 256]) * 300_000


def test_temporary_files_are_gone_after_a_commit(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("a", b"1")
    store.create("a", b"2")
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_listing_one_shard_reads_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker lists like this before each shard, in runs with tens of thousands of folders."""
    store, read, scandir = open_store(str(tmp_path)), [], os.scandir
    for block in range(20):
        store.create(f"completions/p/p{block}/f.g0.parquet", b"")
    monkeypatch.setattr(os, "scandir", lambda folder: read.append(folder) or scandir(folder))
    assert list(store.list("completions/p/p7/f.g")) == ["completions/p/p7/f.g0.parquet"]
    assert len(read) == 1


@pytest.mark.parametrize(
    "prefix", ["", "a", "a/", "a/b", "a/b/", "a/b.", "a/b/c", "a/bc/", "b", "..", "../", ".tmp/", "a//"]
)
def test_a_listing_is_every_key_of_the_prefix_in_order(tmp_path: Path, prefix: str) -> None:
    store, keys = open_store(str(tmp_path)), ["a/b.x", "a/b/c", "a/b/d.y", "a/bc/e", "a-b", "ab", "c/a/b"]
    for key in keys:
        store.create(key, b"")
    assert list(store.list(prefix)) == sorted(key for key in keys if key.startswith(prefix))


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in (".DS_Store", "a/.nfs0001", "a/notes (1).txt"):
        (tmp_path / name).write_bytes(b"")
    store = open_store(str(tmp_path))
    store.create("a/b", b"")
    assert list(store.list()) == ["a/b"]


def test_linked_folders_are_listed_as_others_whatever_the_prefix(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    for key in ("a/b", "a/c/d", "e"):
        store.create(key, b"")
    (tmp_path / "run" / "a").rename(tmp_path / "moved")
    (tmp_path / "run" / "a").symlink_to(tmp_path / "moved")
    (tmp_path / "moved" / "c" / "loop").symlink_to(tmp_path / "run")
    (tmp_path / "moved" / "itself").symlink_to(tmp_path / "moved")
    for prefix in ("", "a", "a/", "a/c/", "e"):
        assert list(store.list(prefix)) == [key for key in ("a/b", "a/c/d", "e") if key.startswith(prefix)]


def test_a_file_that_is_deleted_during_a_listing_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    for key in ("a", "b", "c"):
        store.create(key, b"")
    listing = store.list()
    assert next(listing) == "a"
    (tmp_path / "b").unlink()
    assert list(listing) == ["c"]


def test_a_folder_under_a_files_name_is_not_a_commit(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("a/b", b"")
    with pytest.raises(StoreError, match=r"a in /.*folder"):
        store.create("a", b"")


def test_relative_paths_mean_the_same_folder_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs/x")
    assert store.url == str(tmp_path / "runs" / "x")
    assert pickle.loads(pickle.dumps(store)).url == store.url


@pytest.mark.parametrize("url", ["", "s3:/bucket/prefix", "gs:/bucket/prefix", "file:/tmp/runs"])
def test_an_address_that_a_shell_or_a_path_has_spoilt_is_no_local_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"is empty|write two slashes, as in s3://bucket/prefix"):
        open_store(url)
    assert open_store("C:/x").url == str(tmp_path / "C:" / "x")  # a folder may have a colon


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(StoreError, match="gs://"):
        open_store("gs://bucket/prefix")


# --- A root that goes away ------------------------------------------------------------------------


def gone(root: Path, how: str) -> None:
    """Let the store go away as a mount does: with its mount point, or with an empty one left; or another run come."""
    root.rename(root.with_name("elsewhere"))
    if how != "removed":
        root.mkdir()
    if how == "another run":
        mark_run(open_store(str(root)))


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("how", ["removed", "empty", "another run"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_run_that_goes_away_gets_no_commit_and_nothing_is_created(tmp_path: Path, how: str, pickled: bool) -> None:
    root = tmp_path / "mount"
    mark_run(open_store(str(root)))
    store = open_run(str(root))
    assert store.create("a/b", b"1")
    if pickled:
        store = pickle.loads(pickle.dumps(store))
    gone(root, how)
    (tmp_path / "file").write_bytes(b"2")
    before = tree(tmp_path)
    writes: list[Callable[[], object]] = [
        lambda: store.create("a/c", b"2"),
        lambda: store.create("d", b"2"),
        lambda: store.create_file("a/c", tmp_path / "file"),
        lambda: store.replace("summary.json", b"{}"),
        lambda: mark_run(store) if how != "another run" else store.create("a/b", b"3"),
    ]
    for write in writes:
        with pytest.raises(StoreError, match=r"went away: run\.json is missing"):
            write()
    assert tree(tmp_path) == before


def test_a_run_that_comes_back_is_written_to_again(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    mark_run(open_store(str(root)))
    store = open_run(str(root))
    store.create("a/b", b"1")
    gone(root, "removed")
    with pytest.raises(StoreError, match="went away"):
        store.create("a/c", b"2")
    shutil.copytree(tmp_path / "elsewhere", root)  # other inodes, as after a mount of the same run
    assert store.create("a/c", b"2")
    assert open_run(str(root)).read("a/b") == b"1"


@pytest.mark.parametrize("how", ["removed", "empty", "another run"])
def test_a_run_that_went_away_is_an_outage_unless_another_is_in_its_place(tmp_path: Path, how: str) -> None:
    """Not a run without files, of which everything would be made again, or whose models and checkpoints are damaged."""
    root = tmp_path / "mount"
    mark_run(open_store(str(root)))
    store = open_run(str(root))
    store.create("a/b", b"1")
    gone(root, how)
    uses: list[Callable[[], object]] = [
        lambda: store.create("a/c", b"2"),
        lambda: store.read("a/b"),
        lambda: store.fetch("a/b", tmp_path / "copy"),
        lambda: store.exists("a/b"),
        lambda: list(store.list("a/")),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="went away") as raised:
            use()
        assert isinstance(raised.value, StoreUnreachable) == (how != "another run")


def mounted(monkeypatch: pytest.MonkeyPatch, mounts: list[tuple[str, str]]) -> None:
    """The file systems of this machine, where and of which type."""
    parts = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(local.psutil, "disk_partitions", lambda all: parts)


@pytest.mark.parametrize(
    ("mounts", "waits"),
    [
        ([("/", "nfs4"), ("{}", "ext4")], False),
        ([("/", "ext4"), ("{}", "nfs4")], True),
        ([("{}", "nfs4"), ("{}", "xfs")], False),  # mounted over the other one
        ([("/", "ext4"), ("{}x", "nfs4")], False),
        ([("/", "fuse.gcsfuse")], True),
        ([], True),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_a_broken_sector_is_an_error_at_once_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: list[tuple[str, str]], waits: bool, known: bool
) -> None:
    """`known`: whether the run's marker has been read before; otherwise it lies on the sector itself."""
    mounted(monkeypatch, [(point.format(tmp_path), kind) for point, kind in mounts])
    mark_run(open_store(str(tmp_path)))
    store = open_run(str(tmp_path))
    store.create("a/b", b"1")
    if not known:
        store = pickle.loads(pickle.dumps(store))

    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(StoreError) as raised:
        store.read("a/b")
    assert isinstance(raised.value, StoreUnreachable) == waits
    if not waits:
        file = "a/b" if known else "run.json"
        assert str(raised.value).startswith(f"defective disk: {file} in {tmp_path} (Input/output error): ")


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN])
def test_a_server_of_the_file_system_that_does_not_answer_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    mounted(monkeypatch, [("/", "ext4"), (str(tmp_path), "nfs4")])
    store, failures = open_store(str(tmp_path)), [OSError(code, os.strerror(code))] * 2
    store.create("a", b"1")
    reads = Path.read_bytes
    monkeypatch.setattr(outages, "OUTAGE_WAIT_S", 0.0)

    def read_bytes(path: Path) -> bytes:
        if failures:
            raise failures.pop()
        return reads(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert outages.through_outages(lambda: store.read("a"), "a") == b"1"
    assert not failures


def test_a_store_of_no_run_creates_its_root_once(tmp_path: Path) -> None:
    root = tmp_path / "a" / "store"
    store = open_store(str(root))
    assert store.create("x/y", b"1")
    gone(root, "removed")
    for key in ("x/z", "z"):
        with pytest.raises(StoreError, match=f"the folder {root} went away"):
            store.create(key, b"2")
    assert not root.exists()


# --- Full and read-only disks ---------------------------------------------------------------------


FILL = """
    try:
        store.create("a/big", b"x" * 4_000_000)
    except StoreError as error:
        print(error)
    print(list(store.list()), os.listdir(sys.argv[1] + "/.tmp"), store.create("a/small", b"y"))
"""


def says_disk_full(output: str) -> bool:
    message, state = output.splitlines()
    return (
        message.startswith("disk full: a/big in /")
        and message.endswith("free some space and run the same command again; nothing was lost")
        and state == "[] [] True"
    )


def test_a_full_disk_raises_one_clear_error_and_leaves_no_file(tmp_path: Path) -> None:
    mounted = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(tmp_path))
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("needs root: mounts a small file system in a namespace of its own")
    done = child(FILL, tmp_path, prefix=mounted)
    assert says_disk_full(done.stdout), done


def test_a_file_size_limit_raises_one_clear_error_and_leaves_no_file(tmp_path: Path) -> None:
    done = child("resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))" + textwrap.dedent(FILL), tmp_path)
    assert says_disk_full(done.stdout), done


@pytest.mark.parametrize("url", ["/proc/rft", "/dev/null"])
def test_a_folder_that_cannot_be_created_raises_one_clear_error(url: str) -> None:
    with pytest.raises(StoreError, match=f"{url} .*: choose a writable folder"):
        open_store(url).check()


# --- Tables ---------------------------------------------------------------------------------------


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    script = """
        import pyarrow
        commit_table(store, "t.parquet", pyarrow.table({"a": [1, None, 3], "b": ["x", "", None]}), {"n": "1", "k": "2"})
    """
    for name in ("one", "two"):
        assert child(script, tmp_path / name).returncode == 0
    assert (tmp_path / "one/t.parquet").read_bytes() == (tmp_path / "two/t.parquet").read_bytes()
