"""Files that a run's store no longer needs: checkpoints of committed models, void files, temporary files of killed
writers, and files of superseded recipes.

In: a store, and a plan to find superseded recipes. Out: keys with sizes and the reason, and their deletion from local
disk. A key is kept unless it is known to be unneeded; tombstones, tables of problems and views are always kept.

Limits: the store has no delete, so nothing is deleted from S3: let `work/` expire there by a lifecycle rule. A recipe
is superseded if the plan of the saved config does not name it; where several configs share a store, the last one is
saved.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from rft_ray.store.base import Store, StoreError
from rft_ray.store.models.committed import committed_model
from rft_ray.store.names import record_kind, split, void_generations

RECIPES = ("completions/", "verdicts/", "paths/", "corpus/", "evaluation/", "models/", "work/")
"""Folders whose files carry the name of a recipe."""
LEFT_AFTER_S = 24 * 3600
"""No writer takes so long over one file."""


@dataclass(frozen=True, slots=True)
class Unneeded:
    """A key that can be deleted. Example: Unneeded("work/5f0c…/a1/checkpoint-40/state.bin", 3100, "checkpoint")"""

    key: str
    bytes: int
    reason: str


def unneeded(store: Store, plan: Any = None) -> list[Unneeded]:
    """The files that can be deleted; with the run's plan, those of recipes that it does not name too."""
    sizes = dict(store.sizes())
    void = void_generations(sizes)
    names = None if plan is None else set(recipes(plan))
    committed = {key.split("/")[1] for key in sizes if key.startswith("work/")}
    committed = {fingerprint for fingerprint in committed if committed_model(store, fingerprint)}
    keys = []
    for key, size in sizes.items():
        if key.startswith("work/") and recipe_of(key) in committed:
            keys.append(Unneeded(key, size, "checkpoint of a committed model"))
        elif split(key)[:2] in void and not record_kind(key):
            keys.append(Unneeded(key, size, "void"))
        elif names is not None and key.startswith(RECIPES) and recipe_of(key) not in names:
            keys.append(Unneeded(key, size, "superseded recipe"))
    return [*keys, *_leftovers(store)]


def _leftovers(store: Store) -> Iterator[Unneeded]:
    """Temporary files that killed writers have left in a local store: those older than LEFT_AFTER_S."""
    if store.local_path("summary.json") is not None:
        for path in Path(store.url).glob(".tmp/*"):
            status = path.stat()
            if time.time() - status.st_mtime > LEFT_AFTER_S:
                yield Unneeded(f".tmp/{path.name}", status.st_size, "left by a killed writer")


def recipe_of(key: str) -> str:
    """The fingerprint that names a file's recipe: that of the shard, corpus, evaluation or model that it belongs to."""
    parts = key.split("/")
    return (
        parts[1].partition(".")[0] if len(parts) == 2 or parts[0] in ("models", "work") else parts[3].partition(".")[0]
    )


def recipes(part: Any) -> Iterator[str]:
    """Every recipe that a plan, or a part of one, names."""
    for name in ("fingerprint", "key"):
        value = getattr(part, name, None)
        if isinstance(value, str):
            yield recipe_of(value) if "/" in value else value
    if is_dataclass(part):
        for field in fields(part):
            yield from recipes(getattr(part, field.name))
    elif isinstance(part, tuple | list):
        for item in part:
            yield from recipes(item)


def delete(store: Store, keys: Iterable[str]) -> int:
    """Delete files and return how many. Raises StoreError where the store is not on local disk."""
    if store.local_path("summary.json") is None:
        raise StoreError(f"{store.url} is not on local disk and has no delete: let work/ expire by a lifecycle rule")
    paths = [Path(store.url) / key for key in keys]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)
