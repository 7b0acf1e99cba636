"""Who samples what, and whose fault it is when an engine dies: one small actor beside the driver.

In: what samplers say before, while and after they work on a shard. Out: what each is to do with the next one, and the
failures that count (`quarantine.py`). A process that dies takes several shards along, and is often killed from
outside, so that

* of shards that were in a dead engine together, none is blamed: each is suspect, and tried again alone;
* one that was alone in it is blamed, and so is one that the engine itself names;
* a shard that is blamed `max_failures` times is quarantined.

Limits: it sits on the driver's node and lives as long as the execution; only what it puts on record outlives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from rft_ray.sampling import quarantine
from rft_ray.store import open_store

Order = Literal["together", "alone", "quarantined", "drained", "given up"]
SILENT = "its engine's process ended without a word: killed, crashed, or out of memory"


class Foreman:
    """Example: Foreman("runs/demo", max_failures=3, max_quarantined=10, suspects=()).order(stem, actor, process)"""

    def __init__(self, store_url: str, max_failures: int, max_quarantined: int, suspects: Iterable[str] = ()) -> None:
        self._store = open_store(store_url)
        self._max_failures, self._max_quarantined = max_failures, max_quarantined
        self._suspects = set(suspects)
        self._quarantined: dict[str, str] = {}
        self._inside: dict[str, tuple[str, set[str]]] = {}
        """Sampler -> its present process, and the shards in that process's engine."""
        self._ended: set[str] = set()
        """Processes at their end: what another of their threads begins is begun in vain, and not to blame."""
        self._refusals: Counter[str] = Counter()
        self._unloadable: dict[str, str] = {}
        self._draining = False

    def order(self, stem: str, sampler: str, process: str) -> tuple[Order, str]:
        """What a sampler is to do with a shard, and why, where that is nothing."""
        if sampler in self._inside and self._inside[sampler][0] != process:  # Ray has put a new one in its place
            self.died(sampler, self._inside[sampler][0], SILENT)
        if self._draining:
            return "drained", "the run is being stopped"
        if stem in self._quarantined:
            return "quarantined", self._quarantined[stem]
        if len(self._quarantined) > self._max_quarantined:
            return "given up", f"{len(self._quarantined)} shards are quarantined: the engine, not they, seems at fault"
        return ("alone" if stem in self._suspects else "together"), ""

    def begun(self, stem: str, sampler: str, process: str) -> None:
        """The shard is in the process's engine from now on."""
        if process in self._ended:
            return
        self._inside.setdefault(sampler, (process, set()))[1].add(stem)

    def ended(self, stem: str, sampler: str, process: str) -> None:
        """The engine has answered all of it."""
        self._inside.get(sampler, (process, set()))[1].discard(stem)
        self._suspects.discard(stem)

    def died(self, sampler: str, process: str, reason: str, guilty: str = "") -> None:
        """The process is at its end. `guilty`: the shard that the engine misbehaved on, where that is known."""
        self._ended.add(process)
        if self._inside.get(sampler, ("", set()))[0] != process:
            return  # another thread of it has said so
        inside = self._inside.pop(sampler)[1]
        if not guilty and len(inside) == 1:
            [guilty] = inside
        if guilty:
            self._suspects.add(guilty)
            if quarantine.note(self._store, guilty, quarantine.FAILED, reason) >= self._max_failures:
                self._quarantined[guilty] = reason
        else:
            self._suspects |= inside

    def refused(self, model: str, reason: str) -> None:
        """An engine hung or ran out of memory while it loaded a model."""
        self._refusals[model] += 1
        if self._refusals[model] >= self._max_failures:
            self._unloadable[model] = f"{reason} ({self._refusals[model]} times)"

    def unloadable(self, model: str) -> str:
        """Why no engine should try to load a model again; empty where one may."""
        return self._unloadable.get(model, "")

    def drain(self) -> None:
        """Begin nothing any more."""
        self._draining = True


class Line:
    """A sampler's line to the foreman: an object of its own process, or a Ray actor.

    A process that is not told what to do within `timeout_s` ends with an error, which stops the stage.
    """

    def __init__(self, foreman: Any, timeout_s: float = 120.0) -> None:
        self._foreman, self._timeout_s = foreman, timeout_s

    def __call__(self, method: str, *arguments: Any) -> Any:
        call = getattr(self._foreman, method)
        if isinstance(self._foreman, Foreman):
            return call(*arguments)
        import ray

        return ray.get(call.remote(*arguments), timeout=self._timeout_s)

    @property
    def distant(self) -> bool:
        """Whether this process is a worker, which may be ended."""
        return not isinstance(self._foreman, Foreman)


def hire(store_url: str, max_failures: int, max_quarantined: int, suspects: Iterable[str]) -> Any:
    """A foreman as an actor on this node; it ends when the handle goes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Foreman).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(store_url, max_failures, max_quarantined, tuple(suspects))
