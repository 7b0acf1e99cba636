"""Runs as stores: the one function that makes a run, and the one that opens an existing one.

In: a store or a URL. Out: a store whose commits check the run's marker (`marker.py`). A folder that is no run is
refused with the path of the nearest run: files of a run that are read under other names, as from its parent folder,
look like files of an unknown origin.

A run that was made before there were markers is recognised by its own files: a folder of a stage directly at the root
whose files are named by fingerprints, next to a table of problems or a view. Its next writing job adds the marker.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rft_ray.store.base import VIEWS, Store, StoreError
from rft_ray.store.marker import FORMAT, KEY, RunMarker, decode, encode
from rft_ray.store.opening import open_store, plain_store

STAGES = ("problems", "completions", "verdicts", "paths", "corpus", "models", "evaluation")
NEIGHBOURS = 20
"""Folders of one folder that the search for the nearest run looks into, and parents that it looks at."""
_NAMED = re.compile(r"[0-9a-f]{16}(?![0-9A-Za-z])")


class NotARun(StoreError):
    """A folder that is not the root of a run; the message names the nearest run."""


def open_run(url: str) -> Store:
    """The store of an existing run. Raises NotARun, and StoreError where the run cannot be read."""
    store = open_store(url)
    if marker := read_marker(store):
        store.bind(marker.id)
    elif not _is_unmarked_run(store):
        raise NotARun(_refusal(store))
    return store


def mark_run(store: Store) -> RunMarker:
    """Make the store a run, unless it is one, and bind it to the run. Every job that writes calls this first.

    Of several processes that make one run at once, one writes the marker and all return it. Raises NotARun for a folder
    that contains a run or is part of one.
    """
    marker = read_marker(store)
    if marker is None:
        if not _is_unmarked_run(plain_store(store.url)) and (runs := nearest_runs(store.url)):
            raise NotARun(f"{store.url} cannot become a run: {_relation(store.url, runs)}: choose another folder")
        store.create(KEY, encode(RunMarker(uuid.uuid4().hex, FORMAT, round(time.time(), 3))))
        marker = read_marker(store)
        if marker is None:
            raise StoreError(f"{KEY} was removed from {store.url} while this job started: run the same command again")
    store.bind(marker.id)
    return marker


def read_marker(store: Store) -> RunMarker | None:
    """The run's marker; None where there is none. Raises StoreError where it is damaged or of a newer format."""
    if not store.exists(KEY):
        return None
    try:
        marker = decode(store.read(KEY))
    except ValueError as error:
        raise StoreError(
            f"damaged file {KEY} in {store.url} ({error}): put an intact copy in its place, or move it out of the run: "
            "the next job writes a new one"
        ) from error
    if marker.format > FORMAT:
        raise StoreError(f"{store.url} was made by a newer version of rft-ray (format {marker.format}): use that one")
    return marker


def nearest_runs(url: str) -> list[str]:
    """URLs of runs near `url`: the run that it is part of, or up to three runs one or two folders below it."""
    for parent in islice(_parents(url), NEIGHBOURS):
        if _is_run(parent):
            return [parent]
    children = _children(url)
    runs = [child for child in children if _is_run(child)]
    if not runs:
        runs = [grandchild for child in children for grandchild in _children(child) if _is_run(grandchild)]
    return runs[:3]


def _is_run(url: str) -> bool:
    with suppress(StoreError):  # no right to read it, or no name of a store
        store = plain_store(url)
        return store.exists(KEY) or _is_unmarked_run(store)
    return False


def _is_unmarked_run(store: Store) -> bool:
    """Whether the store is a run that was made before there were markers."""
    stages = [stage for stage in STAGES if any(map(_NAMED.match, store.entries(stage, 5)))]
    return "problems" in stages or (bool(stages) and any(map(store.exists, sorted(VIEWS))))


def _parents(url: str) -> Iterator[str]:
    """The folders that contain `url`, the nearest first."""
    if not url.startswith("s3://"):
        yield from map(str, Path(os.path.normpath(url)).parents)
        return
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    while prefix:
        prefix = prefix.rpartition("/")[0]
        yield f"s3://{bucket}/{prefix}".rstrip("/")


def _children(url: str) -> list[str]:
    """Folders directly in `url`."""
    with suppress(StoreError):
        names = plain_store(url).entries("", 10 * NEIGHBOURS)
        return [f"{url}/{name[:-1]}" for name in names if name.endswith("/")][:NEIGHBOURS]
    return []


def _relation(url: str, runs: list[str]) -> str:
    """How `url` and the runs near it lie to each other."""
    if runs[0] in _parents(url):
        return f"it is a folder of the run {runs[0]}"
    return f"it contains the run{'s' * (len(runs) > 1)} {', '.join(runs)}"


def _refusal(store: Store) -> str:
    """Why the store is no run, and which path to give instead."""
    runs = nearest_runs(store.url)
    if not store.entries("", 1):
        what = f"{store.url} is not a run: there is no such folder, or it is empty"
    else:
        what = f"{store.url} is not a run: it has no {KEY}"
    if runs:
        return f"{what}; {_relation(store.url, runs)}: give that path"
    return f"{what}: give the folder or s3:// address of a run"
