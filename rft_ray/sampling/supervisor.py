"""Decides who samples each shard and how, and which shard a dead engine is counted against: one small actor per stage.

In: calls of the samplers before, while and after they work on a shard. Out: the next shard of a sampler, such that
engines load few models (`assignment.py`), and the recorded failures (`quarantine.py`). A process that dies ends several
shards at once, and is often killed from outside. So:

* of several shards in one dead engine, none counts as failed: each becomes a suspect and is tried again exclusively;
* a shard that had the engine to itself counts as failed, and so does one that the engine names;
* a shard that has failed `max_failures` times is quarantined;
* of the shards on a lost node none is a suspect, except one that has lost `max_failures` nodes already.

A model that cannot be loaded at one place is left to others (`places.py`). The sampler there waits where it can load
none of the models that are left. When nobody else works any more, the stage runs once more over these shards
(`standstill.py`).

It decides by counts in its memory, which begin with the recorded failures, and records others in a thread of their own
(`record_writer.py`): no call of a sampler waits for the store.

Limits: it runs on the driver's node and lives as long as the stage; only failures outlive it, recorded or in files of
that node (`journal.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rft_ray.sampling import places, quarantine
from rft_ray.sampling.assignment import Assignment, Pace, Work
from rft_ray.sampling.in_flight import LEAST
from rft_ray.sampling.journal import Journal
from rft_ray.sampling.places import LoadFailure, LoadRecord, Place, Sites, Verdict
from rft_ray.sampling.record_writer import RecordWriter
from rft_ray.store import Store
from rft_ray.store.shards import Shard

Refusal = Literal["quarantined", "draining", "aborted", "given_up"]
"""Why a shard is not sampled: it failed too often, the run is being stopped, too many other shards failed, or its round
is over."""
Decision = Literal["shared", "exclusive"] | Refusal
"""`shared`: in an engine together with other shards; `exclusive`: alone in one."""
FORGOTTEN_S = 30.0
"""A sampler that waits asks more often than this; otherwise its process is gone."""
SILENT = "its engine's process ended without an error message: killed, crashed, or out of memory"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a sampler does next. Example: Turn("shared", shard)"""

    decision: Decision | Literal["wait", "none"]
    """`wait`: ask again in a moment; `none`: every shard is given out."""
    shard: Shard | None = None
    """The shard to sample; None for the one with which the sampler asked, and where there is none."""
    reason: str = ""
    """Why a shard is not sampled."""


@dataclass(frozen=True, slots=True)
class Status:
    """Who waits in a stage. Example: Status(waiting=1, waiting_at_start=0, failures=(LoadFailure(…),))"""

    waiting: int
    """Samplers that can load none of the models that are left, and do nothing but wait."""
    waiting_at_start: int
    """Samplers at places that can load none of the models; Ray Data gives them no shard."""
    failures: tuple[LoadFailure, ...] = ()
    """All places that have failed with a model so far."""


