"""Find the files of a run's store that must not count, and void them, so that the next run makes them again.

In: a store. Out: findings, and tombstones (`names.py`); nothing is deleted. A file must not count if its bytes are not
those that were committed, or if it was made from rows that no longer count:

* a corrupt file is void;
* completions that are sampled again have other rows: every file made from void completions is void too, including the
  corpus, the models trained on it and their samples;
* every other file is computed again with the same rows: a corrupt verdict, path block or corpus voids nothing else.

`tables.py` records which files a file was made from. Tombstones are written downstream first: a repair that is
interrupted leaves the cause in place, and the next repair continues from it. A damaged model is named and not voided,
because its samples were drawn while it was whole: put an intact copy in its place, or move the model out of the store
to have it trained again.

Limits: no job may write to the run meanwhile, which `run_lock.py` ensures: a job that has read a file before it is
voided would commit files made from it. The next `verify` names such files.
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
"""Prefix of the files that have other rows when they are made again: sampling is random."""
READERS = 8


@dataclass(frozen=True, slots=True)
class File:
    """A committed file that counts.

    Example: File("verdicts/41…/p000000/9c….g0.parquet", "5f…", {"completions/41…/p000000/7b…": "a1…"}, "")
    """

    key: str
    identity: str
    made_from: Mapping[str, str]
    """Stem -> identity of each file that it was made from; an empty identity matches any."""
    damage: str
    """What is wrong with its bytes; empty for a sound file."""

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
    """Read every table and model that counts. Each of READERS threads holds one file in memory."""
    present = names.committed_files(store.list())
    tables = [key for (_, ending), key in present.items() if ending == "parquet"]
    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda key: _table(store, key, present), tables))
    manifests = [key for (stem, _), key in present.items() if stem.startswith("models/") and stem.endswith("/manifest")]
    return [*files, *(_model(store, key) for key in manifests)]


def find(files: Sequence[File]) -> list[Finding]:
    """The files that must not count: first the corrupt ones, then, layer by layer, those made from lost rows."""
    by_stem = {file.stem: file for file in files}
    damaged = [file for file in files if file.damage]
    findings = [Finding(file.key, file.damage, True) for file in damaged]
    sound = [file for file in files if not file.damage]
    lost = {file.stem for file in damaged if file.stem.startswith(REDRAWN)}  # made again, they have other rows
    while True:
        stale = {file.stem: why for file in sound if (why := _stale(file, by_stem, lost))}
        grown = lost | set(stale)
        if grown:  # which files a damaged one was made from cannot be read
            grown |= {file.stem for file in damaged}
        if grown == lost:
            return findings
        findings += [Finding(by_stem[stem].key, why, False) for stem, why in stale.items()]
        sound = [file for file in sound if file.stem not in stale]
        lost = grown


def void(store: Store, findings: Sequence[Finding]) -> list[Finding]:
    """Write a tombstone for each finding, the last first, except damaged models. Returns the voided ones."""
    voided = []
    for finding in reversed(findings):
        if finding.corrupt and finding.key.startswith("models/"):
            continue
        store.create(names.tombstone(finding.key), json.dumps({"reason": finding.reason}).encode())
        voided.append(finding)
    return voided


def _stale(file: File, by_stem: Mapping[str, File], lost: set[str]) -> str:
    """Why the rows that `file` was made from no longer count; empty where they do."""
    for stem, content in file.made_from.items():
        source = by_stem.get(stem)
        if stem in lost:
            return f"made from {stem}, which is void"
        if source is None and content and stem.startswith(REDRAWN):
            return f"made from {stem}, which is missing"
        if source is not None and content and not source.damage and source.identity != content:
            return f"made from other rows than those of {source.key}"
    return ""


def _table(store: Store, key: str, present: Mapping[tuple[str, str], str]) -> File:
    """One table, read twice before it counts as corrupt: a network can alter the bytes of one read."""
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
    return File(key, identity(table), read, _damage_of_jsonl(store, key, metadata, present))


def _damage_of_jsonl(
    store: Store, key: str, metadata: Mapping[str, str], present: Mapping[tuple[str, str], str]
) -> str:
    """What is wrong with the JSONL file that holds the same rows as a corpus; empty where nothing is."""
    jsonl = present.get((names.split(key)[0], "jsonl"))
    if jsonl is None or "jsonl_sha256" not in metadata:
        return ""
    if hashlib.sha256(store.read(jsonl)).hexdigest() == metadata["jsonl_sha256"]:
        return ""
    return f"corrupt file {jsonl} in {store.url}: it does not hold the rows of {key}"


def _model(store: Store, key: str) -> File:
    """One committed model; every file of it is read."""
    fingerprint = key.split("/")[1]
    try:
        manifest = committed_model(store, fingerprint)
        fetch_model(store, fingerprint)
    except ModelError as error:
        return File(key, "", {}, str(error))
    if manifest is None:
        raise NotFound(f"not found: {key} in {store.url}: it was voided while this command was running")
    return File(key, manifest.attempt, made_from(manifest.metadata), "")
