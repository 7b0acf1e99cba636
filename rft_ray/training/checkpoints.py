"""Checkpoints that a training job resumes from, each committed by a manifest.

In: a folder that the trainer wrote, of which every rank uploads its own files. Out:
`work/<fingerprint>/<attempt>/checkpoint-<step>/` with a create-only `manifest.json` of SHA-256 hashes, written last.
`newest` returns the checkpoint of the latest step whose files all match their hashes. A half-written checkpoint has no
manifest and is never loaded.

On a local store the trainer writes directly into the store's folder; a remote store gets copies of the files. Old
checkpoints are deleted, their manifests first. Where the store does not allow it, one warning says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from rft_ray.store import NotFound, Store, StoreError, processes
from rft_ray.store.base import StoreUnreachable, sync
from rft_ray.store.models.folder import digest_of
from rft_ray.store.models.hashes import digest_of_file
from rft_ray.store.outages import through_outages
from rft_ray.training.resharding import loadable
from rft_ray.training.results import STARTED

MANIFEST = "manifest.json"
KEPT = 2
"""Number of checkpoints that a job keeps: the newest, and one before it in case the newest is damaged."""

_OF_RANK = re.compile(r"(?:zero_pp_rank_|rng_state_)(\d+)")
"""The rank that DeepSpeed and transformers write into the names of the files of one rank."""

_CHECKPOINT = re.compile(r"work/[^/]+/[^/]+/checkpoint-\d+(?=/)")
"""The folder of a checkpoint, at the beginning of the keys of its files."""

_DAMAGED = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading a record raises that is not as an attempt has written it."""

logger = logging.getLogger(__name__)
_undeletable: set[str] = set()
"""URLs of the stores whose refusal to delete has been reported."""


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
    """How the state is divided into files, and the data trained on: `resharding.py` says which a run can load."""
    files: Mapping[str, str]
    """Relative path -> SHA-256."""


def work_folder(fingerprint: str, attempt: str = "") -> str:
    """Key prefix of a job's checkpoints, or of one attempt's."""
    return f"work/{fingerprint}/{attempt}".rstrip("/")


def own_files(folder: Path, rank: int, first: bool) -> list[str]:
    """The files that a rank uploads: its own by their names, and with `first` those of no rank. Relative paths.

    No two ranks have a file in common, and a rank looks only for files that it wrote: it sees them in any file system.
    """
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    owners = {name: _OF_RANK.search(name) for name in sorted(names)}
    return [name for name, owner in owners.items() if (int(owner[1]) == rank if owner else first)]


def upload(store: Store, folder: str, local: Path, names: Iterable[str]) -> dict[str, str]:
    """Copy files of a folder into the store; a local store has them already and syncs them. Returns their hashes."""
    hashes = {name: digest_of_file(local / name) for name in names}
    if store.local_path(folder) is None:
        for name in hashes:
            key = f"{folder}/{name}"
            through_outages(partial(store.create_file, key, local / name), key)
    else:
        folders = {parent for name in hashes for parent in (local / name).parents if parent.is_relative_to(local)}
        sync([*(local / name for name in hashes), *folders])
    return hashes


def commit(store: Store, checkpoint: Checkpoint) -> None:
    """Write the manifest, which commits the checkpoint.

    Raises StoreError where a local store lacks one of the files: written while the store's disk was away, they lie
    below its mount point.
    """
    body = {"step": checkpoint.step, "seconds": checkpoint.seconds, "layout": dict(checkpoint.layout)}
    body |= {"files": dict(checkpoint.files)}
    manifest = json.dumps({**body, "sha256": digest_of(body)}, sort_keys=True, indent=1)
    key = f"{checkpoint.folder}/{MANIFEST}"

    def written() -> None:
        folder = store.local_path(checkpoint.folder)
        if folder and (gone := [name for name in checkpoint.files if not store.exists(f"{checkpoint.folder}/{name}")]):
            raise StoreError(
                f"{gone[0]} of the checkpoint is not in {folder}, where it was written: was its disk away?"
            )
        store.create(key, manifest.encode())

    through_outages(written, key)


