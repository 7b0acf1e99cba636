"""Where a node takes a base model from: the run's store, if it is committed there, or else its source.

In: a source and its planned fingerprint. Out: a local folder. A model of the hub is fetched by each node into the hub
client's cache, which several nodes share where HF_HOME is on a shared disk. With `run.base_weights: store` one node
fetches it, converts it where needed, and commits it to the run; the others never ask the hub.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rft_ray.data import base_models, hub_records
from rft_ray.data.base_models import hub_names, resolve_exactly
from rft_ray.store import Store
from rft_ray.store.models.committed import commit_model, committed_model, committed_through_outages, fetch_files
from rft_ray.store.outages import through_outages

BASE = "base"
"""The stage of a base model, in its manifest's metadata."""


def fetch_base(store: Store, source: str, fingerprint: str) -> Path:
    """The local folder of a base model with this fingerprint. Raises ModelError, StoreError."""
    manifest = committed_model(store, fingerprint) if hub_names(source) else None
    return fetch_files(store, manifest) if manifest else resolve_exactly(source, fingerprint)


def fetch_recorded(store: Store, source: str) -> Path:
    """`fetch_base` by what the run has recorded of its hub models, where the fingerprint is not at hand."""
    if not hub_names(source):
        return base_models.resolve(source)
    hub_records.recall(store, data=False)
    return fetch_base(store, source, base_models.fingerprint(source))


def commit_base(store: Store, source: str, fingerprint: str) -> bool:
    """Fetch a base model from its source and commit it to the run. False: it was committed before.

    Waits for a store that is out of reach. Raises ModelError, StoreError.
    """
    if committed_through_outages(store, fingerprint):
        return False
    folder = resolve_exactly(source, fingerprint)
    commit = partial(commit_model, store, fingerprint, folder, {"stage": BASE, "source": source})
    return through_outages(commit, f"models/{fingerprint}")
