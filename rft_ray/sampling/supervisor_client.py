"""The supervisor of a sampling stage (`supervisor.py`) as an actor, and its calls from samplers and the driver."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from rft_ray.runtime.actor_pool import in_one_line
from rft_ray.sampling import quarantine
from rft_ray.sampling.places import Place, Verdict
from rft_ray.sampling.supervisor import Decision, Supervisor, Turn
from rft_ray.store import Store

ANSWER_S = 120.0
"""How long the supervisor may take to answer."""


class SupervisorClient:
    """The supervisor as one process of one sampler calls it: a Ray actor, or outside Ray an object of this process.

    A call that the actor does not answer within `timeout_s` raises Ray's GetTimeoutError, which ends the stage.
    """

    def __init__(
        self, supervisor: Any, sampler: str, process: str, place: Place, number: int = 1, timeout_s: float = ANSWER_S
    ) -> None:
        """`number`: of the round that the sampler belongs to."""
        self._supervisor, self._timeout_s = supervisor, timeout_s
        self._caller, self._place, self._round = (sampler, process), place, number
        self._finished: deque[str] = deque()
        """The shards that were returned since the last call of `take`."""

    @property
    def is_remote(self) -> bool:
        """Whether the supervisor is an actor; then this process is a worker of Ray's, which may be ended."""
        return not isinstance(self._supervisor, Supervisor)

    def take(self, stem: str) -> Turn:
        finished: list[str] = []
        with suppress(IndexError):  # several threads call this at once
            while True:
                finished.append(self._finished.popleft())
        return cast("Turn", self._call("take", stem, *self._caller, self._place, self._round, finished))

    def finished(self, stem: str) -> None:
        """Note that the shard is returned; the supervisor is told in the next call of `take`."""
        self._finished.append(stem)

    def give_back(self, stem: str) -> None:
        self._call("give_back", stem, self._caller[0], self._round)

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

    def _call(self, method: str, *arguments: Any) -> Any:
        call = getattr(self._supervisor, method)
        if not self.is_remote:
            return call(*arguments)
        import ray

        return ray.get(call.remote(*arguments), timeout=self._timeout_s)


def start_supervisor(store: Store, max_failures: int, max_quarantined: int, journal: Path | None) -> Any:
    """Start a Supervisor as an actor on this node. It ends when the last handle to it is deleted."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # hard: a raylet that has just started does not know this node yet, and would keep the actor with a soft affinity
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Supervisor).options(num_cpus=0, scheduling_strategy=here)
    failures = quarantine.failures(store)
    return actor.remote(store, max_failures, max_quarantined, failures, _is_lost_node, background=True, journal=journal)


def flush_records(supervisor: Any, timeout_s: float) -> str:
    """Wait until the actor has recorded the failures. Returns one line: what of them is not recorded; empty: nothing.

    `timeout_s`: how long at most; an actor that does not answer is waited for up to twice as long.
    """
    import ray

    try:
        missing: dict[str, str] = ray.get(supervisor.flush.remote(timeout_s), timeout=2 * timeout_s)
    except ray.exceptions.RayError as error:
        return f"it is not known whether all failures of shards are recorded: {in_one_line(error)}"
    if not missing:
        return ""
    what, why = next(iter(missing.items()))
    return f"{len(missing)} failures of shards are not recorded, first {what}: {why}"


def _is_lost_node(host: str) -> bool:
    """Whether a node that was part of this cluster is gone. `host`: its id; empty where it is not known."""
    import ray

    return any(node["NodeID"] == host and not node["Alive"] for node in ray.nodes())
