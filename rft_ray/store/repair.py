"""Find the files of a run's store that must not count, and void them, so that the next run makes them again.

In: a run's store. Out: findings, tombstones and restorations (`names.py`); nothing is deleted. A file must not count if
its bytes are not those that were committed, or if it was made from rows that no longer count:

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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter

from rft_ray.store import names
from rft_ray.store.base import VIEWS, CorruptShard, Store
from rft_ray.store.models.committed import check_files, manifest_at
from rft_ray.store.models.folder import ModelError
from rft_ray.store.tables import identity, made_from, read_file

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


def examine(store: Store, taken_back: Iterable[str] = ()) -> list[File]:
    """Read every table and model that counts, and no view. Each of READERS threads holds one file in memory.

    `taken_back`: restorations that are not written, and that are examined as if they were.
    """
    present = names.committed_files(key for key in (*store.list(), *taken_back) if key not in VIEWS)
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
    """Write a tombstone for each finding that `can_be_void`, the last first. Returns the voided ones."""
    voided = [finding for finding in reversed(findings) if can_be_void(finding)]
    for finding in voided:
        records = store.list(f"{names.split(finding.key)[0]}.")
        store.create(names.tombstone(finding.key, records), json.dumps({"reason": finding.reason}).encode())
    return voided


def can_be_void(finding: Finding) -> bool:
    """Whether a repair voids the file: every one but a damaged model."""
    return not (finding.corrupt and finding.key.startswith("models/"))


def restorable(store: Store) -> list[File]:
    """The void files that are intact, made from what counts, and not made again since; each after its sources.

    A file counts again only together with every void file that it was made from.
    """
    keys = list(store.list())
    candidates = _void_files(keys)
    records: dict[str, list[str]] = {}
    for key in filter(names.record_kind, keys):
        records.setdefault(names.split(key)[0], []).append(key)
    while candidates:
        files = examine(store, {names.restoration(key, records[stem]) for key, stem in candidates.items()})
        wrong = {file.stem for file in files if file.damage} | {names.split(finding.key)[0] for finding in find(files)}
        remaining = {key: stem for key, stem in candidates.items() if stem not in wrong}
        if remaining == candidates:
            return _sources_first([file for file in files if file.key in candidates])
        candidates = remaining
    return []


def _void_files(keys: Sequence[str]) -> dict[str, str]:
    """Key -> stem of the files of the newest void generation of each stem of which no file counts."""
    made_again = {stem for stem, _ in names.committed_files(keys)}
    newest: dict[str, int] = {}
    for stem, generation in names.void_generations(keys):
        newest[stem] = max(generation, newest.get(stem, generation))
    parts = {key: names.split(key) for key in keys if not names.record_kind(key)}
    return {
        key: stem
        for key, (stem, generation, _) in parts.items()
        if newest.get(stem) == generation and stem not in made_again
    }


def restore(store: Store, files: Sequence[File]) -> None:
    """Take back the tombstones of these files, in this order, by one create-only record each."""
    for file in files:
        store.create(names.restoration(file.key, store.list(f"{file.stem}.")), b"{}")


def _sources_first(files: Sequence[File]) -> list[File]:
    by_stem = {file.stem: file for file in files}
    order = TopologicalSorter({file.stem: set(file.made_from) for file in files}).static_order()
    return [by_stem[stem] for stem in order if stem in by_stem]


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
            table, metadata = read_file(store, key)
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
    try:
        manifest = manifest_at(store, key)
        check_files(store, manifest)
    except ModelError as error:
        return File(key, "", {}, str(error))
    return File(key, manifest.attempt, made_from(manifest.metadata), "")
