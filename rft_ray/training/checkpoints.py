"""Checkpoints that a training job resumes from, each committed by a manifest.

In: a folder that the trainer wrote, complete on every worker. Out: `work/<fingerprint>/<attempt>/checkpoint-<step>/`
with a create-only `manifest.json` of SHA-256 hashes, written last. `newest` returns the checkpoint of the latest step
whose files all match their hashes. A half-written checkpoint has no manifest and is never loaded.

On a local store the trainer writes directly into the store's folder, and old checkpoints are deleted. A remote store
gets copies of the files and has no delete: set a lifecycle rule that expires `work/` there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from rft_ray.store import Store, StoreError
from rft_ray.store.base import sync
from rft_ray.training.results import STARTED

MANIFEST = "manifest.json"
KEPT = 2
"""Number of checkpoints that a job keeps: the newest, and one before it in case the newest is damaged."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint.

    Example: Checkpoint("work/5f0c…/a1b2…/checkpoint-40", 40, 31.5, {"zero_stage": 2, "workers": 2}, {"latest": "9a…"})
    """

    folder: str
    """Key prefix of the checkpoint's files in the store."""
    step: int
    seconds: float
    """Training time up to this step, over all attempts."""
    layout: Mapping[str, int | str]
    """How the state is divided into files, and the data trained on. A run loads only checkpoints of its own layout."""
    files: Mapping[str, str]
    """Relative path -> SHA-256."""


def work_folder(fingerprint: str, attempt: str = "") -> str:
    """Key prefix of a job's checkpoints, or of one attempt's."""
    return f"work/{fingerprint}/{attempt}".rstrip("/")


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder` except manifests."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): _sha256(path) for path in paths}


def upload(store: Store, folder: str, local: Path) -> dict[str, str]:
    """Copy a folder's files into the store; a local store has them already and syncs them. Returns their hashes."""
    hashes = hash_files(local)
    if store.local_path(folder) is None:
        for name in hashes:
            store.create_file(f"{folder}/{name}", local / name)
    else:
        folders = {parent for name in hashes for parent in (local / name).parents if parent.is_relative_to(local)}
        sync([*(local / name for name in hashes), *folders])
    return hashes


def commit(store: Store, checkpoint: Checkpoint) -> None:
    """Write the manifest, which commits the checkpoint."""
    body = {"step": checkpoint.step, "seconds": checkpoint.seconds, "layout": dict(checkpoint.layout)}
    manifest = json.dumps({**body, "files": dict(checkpoint.files)}, sort_keys=True, indent=1)
    store.create(f"{checkpoint.folder}/{MANIFEST}", manifest.encode())


def newest(
    store: Store, fingerprint: str, layout: Mapping[str, int | str], scratch: Path
) -> tuple[Checkpoint | None, int]:
    """The loadable checkpoint of the latest step, and the number of complete checkpoints skipped before it.

    A checkpoint is skipped with a warning when it was saved under another layout (number of workers, ZeRO stage, or
    training data) or one of its files is missing or altered. Files of a remote store are copied to `scratch` and
    checked there.
    """
    passed_over = 0
    for checkpoint in sorted(committed(store, fingerprint), key=lambda c: c.step, reverse=True):
        if checkpoint.layout != layout:
            reason = f"it was saved with {dict(checkpoint.layout)}, and this run has {dict(layout)}"
        elif damaged := _damaged(store, checkpoint, scratch):
            reason = f"its file {damaged} is missing or altered"
        else:
            return checkpoint, passed_over
        passed_over += 1
        logger.warning("checkpoint %s of step %d is skipped: %s", checkpoint.folder, checkpoint.step, reason)
    return None, passed_over


def committed(store: Store, fingerprint: str) -> list[Checkpoint]:
    """Every checkpoint of a job that has a readable manifest."""
    checkpoints = []
    for key in store.list(f"{work_folder(fingerprint)}/"):
        folder, _, name = key.rpartition("/")
        if name == MANIFEST:
            try:
                checkpoints.append(Checkpoint(folder=folder, **json.loads(store.read(key))))
            except (ValueError, TypeError, StoreError):
                logger.warning("%s cannot be read: its checkpoint is skipped", key)
    return checkpoints


def local_folder(store: Store, folder: str, scratch: Path) -> Path:
    """The folder of a checkpoint or an attempt on this node: in the store if it is local, otherwise below `scratch`."""
    return store.local_path(folder) or scratch / folder


def fetch(store: Store, checkpoint: Checkpoint, scratch: Path) -> Path:
    """The folder with the checkpoint's files on this node; copies them there when the store is remote."""
    for name in checkpoint.files:
        _fetch_file(store, checkpoint, name, scratch)
    return local_folder(store, checkpoint.folder, scratch)


def _fetch_file(store: Store, checkpoint: Checkpoint, name: str, scratch: Path) -> Path:
    path = local_folder(store, checkpoint.folder, scratch) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        store.fetch(f"{checkpoint.folder}/{name}", path)
    return path


def remove(store: Store, fingerprint: str, attempt: str) -> None:
    """Delete a finished job's checkpoints from a local store, except those of other attempts that may still run."""
    root = store.local_path(work_folder(fingerprint))
    if root is None:
        return
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.name == attempt or not _may_run(folder):
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another attempt's folder is in it
        root.rmdir()


def _may_run(attempt: Path) -> bool:
    """Whether an attempt is recorded as started by a process of another host, or by one of this host that runs."""
    try:
        origin = json.loads((attempt / STARTED).read_bytes())
        return bool(origin["host"] != socket.gethostname() or psutil.pid_exists(int(origin["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # an attempt writes its record first


def prune(store: Store, fingerprint: str, keep: int = KEPT) -> None:
    """Delete all but the newest `keep` complete checkpoints of a job from a local store.

    A checkpoint without a manifest is kept, because another attempt may be writing it.
    """
    for checkpoint in sorted(committed(store, fingerprint), key=lambda c: c.step, reverse=True)[keep:]:
        if folder := store.local_path(checkpoint.folder):
            shutil.rmtree(folder, ignore_errors=True)


def _damaged(store: Store, checkpoint: Checkpoint, scratch: Path) -> str:
    """The first file that does not match the checkpoint's manifest; empty when all files match."""
    for name, digest in checkpoint.files.items():
        try:
            if _sha256(_fetch_file(store, checkpoint, name, scratch)) != digest:
                return name
        except (StoreError, OSError):
            return name
    return ""


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