def newest(
    complete: Iterable[Checkpoint], layout: Mapping[str, int | str], damaged: Callable[[Checkpoint], str]
) -> tuple[Checkpoint | None, int]:
    """The loadable one of complete checkpoints, of the latest step, and the number of those skipped before it.

    A checkpoint is skipped with a warning when its layout is not one that this run can load (`resharding.loadable`), or
    `damaged` names one of its files.
    """
    passed_over = 0
    for checkpoint in sorted(complete, key=lambda c: c.step, reverse=True):
        if not loadable(checkpoint.layout, layout):
            reason = f"it was saved with {dict(checkpoint.layout)}, and this run has {dict(layout)}"
        elif name := damaged(checkpoint):
            reason = f"its file {name} is missing or altered"
        else:
            return checkpoint, passed_over
        passed_over += 1
        logger.warning("checkpoint %s of step %d is skipped: %s", checkpoint.folder, checkpoint.step, reason)
    return None, passed_over


def committed(store: Store, fingerprint: str) -> list[Checkpoint]:
    """Every checkpoint of a job that has a readable manifest. Raises StoreUnreachable, which says nothing of any."""
    checkpoints = []
    for key in store.list(f"{work_folder(fingerprint)}/"):
        folder, _, name = key.rpartition("/")
        if name == MANIFEST:
            try:
                checkpoints.append(_checkpoint(folder, store.read(key)))
            except StoreUnreachable:
                raise
            except (ValueError, TypeError, AttributeError, StoreError):
                logger.warning("%s cannot be read: its checkpoint is skipped", key)
    return checkpoints


def _checkpoint(folder: str, manifest: bytes) -> Checkpoint:
    """The checkpoint that a manifest describes. Raises ValueError, TypeError or AttributeError where it is damaged."""
    body = json.loads(manifest)
    if body.pop("sha256", None) not in (None, digest_of(body)):  # earlier versions wrote no hash
        raise ValueError("it does not have the hash that it holds")
    return Checkpoint(folder=folder, **body)


def local_folder(store: Store, folder: str, scratch: Path) -> Path:
    """The folder of a checkpoint or an attempt on this node: in the store if it is local, otherwise below `scratch`."""
    return store.local_path(folder) or scratch / folder


def _fetch_file(store: Store, checkpoint: Checkpoint, name: str, scratch: Path) -> Path:
    path = local_folder(store, checkpoint.folder, scratch) / name
    if not path.exists():
        if store.local_path(checkpoint.folder) is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        key = f"{checkpoint.folder}/{name}"
        through_outages(partial(store.fetch, key, path), key)
    return path


def remove(store: Store, fingerprint: str, attempt: str) -> None:
    """Delete a finished job's checkpoints, except those of other attempts that may still run."""
    root = f"{work_folder(fingerprint)}/"
    with _reported(store):
        keys = [*store.list(root)]
        attempts = {key.split("/")[2] for key in keys}
        ended = {name for name in attempts if name == attempt or not _may_run(store, f"{root}{name}")}
        _delete(store, [key for key in keys if key.split("/")[2] in ended])
        for name in ended:  # what is no key, such as an empty folder
            if folder := store.local_path(f"{root}{name}"):
                shutil.rmtree(folder, ignore_errors=True)
    if folder := store.local_path(work_folder(fingerprint)):
        with suppress(OSError):  # another attempt's folder is in it
            folder.rmdir()


def discard_unfinished(store: Store, fingerprint: str, ended: str = "") -> None:
    """Delete what attempts that have ended left of checkpoints without a manifest, such as on a full disk.

    `ended`: an attempt that is known to have ended; of others, those whose process of this machine has. Complete
    checkpoints stay, and so does whatever an attempt may still be writing.
    """
    root = f"{work_folder(fingerprint)}/"
    with _reported(store):
        attempts = {key.split("/")[2] for key in store.list(root) if _CHECKPOINT.match(key)}
        over = {name for name in attempts if name == ended or _has_ended(store, f"{root}{name}")}
        keys = [*store.list(root)] if over else []  # what they had completed before they ended is among these
        complete = {key.rpartition("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")}
        left = {place[0] for place in map(_CHECKPOINT.match, keys) if place} - complete
        for folder in sorted(left):
            if folder.split("/")[2] in over:
                _delete_folder(store, folder, [key for key in keys if key.startswith(f"{folder}/")])


