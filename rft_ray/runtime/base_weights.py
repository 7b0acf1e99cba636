"""Base models -> the run's store: a Ray task for each model of the hub, on any node (`run.base_weights: store`)."""

from __future__ import annotations

from collections.abc import Mapping

import ray

from rft_ray.data.base_models import hub_names
from rft_ray.data.base_weights import commit_base
from rft_ray.runtime.actor_pool import StageError, in_one_line
from rft_ray.store import Store
from rft_ray.store.models.committed import committed_model


def commit_bases(store: Store, fingerprints: Mapping[str, str]) -> int:
    """Commit the models of the hub that are not committed. `fingerprints`: source -> fingerprint of every base model.

    Returns how many were committed here. Raises StageError with the cause in one line.
    """
    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(commit_base)
    running = {
        source: task.remote(store, source, fingerprint)
        for source, fingerprint in fingerprints.items()
        if hub_names(source) and committed_model(store, fingerprint) is None
    }
    committed = 0
    for source, answer in running.items():
        try:
            committed += bool(ray.get(answer))
        except ray.exceptions.RayError as error:
            raise StageError(f"base model {source}: {in_one_line(getattr(error, 'cause', None) or error)}") from None
    return committed
