"""Whose fault it is that an engine does not start: the model's, or that of the place where it was tried.

In: for each model, the places where a load began, succeeded or failed. Out: whether a place is to try a model, leave it
to other places, or report that no place can load it. With its engine in a process of its own, every failed start of
vLLM reads alike, so the message cannot decide; distinct places can. A model is unloadable when it has failed at two
places on two hosts, or at as many as the cluster has, no other place has loaded it, and none is loading it now.

A place that others stand in for is recorded in the run, for its summary: create-only files `failures/places/…`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rft_ray.store import Store

FOLDER = "failures/places/"
Verdict = Literal["load", "elsewhere", "unloadable"]
"""`load`: the place may try; `elsewhere`: it has failed here and other places may try; `unloadable`: no place can."""
ENOUGH = 2
"""Distinct places, and distinct hosts, whose failures show that the model is the cause."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs: a host and its GPUs. Example: Place("5f0c…", "10.0.0.7", ("3",))"""

    host: str
    """Ray's id of the node; empty outside of Ray."""
    address: str
    gpus: tuple[str, ...] = ()
    """Ray's ids of the GPUs on that host; empty for an engine on CPUs, whose place is the whole host."""

    def __str__(self) -> str:
        node = f" (node {self.host[:8]})" if self.host else ""
        return f"{self.address}{node}" + (f" GPU {'+'.join(self.gpus)}" if self.gpus else "")


@dataclass(frozen=True, slots=True)
class Sites:
    """How many hosts a cluster has on which an engine can run, and how many places they have together."""

    hosts: int = 1
    places: int = 1


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A model that a place cannot load. Example: LoadFailure("5f0c…", Place("", "10.0.0.7"), "no kernel image")"""

    model: str
    """The model's fingerprint."""
    place: Place
    reason: str


def note(store: Store, failure: LoadFailure) -> None:
    """Record a place that cannot load a model, unless it is recorded."""
    name = hashlib.sha256(str(failure.place).encode()).hexdigest()[:16]
    body = json.dumps(asdict(failure), ensure_ascii=False).encode()
    store.create(f"{FOLDER}{failure.model}/{name}.json", body)


def noted(store: Store) -> list[LoadFailure]:
    """The recorded places, by model and in the order of their names; a damaged record is left out."""
    found = []
    for key in store.list(FOLDER):
        try:
            body = json.loads(store.read(key))
            place = Place(**{**body["place"], "gpus": tuple(body["place"]["gpus"])})
            found.append(LoadFailure(str(body["model"]), place, str(body["reason"])))
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda failure: (failure.model, str(failure.place)))


def here() -> Place:
    """The place of this process: of the Ray worker that it is, or of the machine."""
    import ray

    if not ray.is_initialized():
        return Place("", "this machine")
    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU", ())
    return Place(context.get_node_id(), ray.util.get_node_ip_address(), tuple(gpus))


def sites_of(nodes: Iterable[Mapping[str, Any]], gpus: float, accelerator_type: str | None = None) -> Sites:
    """The sites of the living nodes (`ray.nodes()`) for engines with so many GPUs each; 0: engines on CPUs.

    A GPU that several engines share is one place. `accelerator_type`: Ray's name of the only type of GPU that they use.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if accelerator_type:
        alive = [resources for resources in alive if resources.get(f"accelerator_type:{accelerator_type}")]
    if not gpus:
        hosts = sum(resources.get("CPU", 0) > 0 for resources in alive)
        return Sites(max(1, hosts), max(1, hosts))
    engines = [int(resources.get("GPU", 0) // max(1, gpus)) for resources in alive]
    return Sites(max(1, sum(count > 0 for count in engines)), max(1, sum(engines)))


class LoadRecord:
    """What is known of each model at each place. Models are fingerprints, samplers are names of actors."""

    def __init__(self, max_failures: int, sites: Sites) -> None:
        """`max_failures`: how often a place runs out of memory or hangs with a model before it has failed with it."""
        self._max_failures = max_failures
        self.sites = sites
        self.failures: list[LoadFailure] = []
        """Every place that has failed with a model, once, in order."""
        self._loading: dict[str, str] = {}
        """Sampler -> the model that it is loading."""
        self._loaded: set[str] = set()
        self._attempts: Counter[tuple[str, Place]] = Counter()
        self._unloadable: dict[str, str] = {}

    def began(self, model: str, sampler: str) -> None:
        self._loading[sampler] = model

    def loaded(self, model: str, sampler: str) -> None:
        self._loading.pop(sampler, None)
        self._loaded.add(model)

    def failed(self, model: str, sampler: str, place: Place, reason: str, *, again: bool) -> LoadFailure | None:
        """Note a failed load. `again`: another process at the same place may succeed (out of memory, a hang).

        Returns the failure of the place where it has failed with the model now, and had not before.
        """
        self._loading.pop(sampler, None)
        if again:
            self._attempts[model, place] += 1
            if self._attempts[model, place] < self._max_failures:
                return None
            reason = f"{reason} ({self._attempts[model, place]} times)"
        if self._failure_at(model, place):
            return None
        self.failures.append(LoadFailure(model, place, reason))
        return self.failures[-1]

    def ended(self, sampler: str) -> None:
        """Note that the sampler's process has ended: whatever it was loading, it is not any more."""
        self._loading.pop(sampler, None)

    def is_loading(self, sampler: str) -> bool:
        return sampler in self._loading

    def forget_loads(self) -> None:
        """Note that no process is loading anything now."""
        self._loading.clear()

    def verdict(self, model: str, place: Place) -> tuple[Verdict, str]:
        """What the place is to do with the model, and the reason where it is not to load it."""
        if model not in self._unloadable and self._is_unloadable(model):
            self._unloadable[model] = self._reasons(model)
        if model in self._unloadable:
            return "unloadable", self._unloadable[model]
        failure = self._failure_at(model, place)
        return ("elsewhere", failure.reason) if failure else ("load", "")

    def _is_unloadable(self, model: str) -> bool:
        failed = [failure.place for failure in self.failures if failure.model == model]
        if len(failed) >= self.sites.places:
            return True
        if model in self._loaded or model in self._loading.values():
            return False
        hosts = {place.host for place in failed}
        return len(failed) >= ENOUGH and len(hosts) >= min(ENOUGH, self.sites.hosts)

    def _reasons(self, model: str) -> str:
        """The reason at the first place, and the names of the places where there are several in the cluster."""
        failed = [failure for failure in self.failures if failure.model == model]
        if self.sites.places == 1:
            return failed[0].reason
        places = [str(failure.place) for failure in failed]
        more = f" and {len(places) - 3} more places" if len(places) > 3 else ""
        return f"{failed[0].reason} (at {', '.join(places[:3])}{more})"

    def _failure_at(self, model: str, place: Place) -> LoadFailure | None:
        return next((known for known in self.failures if (known.model, known.place) == (model, place)), None)
