"""Checkpoints to resume a training job: folders of files that count only once their manifest is there.

In: a folder that the trainer wrote, complete on every worker. Out: `work/<fingerprint>/<attempt>/checkpoint-<step>/`
with a create-only `manifest.json` of SHA-256 hashes written last; `newest` finds the furthest one whose every
file still has its hash. A half-written one has no manifest and is never loaded.

On a local store the trainer writes straight into the store's folder and old checkpoints are deleted. A store
elsewhere gets copies of the files; it offers no delete, so let `work/` expire there by a lifecycle rule.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_ray.store import Store, StoreError

MANIFEST = "manifest.json"
KEPT = 2
"""Checkpoints that a job keeps: the newest, and one more in case that one is damaged."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint.

    Example: Checkpoint("work/5f0c…/a1b2…/checkpoint-40", 40, 31.5, {"zero_stage": 2, "workers": 2}, {"latest": "9a…"})
    """

    folder: str
    """Key prefix of its files in the store."""
    step: int
    seconds: float
    """Training time that it took, over all attempts."""
    layout: Mapping[str, int | str]
    """How the state is cut into files, and what it was trained on: it loads only where this is the same."""
    files: Mapping[str, str]
    """Relative path -> SHA-256."""


def work_folder(fingerprint: str, attempt: str = "") -> str:
    """Key prefix of a job's checkpoints, or of one attempt's."""
    return f"work/{fingerprint}/{attempt}".rstrip("/")


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder` but a manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): _sha256(path) for path in paths}


def upload(store: Store, folder: str, local: Path) -> dict[str, str]:
    """Bring a folder's files into the store, if they do not lie there already; their hashes."""
    hashes = hash_files(local)
    if store.local_path(folder) is None:
        for name in hashes:
            store.create_file(f"{folder}/{name}", local / name)
    return hashes


def commit(store: Store, checkpoint: Checkpoint) -> None:
    """Write the manifest, which makes the checkpoint count."""
    body = {"step": checkpoint.step, "seconds": checkpoint.seconds, "layout": dict(checkpoint.layout)}
    manifest = json.dumps({**body, "files": dict(checkpoint.files)}, sort_keys=True, indent=1)
    store.create(f"{checkpoint.folder}/{MANIFEST}", manifest.encode())


def newest(
    store: Store, fingerprint: str, layout: Mapping[str, int | str], scratch: Path
) -> tuple[Checkpoint | None, int]:
    """The furthest checkpoint that can be loaded, and how many complete ones were passed over.

    One is passed over, and that logged, where it was saved under another layout (number of workers, ZeRO
    stage, data made anew since) or a file of it is missing or altered. What a distant store holds is copied to
    `scratch` for that.
    """
    passed_over = 0
    for checkpoint in sorted(committed(store, fingerprint), key=lambda c: c.step, reverse=True):
        if checkpoint.layout != layout:
            reason = f"was saved with {dict(checkpoint.layout)}, this run has {dict(layout)}"
        elif damaged := _damaged(store, checkpoint, scratch):
            reason = f"{damaged} is missing or altered"
        else:
            return checkpoint, passed_over
        passed_over += 1
        logger.warning("checkpoint %s of step %d is not used: it %s", checkpoint.folder, checkpoint.step, reason)
    return None, passed_over


def committed(store: Store, fingerprint: str) -> list[Checkpoint]:
    """Every checkpoint of a job that has a readable manifest."""
    found = []
    for key in store.list(f"{work_folder(fingerprint)}/"):
        folder, _, name = key.rpartition("/")
        if name == MANIFEST:
            try:
                found.append(Checkpoint(folder=folder, **json.loads(store.read(key))))
            except (ValueError, TypeError, StoreError):
                logger.warning("%s cannot be read: its checkpoint is not used", key)
    return found


def local_folder(store: Store, folder: str, scratch: Path) -> Path:
    """Where a checkpoint's or an attempt's files lie on this node: in a local store itself, else below `scratch`."""
    return store.local_path(folder) or scratch / folder


def fetch(store: Store, checkpoint: Checkpoint, scratch: Path) -> Path:
    """The folder with the checkpoint's files on this node, copied from the store where it is not local."""
    for name in checkpoint.files:
        _fetch_file(store, checkpoint, name, scratch)
    return local_folder(store, checkpoint.folder, scratch)


def _fetch_file(store: Store, checkpoint: Checkpoint, name: str, scratch: Path) -> Path:
    path = local_folder(store, checkpoint.folder, scratch) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        store.fetch(f"{checkpoint.folder}/{name}", path)
    return path


def prune(store: Store, fingerprint: str, keep: int = KEPT) -> None:
    """Delete all but the newest complete checkpoints of a job from local disk; with `keep=0` its whole folder.

    One without a manifest stays: another attempt may be writing it.
    """
    root = store.local_path(work_folder(fingerprint))
    if root is None:
        return
    if not keep:
        shutil.rmtree(root, ignore_errors=True)
        return
    for checkpoint in sorted(committed(store, fingerprint), key=lambda c: c.step, reverse=True)[keep:]:
        if folder := store.local_path(checkpoint.folder):
            shutil.rmtree(folder, ignore_errors=True)


def _damaged(store: Store, checkpoint: Checkpoint, scratch: Path) -> str:
    """The first file of a checkpoint that is not what its manifest says; empty where all are."""
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
