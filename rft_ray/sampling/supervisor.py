"""Decides how each shard is sampled, and which shard a dead engine is counted against: one small actor per stage.

In: calls of the samplers before, while and after they work on a shard. Out: a decision for each shard, and the recorded
failures (`quarantine.py`). A process that dies ends several shards at once, and is often killed from outside. So:

* of several shards in one dead engine, none counts as failed: each becomes a suspect and is tried again exclusively;
* a shard that had the engine to itself counts as failed, and so does one that the engine names;
* a shard that has failed `max_failures` times is quarantined;
* of the shards on a lost node none is a suspect, except one that has lost `max_failures` nodes already.

A model that cannot be loaded at one place is left to others (`places.py`). The sampler there keeps its shards of that
model, and waits with them: it would otherwise get every shard that is left, because it fails faster than the others
sample. When nobody else works any more, the stage runs once more over these shards (`standstill.py`).

Limits: it runs on the driver's node and lives as long as the stage; only the recorded failures outlive it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

from rft_ray.sampling import quarantine
from rft_ray.sampling.places import LoadFailure, LoadRecord, Place, Sites, Verdict
from rft_ray.store import Store

Refusal = Literal["quarantined", "draining", "aborted", "given_up"]
"""Why a shard is not sampled: it failed too often, the run is being stopped, too many other shards failed, or its model
cannot be loaded at this place and is to be sampled at another one."""
Decision = Literal["shared", "exclusive"] | Refusal
"""`shared`: in an engine together with other shards; `exclusive`: alone in one."""
Wait = Literal["wait", "unloadable"] | Refusal
"""What a sampler does with a shard whose model it cannot load: wait and ask again, or return it."""
FORGOTTEN_S = 30.0
"""A sampler that waits asks more often than this; otherwise its process is gone."""
SILENT = "its engine's process ended without an error message: killed, crashed, or out of memory"


@dataclass(frozen=True, slots=True)
class Status:
    """Who waits in a stage. Example: Status(waiting=1, waiting_at_start=0, failures=(LoadFailure(…),))"""

    waiting: int
    """Samplers that have shards and do nothing but wait."""
    waiting_at_start: int
    """Samplers at places that can load none of the models; Ray Data gives them no shard."""
    failures: tuple[LoadFailure, ...] = ()
    """All places that have failed with a model so far."""


class Supervisor:
    """Counts failures by shard, and by model and place.

    Example: Supervisor(store, max_failures=3, max_quarantined=10, suspects=()).decide(stem, sampler, process)

    A sampler is an actor, which Ray restarts under the same name; `process` names one process of it.
    """

    def __init__(
        self,
        store: Store,
        max_failures: int,
        max_quarantined: int,
        suspects: Iterable[str] = (),
        is_lost: Callable[[str], bool] = lambda host: False,
    ) -> None:
        """`is_lost`: whether a host, as Place names it, is no longer part of the cluster."""
        self._store, self._is_lost = store, is_lost
        self._max_failures, self._max_quarantined = max_failures, max_quarantined
        self._suspects = set(suspects)
        self._quarantined: dict[str, str] = {}
        self._inside: dict[str, tuple[str, set[str]]] = {}
        """Sampler -> its current process, and the shards in that process's engine."""
        self._hosts: dict[str, str] = {}
        """Process -> its host."""
        self._losses: Counter[str] = Counter()
        """Shard -> nodes that were lost while it was in an engine there."""
        self._dead: set[str] = set()
        """Processes that are about to end: a shard that another of their threads starts does not count as failed."""
        self._loads = LoadRecord(max_failures, Sites())
        self._round = 1
        self._models: Collection[str] = ()
        """The models of this round's shards."""
        self._waiting: dict[str, dict[str, float]] = {}
        """Sampler -> the shards with which it waits, and when it has asked last."""
        self._waiting_at_start: dict[str, float] = {}
        self._draining = False

    def begin_round(self, number: int, models: Collection[str], sites: Sites) -> None:
        """Note that a new execution begins, over shards of these models; samplers of the last one stop to wait."""
        self._round, self._models, self._loads.sites = number, models, sites
        self._inside.clear()
        self._waiting.clear()
        self._waiting_at_start.clear()
        self._loads.forget_loads()

    def status(self) -> Status:
        lately = time.monotonic() - FORGOTTEN_S
        idle = [
            sampler
            for sampler, asked in self._waiting.items()
            if max(asked.values(), default=0) > lately
            and not self._inside.get(sampler, ("", set()))[1]
            and not self._loads.is_loading(sampler)
        ]
        starting = sum(asked > lately for asked in self._waiting_at_start.values())
        return Status(len(idle), starting, tuple(self._loads.failures))

    def may_start(self, sampler: str, process: str, place: Place, number: int) -> bool:
        """Whether a new process of a sampler is to take shards: not where its place can load none of the models.

        It asks again until it may. Meanwhile it keeps the place's resources, so that no other sampler gets them.
        """
        self._notice(sampler, process)
        self._hosts[process] = place.host
        self._loads.ended(sampler)  # whatever the process before it was loading
        verdicts = {self._loads.verdict(model, place)[0] for model in self._models}
        may = self._draining or number != self._round or "elsewhere" not in verdicts or "load" in verdicts
        self._waiting_at_start.pop(sampler, None)
        if not may:
            self._waiting_at_start[sampler] = time.monotonic()
        return may

    def _notice(self, sampler: str, process: str) -> None:
        """Note which process of the sampler calls: after a restart by Ray, another one than before."""
        if sampler not in self._inside or self._inside[sampler][0] == process:
            return
        before, inside = self._inside[sampler]
        if self._is_lost(self._hosts.get(before, "")):
            self._losses.update(inside)
            if all(self._losses[stem] <= self._max_failures for stem in inside):
                self._dead.add(before)
                self._loads.ended(sampler)
                del self._inside[sampler]
                return
        self.died(sampler, before, SILENT)

    def decide(self, stem: str, sampler: str, process: str) -> tuple[Decision, str]:
        """How a sampler handles a shard, and the reason where it does not sample it."""
        self._notice(sampler, process)
        if self._draining:
            return "draining", "the run is being stopped"
        if stem in self._quarantined:
            return "quarantined", self._quarantined[stem]
        if len(self._quarantined) > self._max_quarantined:
            return "aborted", f"{len(self._quarantined)} shards are quarantined: the engine seems to be the cause"
        return ("exclusive" if stem in self._suspects else "shared"), ""

    def started(self, stem: str, sampler: str, process: str) -> None:
        """Note that the shard's requests are about to enter the process's engine."""
        if process in self._dead:
            return
        self._inside.setdefault(sampler, (process, set()))[1].add(stem)

    def answered(self, stem: str, sampler: str, process: str) -> None:
        """Note that the engine has answered all requests of the shard."""
        self._inside.get(sampler, (process, set()))[1].discard(stem)
        self._suspects.discard(stem)

    def died(self, sampler: str, process: str, reason: str, cause: str = "") -> None:
        """Note that the process is about to end. `cause`: the shard that the engine misbehaved on, where known."""
        self._dead.add(process)
        self._loads.ended(sampler)
        if self._inside.get(sampler, ("", set()))[0] != process:
            return  # another thread of it has reported this death
        inside = self._inside.pop(sampler)[1]
        if not cause and len(inside) == 1:
            [cause] = inside
        if cause:
            self._count_failure(cause, reason)
        else:
            self._suspects |= inside

    def failed(self, stem: str, sampler: str, process: str, reason: str) -> None:
        """Note that the engine failed on the shard and goes on: an endpoint's, which holds no state to be broken."""
        self._inside.get(sampler, (process, set()))[1].discard(stem)
        self._count_failure(stem, reason)

    def _count_failure(self, stem: str, reason: str) -> None:
        self._suspects.add(stem)
        if quarantine.note(self._store, stem, quarantine.FAILED, reason) >= self._max_failures:
            self._quarantined[stem] = reason

    def load_verdict(self, model: str, place: Place) -> tuple[Verdict, str]:
        """Whether an engine at the place is to load the model, and the reason where it is not."""
        return self._loads.verdict(model, place)

    def load_began(self, model: str, sampler: str) -> None:
        self._loads.began(model, sampler)

    def loaded(self, model: str, sampler: str) -> None:
        self._loads.loaded(model, sampler)

    def load_failed(self, model: str, sampler: str, place: Place, reason: str, again: bool) -> None:
        """Note that an engine at the place did not load the model. `again`: another process there may."""
        self._loads.failed(model, sampler, place, reason, again=again)

    def wait(self, stem: str, model: str, sampler: str, place: Place, number: int) -> tuple[Wait, str]:
        """What a sampler does with a shard whose model its place cannot load, and the reason where it returns it.

        `number`: the sampler's round.
        """
        verdict, reason = self._loads.verdict(model, place)
        outcome: Wait = "wait"
        if self._draining:
            outcome, reason = "draining", "the run is being stopped"
        elif number != self._round:
            outcome = "given_up"
        elif verdict == "unloadable":
            outcome = "unloadable"
        if outcome == "wait":
            self._waiting.setdefault(sampler, {})[stem] = time.monotonic()
        else:
            self._waiting.get(sampler, {}).pop(stem, None)
        return outcome, reason

    def drain(self) -> None:
        """Let no further shard start."""
        self._draining = True


