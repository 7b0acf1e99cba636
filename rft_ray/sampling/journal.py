"""Failures of shards that are not recorded in the store yet, as files of this machine: they outlive a killed driver.

In: records of failures, while the store may be out of reach. Out: a file for each in the cache (`RFT_CACHE`), which is
deleted once the store has the record. The next command on the run records what it finds here, each once, also where
the store had it already or another driver is still writing it.

Limits: a driver that starts on another machine, or in a container without this cache, does not see them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rft_ray.sampling.quarantine import Record
from rft_ray.sampling.record_writer import RecordWriter
from rft_ray.store import Store
from rft_ray.store.base import partial_file
from rft_ray.store.models.node import cache_root
from rft_ray.store.outages import through_outages


class Journal:
    """Keeps failures in files. Whoever adds one does not wait for the disk."""

    def __init__(self, folder: Path | None, *, background: bool) -> None:
        """`folder`: of the run's journal; None: nothing is kept. `background`: as in RecordWriter."""
        self._folder, self._writer = folder, RecordWriter(background=background)

    def kept(self, record: Record, store: Store) -> Callable[[], None]:
        """Keep the record, and return the function that writes it to the store and keeps it no longer."""
        path = self._folder / f"{record.id}.json" if self._folder else None
        if path:
            self._writer.add(str(path), partial(_keep, path, record), needed=False)

        def write() -> None:
            record.write(store)
            if path:  # after it is there: one thread does both
                self._writer.add(str(path), partial(path.unlink, missing_ok=True), needed=False)

        return write


def journal_folder(run_id: str) -> Path | None:
    """The folder of a run's journal on this machine; None where there is no cache, or the id could lead elsewhere."""
    try:
        return cache_root() / "failures" / run_id if run_id.isalnum() else None
    except OSError:
        return None


def replay(folder: Path | None, store: Store) -> None:
    """Record the failures that are kept in the folder. Waits for a store out of reach; raises StoreError."""
    for path in sorted(folder.glob("*.json")) if folder else ():
        with suppress(OSError, ValueError, TypeError):  # another driver has just recorded it; or it is not whole
            record = Record(**json.loads(path.read_text()))
            through_outages(partial(record.write, store), f"a failure of {record.stem}")
            path.unlink(missing_ok=True)


def _keep(path: Path, record: Record) -> None:
    with partial_file(path) as partial_path:
        partial_path.write_text(json.dumps(asdict(record)))
