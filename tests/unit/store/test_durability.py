"""What a commit to local disk leaves after a loss of power at any moment.

The real operations of a commit are recorded. Every prefix of the record is replayed on a model of a disk that forgets
what was not synced: the content of a file is durable once the file is synced, a name once its folder is. What is not
durable may be there or not, so the worst of both is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rft_ray.store import Store, open_store
from rft_ray.store.backends.local import LocalStore
from rft_ray.training import checkpoints

Operation = tuple[str, str, str]


@dataclass
class Disk:
    """The names and contents that a loss of power may leave.

    Example: Disk({"a": "1"}) with `synced` {"1"} and `durable_names` {"a"} keeps file a and its content.
    """

    names: dict[str, str]
    """Path -> the file or folder that it names, as its inode."""
    synced: set[str] = field(default_factory=set)
    """Files whose content is durable."""
    durable_names: set[str] = field(default_factory=set)

    def apply(self, operation: Operation) -> None:
        kind, path, inode = operation
        if kind == "name":
            self.names[path] = inode
        elif kind == "sync file":
            self.synced.add(inode)
        else:
            self.durable_names |= {name for name in self.names if os.path.dirname(name) == path}

    def is_durable(self, path: str, root: str) -> bool:
        """Whether the file and all names on the way to it outlive a loss of power for sure."""
        steps = [path, *(str(parent) for parent in Path(path).parents if str(parent).startswith(root))]
        return self.names.get(path) in self.synced and self.durable_names.issuperset(steps)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Operation]]:
    """The operations of this process that name, or sync, files and folders."""
    operations: list[Operation] = []
    real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in ("link", "replace", "mkdir", "fsync")}

    def named(name: str, path: Any) -> None:
        operations.append(("name", os.path.abspath(path), str(os.stat(path).st_ino)))

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        path, status = os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor)
        operations.append(("sync folder" if os.path.isdir(path) else "sync file", path, str(status.st_ino)))

    def wrapped(name: str, place: int) -> Callable[..., None]:
        def act(*arguments: Any, **options: Any) -> None:
            real[name](*arguments, **options)
            named(name, arguments[place])

        return act

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", wrapped("link", 1))
        patch.setattr(os, "replace", wrapped("replace", 1))
        patch.setattr(os, "mkdir", wrapped("mkdir", 0))
        patch.setattr(os, "fsync", fsync)
        yield operations


def create(store: Store, source: Path) -> list[str]:
    store.create("a/b/table.parquet", b"rows")
    return ["a/b/table.parquet"]


def create_file(store: Store, source: Path) -> list[str]:
    store.create_file("models/m/weights", source)
    return ["models/m/weights"]


def replace(store: Store, source: Path) -> list[str]:
    store.replace("summary.json", b"{}")
    return ["summary.json"]


@pytest.mark.parametrize("act", [create, create_file, replace])
def test_no_loss_of_power_leaves_a_torn_file_or_takes_an_acknowledged_one(
    act: Callable[[Store, Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"weights")
    root = tmp_path / "store"
    with recorded(monkeypatch) as operations:
        store = open_store(str(root))
        finals = [str(root / key) for key in act(store, tmp_path / "source")]
    disk = Disk({})
    for operation in operations:
        disk.apply(operation)
        for final in finals:
            assert final not in disk.names or disk.names[final] in disk.synced, f"torn after {operation}"
    assert all(disk.is_durable(final, str(root)) for final in finals), operations
    assert all(Path(final).is_file() for final in finals)


def test_a_checkpoints_files_are_durable_before_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    folder = store.local_path("work/f/a/checkpoint-1")
    (folder / "global_step1").mkdir(parents=True)
    states = [folder / "latest", folder / "global_step1" / "state.bin"]
    for state in states:
        state.write_bytes(b"state")
    with recorded(monkeypatch) as operations:
        names = checkpoints.own_files(folder, 0, first=True)
        checkpoints.upload(store, "work/f/a/checkpoint-1", folder, names)
    synced = {path for kind, path, _ in operations if kind == "sync file"}
    folders = {path for kind, path, _ in operations if kind == "sync folder"}
    assert synced == set(map(str, states))
    assert folders >= {str(folder), str(folder / "global_step1")}
