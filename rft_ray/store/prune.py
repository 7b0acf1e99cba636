"""Files that a run's store no longer needs: checkpoints of committed models, void files, temporary files of killed
writers, and files of superseded recipes.

In: a run's store, and plans to forget. Out: keys with sizes and the reason, and their deletion, under the run's lock:
no job reads or commits meanwhile (`run_lock.py`, which holds on S3 as on local disk). A key is kept unless it is known
to be unneeded; tombstones, tables of problems and views are always kept.

A recipe is superseded if only forgotten plans name it (`plans.py`). A recipe that no saved plan names is not known: an
earlier version made its files, or a job whose plan was forgotten before.

A prune that is interrupted leaves nothing that a job could take for something else: what is made from samples is
deleted before them, the records that void files after these, and plans last.

Limits: on S3 it needs a key that may delete; a lifecycle rule for `work/` needs none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from rft_ray.store.base import VIEWS, Store, StoreError
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError
from rft_ray.store.names import record_kind, split, void_generations
from rft_ray.store.plans import FOLDER, SavedPlan, recipe_of

RECIPES = ("evaluation/", "models/", "work/", "corpus/", "paths/", "judgements/", "verdicts/", "completions/")
"""Folders whose files carry the name of a recipe, what is made from samples before them."""
LEFTOVER = "left by a killed writer"
LEFT_AFTER_S = 24 * 3600
"""No writer takes so long over one file."""


@dataclass(frozen=True, slots=True)
class Unneeded:
    """A key that can be deleted. Example: Unneeded("work/5f0c…/a1/checkpoint-40/state.bin", 3100, "checkpoint")"""

    key: str
    bytes: int
    reason: str


def unneeded(store: Store, needed: Collection[str] | None = None) -> list[Unneeded]:
    """The files that can be deleted. `needed`: the recipes to keep; None: all.

    A committed model that is kept keeps the corpus that it was trained from, under the name that it had then.
    """
    sizes = dict(store.sizes())
    if needed is not None:
        needed = {*needed, *_corpora_of_models(store, sizes, needed)}
    void = void_generations(sizes)
    committed = {key.split("/")[1] for key in sizes if key.startswith("work/")}
    committed = {fingerprint for fingerprint in committed if committed_model(store, fingerprint)}
    keys = []
    for key, size in sizes.items():
        if key in VIEWS:
            continue
        if key.startswith("work/") and recipe_of(key) in committed:
            keys.append(Unneeded(key, size, "checkpoint of a committed model"))
        elif split(key)[:2] in void and not record_kind(key):
            keys.append(Unneeded(key, size, "void"))
        elif needed is not None and _has_recipe(key) and recipe_of(key) not in needed:
            keys.append(Unneeded(key, size, "superseded recipe"))
    return [*keys, *(Unneeded(name, size, LEFTOVER) for name, size in store.leftovers(LEFT_AFTER_S))]


def _corpora_of_models(store: Store, keys: Iterable[str], needed: Collection[str]) -> Iterator[str]:
    """The recipes of the corpora that the committed models among `needed` name; a damaged manifest names none."""
    for fingerprint in {recipe_of(key) for key in keys if key.startswith("models/")}.intersection(needed):
        with suppress(ModelError):
            if manifest := committed_model(store, fingerprint):
                yield recipe_of(str(manifest.metadata.get("data", "")))


def recipes_to_keep(plans: Iterable[SavedPlan], forgotten: Collection[str]) -> set[str]:
    """The recipes of the saved plans that are not forgotten, and their base models."""
    kept = [plan for plan in plans if plan.name not in forgotten]
    bases = {value for plan in kept for name, value in plan.data.items() if name.startswith("model ")}
    return bases.union(*(plan.recipes for plan in kept))


def unplanned(store: Store, plans: Iterable[SavedPlan]) -> list[str]:
    """Keys of the files whose recipe no saved plan names."""
    known = recipes_to_keep(plans, ())
    return [key for key in store.list() if _has_recipe(key) and recipe_of(key) not in known]


def _has_recipe(key: str) -> bool:
    return key.startswith(RECIPES) and bool(recipe_of(key))


def delete(store: Store, files: Iterable[Unneeded]) -> int:
    """Delete files and return how many. Raises StoreError where the storage does not let this key delete."""
    files = list(files)
    in_turn = sorted((file.key for file in files if file.reason != LEFTOVER), key=_turn)
    try:
        for _, keys in groupby(in_turn, _turn):  # a storage deletes the files of one call in any order
            store.remove(keys)
        if any(file.reason == LEFTOVER for file in files):
            store.clear(LEFT_AFTER_S)
    except StoreError as error:
        raise StoreError(f"{error}; a lifecycle rule can delete work/ instead: docs/reliability.md") from error
    return len(files)


def _turn(key: str) -> tuple[bool, bool, int, bool]:
    """Files of a smaller turn are deleted before those of a larger one; a manifest before the files that it lists."""
    folder = f"{key.partition('/')[0]}/"
    place = RECIPES.index(folder) if folder in RECIPES else len(RECIPES)
    return folder == FOLDER, bool(record_kind(key)), place, "/manifest." not in key