class SupervisorClient:
    """The supervisor as one process of one sampler calls it: a Ray actor, or outside Ray an object of this process.

    A call that the actor does not answer within `timeout_s` raises Ray's GetTimeoutError, which ends the stage.
    """

    def __init__(
        self, supervisor: Any, sampler: str, process: str, place: Place, number: int = 1, timeout_s: float = 120.0
    ) -> None:
        """`number`: of the round that the sampler belongs to."""
        self._supervisor, self._timeout_s = supervisor, timeout_s
        self._caller, self._place, self._round = (sampler, process), place, number

    @property
    def is_remote(self) -> bool:
        """Whether the supervisor is an actor; then this process is a worker of Ray's, which may be ended."""
        return not isinstance(self._supervisor, Supervisor)

    def decide(self, stem: str) -> tuple[Decision, str]:
        return cast("tuple[Decision, str]", self._call("decide", stem, *self._caller))

    def started(self, stem: str) -> None:
        self._call("started", stem, *self._caller)

    def answered(self, stem: str) -> None:
        self._call("answered", stem, *self._caller)

    def died(self, reason: str, cause: str = "") -> None:
        self._call("died", *self._caller, reason, cause)

    def failed(self, stem: str, reason: str) -> None:
        self._call("failed", stem, *self._caller, reason)

    def may_start(self) -> bool:
        return bool(self._call("may_start", *self._caller, self._place, self._round))

    def load_verdict(self, model: str) -> tuple[Verdict, str]:
        return cast("tuple[Verdict, str]", self._call("load_verdict", model, self._place))

    def load_began(self, model: str) -> None:
        self._call("load_began", model, self._caller[0])

    def loaded(self, model: str) -> None:
        self._call("loaded", model, self._caller[0])

    def load_failed(self, model: str, reason: str, *, again: bool) -> None:
        self._call("load_failed", model, self._caller[0], self._place, reason, again)

    def wait(self, stem: str, model: str) -> tuple[Wait, str]:
        return cast("tuple[Wait, str]", self._call("wait", stem, model, self._caller[0], self._place, self._round))

    def _call(self, method: str, *arguments: Any) -> Any:
        call = getattr(self._supervisor, method)
        if not self.is_remote:
            return call(*arguments)
        import ray

        return ray.get(call.remote(*arguments), timeout=self._timeout_s)


def start_supervisor(store: Store, max_failures: int, max_quarantined: int, suspects: Iterable[str]) -> Any:
    """Start a Supervisor as an actor on this node. It ends when the last handle to it is deleted."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # hard: a raylet that has just started does not know this node yet, and would keep the actor with a soft affinity
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Supervisor).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(store, max_failures, max_quarantined, tuple(suspects), _is_lost_node)


def _is_lost_node(host: str) -> bool:
    """Whether a node that was part of this cluster is gone. `host`: its id; empty where it is not known."""
    import ray

    return any(node["NodeID"] == host and not node["Alive"] for node in ray.nodes())