class Supervisor:
    """Counts failures by shard, and by model and place.

    Example: Supervisor(store, max_failures=3, max_quarantined=10).decide(stem, sampler, process)

    A sampler is an actor, which Ray restarts under the same name; `process` names one process of it.
    """

    def __init__(
        self,
        store: Store,
        max_failures: int,
        max_quarantined: int,
        failures: Mapping[str, int] | None = None,
        is_lost: Callable[[str], bool] = lambda host: False,
        background: bool = False,
        journal: Path | None = None,
    ) -> None:
        """`failures`: those on record, by shard. `is_lost`: whether a host, as Place names it, is no longer part of the
        cluster. `background`: whether a thread writes records, and otherwise the call. `journal`: folder of its files.
        """
        self._store, self._is_lost = store, is_lost
        self._records, self._journal = RecordWriter(background=background), Journal(journal, background=background)
        self._max_failures, self._max_quarantined = max_failures, max_quarantined
        self._failures = Counter(failures)
        self._suspects = set(self._failures)
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
        self._round = 0
        """The round that has begun last; the first one is 1."""
        self._pace = Pace()
        self._assignment: Assignment | None = None
        """None before a round: then a sampler samples the shards with which it asks."""
        self._waiting: dict[str, float] = {}
        """Sampler -> when it has asked last, where it can load none of the models that are left."""
        self._waiting_at_start: dict[str, float] = {}
        self._draining = False

    def begin_round(self, number: int, work: Sequence[Work], sites: Sites, least: int = LEAST) -> None:
        """Note that an execution begins, over these shards. Samplers of the last one end. `least`: as in Assignment."""
        self._round, self._loads.sites = number, sites
        self._assignment = Assignment(work, self._pace, least=least)
        self._inside.clear()
        self._waiting.clear()
        self._waiting_at_start.clear()
        self._loads.forget_loads()

    def status(self) -> Status:
        lately = time.monotonic() - FORGOTTEN_S
        idle = [
            sampler
            for sampler, asked in self._waiting.items()
            if asked > lately and not self._inside.get(sampler, ("", set()))[1] and not self._loads.is_loading(sampler)
        ]
        starting = sum(asked > lately for asked in self._waiting_at_start.values())
        return Status(len(idle), starting, tuple(self._loads.failures))

    def may_start(self, sampler: str, process: str, place: Place, number: int) -> bool:
        """Whether a new process of a sampler is to take shards: not where its place can load none of the models.

        It asks again until it may. Meanwhile it keeps the place's resources, so that no other sampler gets them.
        """
        self._notice(sampler, process)
        self._hosts[process] = place.host
        self._forget_process(sampler)  # whatever the process before it had begun
        if number > self._round:  # the driver starts the samplers of a round before it hears that the round has begun
            return self._draining
        models: Collection[str] = self._assignment.models if self._assignment else ()
        verdicts = {self._loads.verdict(model, place)[0] for model in models}
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
                self._forget_process(sampler)
                del self._inside[sampler]
                return
        self.died(sampler, before, SILENT)

    def take(
        self, stem: str, sampler: str, process: str, place: Place, number: int, finished: Sequence[str] = ()
    ) -> Turn:
        """What a sampler does that has a turn. `stem`: the shard of the turn, which is any shard of the execution.

        `number`: the sampler's round. `finished`: the shards that it has returned since it last asked.
        """
        self._notice(sampler, process)
        if self._assignment and number == self._round:
            for done in finished:
                self._assignment.finished(sampler, done)
        decision, reason = self.decide(stem, sampler, process)
        if self._assignment is None or decision in ("draining", "aborted"):
            return Turn(decision, None, reason)
        if number != self._round:
            return Turn("given_up")
        work = self._assignment.take(sampler, lambda model: self._loads.verdict(model, place)[0] != "elsewhere")
        self._waiting.pop(sampler, None)
        if isinstance(work, Work):
            decision, reason = self.decide(work.shard.stem, sampler, process)
            return Turn(decision, work.shard, reason)
        if work == "stuck":
            self._waiting[sampler] = time.monotonic()
        return Turn("none" if work == "none" else "wait")

    def give_back(self, stem: str, sampler: str, number: int) -> None:
        """Note that the sampler leaves a shard that it has taken to others: its place cannot load the model."""
        if self._assignment and number == self._round:
            self._assignment.give_back(sampler, stem)

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
        self._pace.started(sampler, stem)

    def answered(self, stem: str, sampler: str, process: str) -> None:
        """Note that the engine has answered all requests of the shard."""
        self._inside.get(sampler, (process, set()))[1].discard(stem)
        self._suspects.discard(stem)
        if self._assignment and (work := self._assignment.work_of(sampler, stem)):
            self._pace.answered(sampler, work)

    def died(self, sampler: str, process: str, reason: str, cause: str = "") -> None:
        """Note that the process is about to end. `cause`: the shard that the engine misbehaved on, where known."""
        self._dead.add(process)
        self._forget_process(sampler)
        if self._inside.get(sampler, ("", set()))[0] != process:
            return  # another thread of it has reported this death
        inside = self._inside.pop(sampler)[1]
        if not cause and len(inside) == 1:
            [cause] = inside
        if cause:
            self._count_failure(cause, reason)
        else:
            self._suspects |= inside

    def _forget_process(self, sampler: str) -> None:
        """Note that the sampler's process has ended: others load and sample what it had begun."""
        self._loads.ended(sampler)
        self._pace.ended(sampler)
        if self._assignment:
            self._assignment.ended(sampler)

    def failed(self, stem: str, sampler: str, process: str, reason: str) -> None:
        """Note that the engine failed on the shard and goes on: an endpoint's, which holds no state to be broken."""
        self._inside.get(sampler, (process, set()))[1].discard(stem)
        self._count_failure(stem, reason)

    def _count_failure(self, stem: str, reason: str) -> None:
        self._suspects.add(stem)
        self._failures[stem] += 1
        if self._failures[stem] >= self._max_failures:
            self._quarantined[stem] = reason
        record = quarantine.Record(stem, quarantine.FAILED, reason)
        self._records.add(f"failure {self._failures[stem]} of {stem}", self._journal.kept(record, self._store))

    def load_verdict(self, model: str, place: Place) -> tuple[Verdict, str]:
        """Whether an engine at the place is to load the model, and the reason where it is not."""
        return self._loads.verdict(model, place)

    def load_began(self, model: str, sampler: str) -> None:
        self._loads.began(model, sampler)
        self._pace.load_began(sampler)

    def loaded(self, model: str, sampler: str) -> None:
        self._loads.loaded(model, sampler)
        self._pace.load_ended(sampler, loaded=True)

    def load_failed(self, model: str, sampler: str, place: Place, reason: str, again: bool) -> None:
        """Note that an engine at the place did not load the model. `again`: another process there may."""
        failure = self._loads.failed(model, sampler, place, reason, again=again)
        self._pace.load_ended(sampler, loaded=False)
        if failure and self._loads.sites.places > 1:  # the record is for the summary, which can do without it
            self._records.add(f"{model} at {place}", partial(places.note, self._store, failure), needed=False)

    def flush(self, timeout_s: float) -> dict[str, str]:
        """Wait until the failures are recorded. Returns those of shards that are not: which one -> why."""
        return self._records.flush(timeout_s)

    def drain(self) -> None:
        """Let no further shard start."""
        self._draining = True
