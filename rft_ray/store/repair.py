"""What is unsound in a run's store, and how it is given up so that the next run makes it anew.

In: a store. Out: findings, and tombstones (`names.py`), never a delete. A file is unsound where its bytes are not
those that were committed, or where it was made from rows that are no longer the ones that count: the rule is

* a corrupt file is void;
* completions never come back the same: what was made from void ones is void too, down to the corpus, the models
  trained on it and their samples;
* all else recomputes to the same rows from what it was made from: a corrupt verdict, path block or corpus voids
  nothing.

What was made from a file is known by `tables.py`. Tombstones are written downstream first, so that a repair that is
cut off leaves the cause in place, and the next one goes on from there. A damaged weight file is named and left (its
samples were drawn while it was whole): put a copy in its place, or move the model away to have it trained again.

Limits: no job may be writing to the run meanwhile (`run_lock.py` sees to that): one that has read a file before it was
voided commits what it made from it. The next `verify` names that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rft_ray.store import names
from rft_ray.store.base import CorruptShard, NotFound, Store
from rft_ray.store.models.committed import committed_model, fetch_model
from rft_ray.store.models.folder import ModelError
from rft_ray.store.tables import identity, made_from, read_table

REDRAWN = "completions/"
"""What, made anew from the same things, holds other rows: sampling is random."""
READERS = 8


@dataclass(frozen=True, slots=True)
class File:
    """A committed file that counts.

    Example: File("verdicts/41…/p000000/9c….g0.parquet", "5f…", {"completions/41…/p000000/7b…": "a1…"}, "")
    """

    key: str
    identity: str
    made_from: Mapping[str, str]
    """Stem -> identity of what it was made from; an empty identity: any."""
    damage: str
    """What is wrong with its bytes; empty where nothing is."""

    @property
    def stem(self) -> str:
        return names.split(self.key)[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that must not count, and why. Example: Finding("corpus/5f0c….parquet", "made from …, which is void")"""

    key: str
    reason: str
    corrupt: bool


def examine(store: Store) -> list[File]:
    """Read every table and model that counts. One file in memory per reader."""
    present = names.committed_files(store.list())
    tables = [key for (_, ending), key in present.items() if ending == "parquet"]
    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda key: _table(store, key, present), tables))
    manifests = [key for (stem, _), key in present.items() if stem.startswith("models/") and stem.endswith("/manifest")]
    return [*files, *(_model(store, key) for key in manifests)]


def find(files: Sequence[File]) -> list[Finding]:
    """What must not count: first what is corrupt, then, layer by layer, what was made from what is lost."""
    by_stem = {file.stem: file for file in files}
    damaged = [file for file in files if file.damage]
    found = [Finding(file.key, file.damage, True) for file in damaged]
    sound = [file for file in files if not file.damage]
    lost = {file.stem for file in damaged if file.stem.startswith(REDRAWN)}  # what comes back with other rows
    while True:
        stale = {file.stem: why for file in sound if (why := _stale(file, by_stem, lost))}
        grown = lost | set(stale)
        if grown:  # of a damaged file nobody knows what it was made from
            grown |= {file.stem for file in damaged}
        if grown == lost:
            return found
        found += [Finding(by_stem[stem].key, why, False) for stem, why in stale.items()]
        sound = [file for file in sound if file.stem not in stale]
        lost = grown


def void(store: Store, findings: Sequence[Finding]) -> list[Finding]:
    """Write a tombstone for each, the last first; those of damaged models are left out. Returns what is void now."""
    done = []
    for finding in reversed(findings):
        if finding.corrupt and finding.key.startswith("models/"):
            continue
        store.create(names.tombstone(finding.key), json.dumps({"reason": finding.reason}).encode())
        done.append(finding)
    return done


def _stale(file: File, by_stem: Mapping[str, File], lost: set[str]) -> str:
    """Why what `file` was made from no longer counts; empty where it does."""
    for stem, content in file.made_from.items():
        there = by_stem.get(stem)
        if stem in lost:
            return f"made from {stem}, which is void"
        if there is None and content and stem.startswith(REDRAWN):
            return f"made from {stem}, which is not there"
        if there is not None and content and not there.damage and there.identity != content:
            return f"made from other rows than those of {there.key}"
    return ""


def _table(store: Store, key: str, present: Mapping[tuple[str, str], str]) -> File:
    """One table, read twice before it is called corrupt: what came over a network may have been altered there."""
    for last in (False, True):
        try:
            table, metadata = read_table(store, key)
        except CorruptShard as error:
            if last:
                return File(key, "", {}, str(error))
        else:
            break
    read = made_from(metadata)
    if key.startswith("completions/") and "model" in metadata:
        read.setdefault(f"models/{json.loads(metadata['model'])['fingerprint']}/manifest", "")
    return File(key, identity(table), read, _damage_of_twin(store, key, metadata, present))


def _damage_of_twin(store: Store, key: str, metadata: Mapping[str, str], present: Mapping[tuple[str, str], str]) -> str:
    """What is wrong with the JSONL that holds a corpus's rows too."""
    twin = present.get((names.split(key)[0], "jsonl"))
    if twin is None or "jsonl_sha256" not in metadata:
        return ""
    if hashlib.sha256(store.read(twin)).hexdigest() == metadata["jsonl_sha256"]:
        return ""
    return f"corrupt file {twin} in {store.url}: it does not hold the rows of {key}"


def _model(store: Store, key: str) -> File:
    """One committed model, every file of it read."""
    fingerprint = key.split("/")[1]
    try:
        manifest = committed_model(store, fingerprint)
        fetch_model(store, fingerprint)
    except ModelError as error:
        return File(key, "", {}, str(error))
    if manifest is None:
        raise NotFound(f"not found: {key} in {store.url}: it was voided while this command was running")
    return File(key, manifest.attempt, made_from(manifest.metadata), "")
