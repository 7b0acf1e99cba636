"""The plans of a run: each plan that a job worked on, committed before the first file that it needs.

In: a plan of any job. Out: create-only files `plans/<name>.json` with the recipes that the plan names, and for readers
the config, the fingerprints of the data and models, and the time. A plan depends on data and models outside the run,
which can change; so what a run needs is read from its saved plans and not planned again. `config.yaml` is a view:
the config that `summary.json` is of.

The name of a plan is a hash of its recipes: plans that need the same files are one plan, and a damaged file does not
match its name. Where such a plan pins further sources of the hub to commits (`hub:a/b` after `hub:a/b@main`), it is
saved once more, under a hash of recipes and pins. Limits: a recipe stands for all of its shards, so a plan of fewer
samples or problems needs those of a larger plan with the same recipes too.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import chain
from typing import Any, Literal

from rft_ray.config import yaml_reader
from rft_ray.store.base import Store, StoreError
from rft_ray.store.run_lock import run_lock
from rft_ray.store.shards import read_ahead

FOLDER = "plans/"
SOURCE = "source "
"""Prefix of the names in `data` that record where a base model was taken from."""
COMMIT = "commit of "
"""Prefix of the names in `data` that record commits of data sets of the hub: of `train`, `test`, and `gold`."""
Job = Literal["run", "study", "verify", "sample"]
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_NAMES = ("fingerprint", "key", "data_key", "same_steps_as", "start")
"""Fields that hold a recipe or a key: those of jobs, problem sets and trainings."""


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """One file of `plans/`. Example: SavedPlan("5f0c…", "run", 1767225600.0, frozenset({"41…", "9c…"}))"""

    name: str
    job: str
    saved_unix: float
    recipes: frozenset[str]
    data: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What the plan was made from, as given to `save_plan`."""
    config: str = field(default="", compare=False, repr=False)
    """The settings as text, as given to `save_plan`."""

    @property
    def key(self) -> str:
        return f"{FOLDER}{self.name}.json"

    @property
    def pins(self) -> dict[str, str]:
        """What is pinned: source of a base model -> pinned source, and source of problems -> commit, with prefixes."""
        return _pins(self.data, self.config)


def recipe_of(key: str) -> str:
    """The fingerprint that names a file's recipe: that of the shard, corpus, evaluation or model that it belongs to.

    Empty for a key that names none, as that of a stray file.
    """
    parts = key.split("/")
    at = 1 if len(parts) == 2 or parts[0] in ("models", "work") else 3
    name = parts[at].partition(".")[0] if at < len(parts) else ""
    return name if _FINGERPRINT.fullmatch(name) else ""


def recipes(part: Any) -> Iterator[str]:
    """Every recipe that a plan, or a part of one, names."""
    for name in _NAMES:
        value = getattr(part, name, None)
        if isinstance(value, str) and value:
            yield recipe_of(value) if "/" in value else value
    if is_dataclass(part):
        for field in fields(part):
            yield from recipes(getattr(part, field.name))
    elif isinstance(part, tuple | list):
        for item in part:
            yield from recipes(item)


def save_plan(store: Store, plan: Any, *, job: Job, config: str, data: Mapping[str, str]) -> None:
    """Commit a plan, unless it is saved with its pins. Raises RunLocked while a repair or a prune runs.

    `config`: the settings as text. `data`: name -> fingerprint of the data and base models that the plan was made from,
    and the commits of data sets of the hub.
    """
    named = sorted(set(recipes(plan)))
    key = f"{FOLDER}{_name_of(named)}.json"
    pins = _pins(data, config)
    if pins and store.exists(key) and not pins.items() <= _read(store, key).pins.items():
        key = f"{FOLDER}{_name_of(named, pins)}.json"
    if not store.exists(key):
        body = {"job": job, "saved_unix": round(time.time(), 3), "data": dict(data), "recipes": named, "config": config}
        with run_lock(store, "job"):  # no prune meanwhile
            store.create(key, json.dumps(body, indent=1).encode())


def saved_plans(store: Store) -> list[SavedPlan]:
    """Every plan of the run, the oldest first. Raises StoreError where one is damaged."""
    keys = [key for key in store.list(FOLDER) if key.endswith(".json")]
    plans = read_ahead(lambda key: _read(store, key), keys)
    return sorted(plans, key=lambda plan: plan.saved_unix)


def recorded_sources(store: Store) -> dict[str, str]:
    """Source of a base model -> the source pinned to a commit, as the run's plans record it; the latest counts."""
    return _recorded(store, SOURCE)


def recorded_commits(store: Store) -> dict[str, str]:
    """Source of problems -> the commit of the hub's data set that the run's plans were made from; the latest counts."""
    return _recorded(store, COMMIT)


def _recorded(store: Store, prefix: str) -> dict[str, str]:
    pins = chain.from_iterable(plan.pins.items() for plan in saved_plans(store))
    return {name.removeprefix(prefix): pinned for name, pinned in pins if name.startswith(prefix)}


def _pins(data: Mapping[str, str], config: str) -> dict[str, str]:
    pins = {name: pinned for name, pinned in data.items() if name.startswith(SOURCE)}
    for name, commit in data.items():
        if name.startswith(COMMIT) and (source := _problems_in(config, name.removeprefix(COMMIT))):
            pins[f"{COMMIT}{source}"] = commit
    return pins


def _problems_in(settings: str, name: str) -> str:
    """The source of the problems `train`, `test` or `gold` in a saved config; empty where it has none."""
    try:
        tree = yaml_reader.read(settings)
        return str(tree["gold"] if name == "gold" else tree["problems"][name]["source"])
    except (yaml_reader.YamlError, KeyError, TypeError):
        return ""


def _read(store: Store, key: str) -> SavedPlan:
    name = key.removeprefix(FOLDER).removesuffix(".json")
    try:
        body = json.loads(store.read(key))
        named = frozenset(map(str, body["recipes"]))
        data, config = dict(body.get("data", {})), str(body.get("config", ""))
        plan = SavedPlan(name, str(body["job"]), float(body["saved_unix"]), named, data, config)
        if name not in (_name_of(plan.recipes), _name_of(plan.recipes, plan.pins)):
            raise ValueError("its recipes and pins do not have the hash that is its name")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"damaged plan {key} in {store.url} ({error}): put an intact copy in its place, or move it out of the run "
            "and run the job that it belongs to again, which saves it"
        ) from error
    return plan


def _name_of(named: Iterable[str], pins: Mapping[str, str] | None = None) -> str:
    body = sorted(set(named)) if pins is None else [sorted(set(named)), sorted(pins.items())]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]
