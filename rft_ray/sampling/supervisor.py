"""Decides how each shard is sampled, and which shard a dead engine is counted against: one small actor per stage.

In: calls of the samplers before, while and after they work on a shard. Out: a decision for each shard, and the recorded
failures (`quarantine.py`). A process that dies ends several shards at once, and is often killed from outside. So:

* of several shards in one dead engine, none counts as failed: each becomes a suspect and is tried again exclusively;
* a shard that had the engine to itself counts as failed, and so does one that the engine names;
* a shard that has failed `max_failures` times is quarantined.

Limits: it runs on the driver's node and lives as long as the stage; only the recorded failures outlive it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, cast

from rft_ray.sampling import quarantine
from rft_ray.store import Store

Refusal = Literal["quarantined", "draining", "aborted"]
"""Why a shard is not sampled: it failed too often, the run is being stopped, or too many other shards failed."""
Decision = Literal["shared", "exclusive"] | Refusal
"""`shared`: in an engine together with other shards; `exclusive`: alone in one."""
SILENT = "its engine's process ended without an error message: killed, crashed, or out of memory"


class Supervisor:
    """Counts failures by shard and by model.

    Example: Supervisor(store, max_failures=3, max_quarantined=10, suspects=()).decide(stem, sampler, process)

    A sampler is an actor, which Ray restarts under the same name; `process` names one process of it.
    """

    def __init__(self, store: Store, max_failures: int, max_quarantined: int, suspects: Iterable[str] = ()) -> None:
        self._store = store
        self._max_failures, self._max_quarantined = max_failures, max_quarantined
        self._suspects = set(suspects)
        self._quarantined: dict[str, str] = {}
        self._inside: dict[str, tuple[str, set[str]]] = {}
        """Sampler -> its current process, and the shards in that process's engine."""
        self._dead: set[str] = set()
        """Processes that are about to end: a shard that another of their threads starts does not count as failed."""
        self._load_failures: Counter[str] = Counter()
        self._unloadable: dict[str, str] = {}
        self._draining = False

    def decide(self, stem: str, sampler: str, process: str) -> tuple[Decision, str]:
        """How a sampler handles a shard, and the reason where it does not sample it."""
        if sampler in self._inside and self._inside[sampler][0] != process:  # Ray has restarted the sampler
            self.died(sampler, self._inside[sampler][0], SILENT)
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

    def load_failed(self, model: str, reason: str) -> None:
        """Note that an engine hung or ran out of memory while it loaded the model."""
        self._load_failures[model] += 1
        if self._load_failures[model] >= self._max_failures:
            self._unloadable[model] = f"{reason} ({self._load_failures[model]} times)"

    def unloadable(self, model: str) -> str:
        """Why no engine is to load the model again; empty where one may."""
        return self._unloadable.get(model, "")

    def drain(self) -> None:
        """Let no further shard start."""
        self._draining = True


class SupervisorClient:
    """The supervisor as one process of one sampler calls it: a Ray actor, or outside Ray an object of this process.

    A call that the actor does not answer within `timeout_s` raises Ray's GetTimeoutError, which ends the stage.
    """

    def __init__(self, supervisor: Any, sampler: str, process: str, timeout_s: float = 120.0) -> None:
        self._supervisor, self._timeout_s = supervisor, timeout_s
        self._caller = (sampler, process)

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

    def load_failed(self, model: str, reason: str) -> None:
        self._call("load_failed", model, reason)

    def unloadable(self, model: str) -> str:
        return str(self._call("unloadable", model))

    def _call(self, method: str, *arguments: str) -> Any:
        call = getattr(self._supervisor, method)
        if not self.is_remote:
            return call(*arguments)
        import ray

        return ray.get(call.remote(*arguments), timeout=self._timeout_s)


def start_supervisor(store: Store, max_failures: int, max_quarantined: int, suspects: Iterable[str]) -> Any:
    """Start a Supervisor as an actor on this node. It ends when the last handle to it is deleted."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Supervisor).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(store, max_failures, max_quarantined, tuple(suspects))