def this_process() -> dict[str, Any]:
    """What the record of an attempt says of its process."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": processes.machine(),
        "pid": pid,
        "started": processes.started(pid),
    }


def _has_ended(store: Store, attempt: str) -> bool:
    """Whether it is certain that the process that an attempt has recorded has ended."""
    with suppress(NotFound, *_DAMAGED):
        origin = json.loads(store.read(f"{attempt}/{STARTED}"))
        return processes.has_ended(origin["machine"], int(origin["pid"]), origin["started"])
    return False


def _may_run(store: Store, attempt: str) -> bool:
    """Whether an attempt is recorded as started by a process of another host, or by one of this host that runs."""
    with suppress(NotFound, *_DAMAGED):  # an attempt writes its record first
        origin = json.loads(store.read(f"{attempt}/{STARTED}"))
        return bool(origin["host"] != socket.gethostname() or psutil.pid_exists(int(origin["pid"])))
    return False


def prune(store: Store, fingerprint: str, step: int, keep: int = KEPT) -> None:
    """Delete all but the newest `keep` of a job's complete checkpoints up to `step`, where the training is.

    Those of later steps stay: this training could not go on from them, and another attempt may. So does a checkpoint
    without a manifest, because another attempt may be writing it.
    """
    with _reported(store):
        passed = [checkpoint for checkpoint in committed(store, fingerprint) if checkpoint.step <= step]
        for checkpoint in sorted(passed, key=lambda c: c.step, reverse=True)[keep:]:
            _delete_folder(store, checkpoint.folder, store.list(f"{checkpoint.folder}/"))


def _delete_folder(store: Store, folder: str, keys: Iterable[str]) -> None:
    _delete(store, keys)
    if local := store.local_path(folder):  # what is no key, such as an empty folder
        shutil.rmtree(local, ignore_errors=True)


def _delete(store: Store, keys: Iterable[str]) -> None:
    """Delete files, manifests first: a checkpoint that is half deleted is never taken for a complete one."""
    keys = [*keys]
    manifests = [key for key in keys if key.endswith(f"/{MANIFEST}")]
    store.discard(manifests)
    store.discard([key for key in keys if key not in manifests])


@contextmanager
def _reported(store: Store) -> Iterator[None]:
    """A checkpoint that cannot be deleted does no harm: one warning for each store of this process."""
    try:
        yield
    except StoreUnreachable:
        pass  # deleted after the next checkpoint
    except StoreError as error:
        if store.url not in _undeletable:
            _undeletable.add(store.url)
            logger.warning(
                "old checkpoints stay in %s/work (%s): allow the key to delete there, or let work/ expire by a "
                "lifecycle rule (docs/reliability.md, Listing and pruning)",
                *(store.url, error),
            )


def damaged(store: Store, checkpoint: Checkpoint, names: Sequence[str], scratch: Path) -> str:
    """The first of these files that does not match the checkpoint's manifest; empty when all match.

    Files of a remote store are copied to `scratch`, checked there, and stay. Raises StoreUnreachable after a long
    outage: that says nothing about the checkpoint.
    """
    for name in names:
        if _is_whole(store, checkpoint, name, scratch):
            continue
        through_outages(partial(store.read, f"{checkpoint.folder}/{MANIFEST}"), checkpoint.folder)  # is it away?
        if not _is_whole(store, checkpoint, name, scratch):
            return name
    return ""


def _is_whole(store: Store, checkpoint: Checkpoint, name: str, scratch: Path) -> bool:
    """Whether a file is there and matches the manifest."""
    try:
        return digest_of_file(_fetch_file(store, checkpoint, name, scratch)) == checkpoint.files[name]
    except StoreUnreachable:
        raise
    except (StoreError, OSError):
        return False
