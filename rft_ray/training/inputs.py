"""What a worker reads from the run's store before a job's training: the rows, and the weights that it starts from.

In: the worker group and a job. Out: rows, a local folder, and what identifies both. Every rank reads for itself. While
the store is out of reach it waits (`outages.py`): a failure would use up an attempt, and the trainings next to this one
wait too. Nothing here is a collective; the others meet a rank that has waited at the next agreement (`agreement.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from rft_ray.data.base_models import resolve
from rft_ray.data.base_weights import fetch_base
from rft_ray.plan.jobs import TrainingJob
from rft_ray.store import names, read_table
from rft_ray.store.models.committed import committed_through_outages, fetch_model
from rft_ray.store.outages import through_outages
from rft_ray.store.tables import identity
from rft_ray.training.trainer import Group


def start_folder(group: Group, job: TrainingJob) -> Path:
    """The folder of the weights that the training starts from: a committed model of the run, or the base.

    Raises ModelError, StoreError.
    """

    def fetched() -> Path:
        if job.start:
            return fetch_model(group.store, job.start)
        return fetch_base(group.store, job.base, job.base_fingerprint) if job.base_fingerprint else resolve(job.base)

    return through_outages(fetched, f"the start of {job.stage} of {job.model}")


def rows(group: Group, key: str) -> Iterator[tuple[str, str]]:
    """(question, response) of every row of a training table. Raises StoreError."""
    table = _table(group, key)
    return zip(table.column("question").to_pylist(), table.column("text").to_pylist(), strict=True)


def made_from(group: Group, job: TrainingJob) -> dict[str, str]:
    """Stem -> identity of each file that decides the job's examples, its number of steps, or its first weights.

    Raises ModelError, StoreError.
    """
    keys = filter(None, (job.data_key, job.same_steps_as))
    tables = {names.split(key)[0]: identity(_table(group, key)) for key in keys}
    start = committed_through_outages(group.store, job.start) if job.start else None
    return tables | ({f"models/{job.start}/manifest": start.attempt} if start else {})


def _table(group: Group, key: str) -> pa.Table:
    return through_outages(lambda: read_table(group.store, key)[0], key)
