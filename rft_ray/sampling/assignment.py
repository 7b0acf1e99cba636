"""Which shard a sampler works on next, so that engines load few models and none is idle for long.

In: the shards of an execution with their models, and what samplers do: they take shards, load models and answer. Out:
the next shard of a sampler. An engine keeps its model while it has shards that nobody has taken. Then it goes to a
model that no engine holds, and where there is none, to one whose engines have so much left that a load pays. Otherwise
it waits, no longer than such a load takes, for the others to take what is left. An engine that has as many sequences as
would be each one's share of what is left takes no further shard either, so that the last ones are spread.

Pure: no Ray. Limits: it knows what a load and a sequence cost from those that it has seen in this stage.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from rft_ray.sampling.in_flight import LEAST
from rft_ray.store.shards import Shard

WORTH = 2.0
"""An engine helps others with a model where they would need so many times longer than its load takes."""


@dataclass(frozen=True, slots=True)
class Work:
    """A shard that is to be sampled. Example: Work(shard, "9c3f…", "tiny-m", 1000)"""

    shard: Shard
    model: str
    """The model's fingerprint."""
    architecture: str
    """Equal for models that an engine swaps fast."""
    sequences: int
    """As `in_flight.sequences_of`."""


class Pace:
    """What a load of a model and a sequence cost, by those that have ended. Times are in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loading: dict[str, float] = {}
        """Sampler -> when it began to load a model."""
        self._load_s, self._loads = 0.0, 0
        self._inside: dict[str, dict[str, float]] = {}
        """Sampler -> the shards in its engine, and when they entered it."""
        self._engine_s: dict[str, float] = defaultdict(float)
        """Model -> seconds of engines that its sequences took."""
        self._sequences: Counter[str] = Counter()

    def load_began(self, sampler: str) -> None:
        self._loading[sampler] = self._clock()

    def load_ended(self, sampler: str, *, loaded: bool) -> None:
        began = self._loading.pop(sampler, None)
        if loaded and began is not None:
            self._load_s += self._clock() - began
            self._loads += 1

    def started(self, sampler: str, stem: str) -> None:
        self._inside.setdefault(sampler, {})[stem] = self._clock()

    def answered(self, sampler: str, work: Work) -> None:
        inside = self._inside.get(sampler, {})
        together = len(inside)
        if (began := inside.pop(work.shard.stem, None)) is not None:
            self._engine_s[work.model] += (self._clock() - began) / together
            self._sequences[work.model] += work.sequences

    def ended(self, sampler: str) -> None:
        """Note that the sampler's process has ended."""
        self._loading.pop(sampler, None)
        self._inside.pop(sampler, None)

    @property
    def load_s(self) -> float | None:
        """Mean of a load; None before one has ended."""
        return self._load_s / self._loads if self._loads else None

    def engine_s(self, model: str, sequences: int) -> float | None:
        """How long one engine takes for so many sequences; None before a shard, of any model, is answered."""
        of = [model] if self._sequences[model] else list(self._sequences)
        known = sum(self._sequences[name] for name in of)
        return sequences * sum(self._engine_s[name] for name in of) / known if known else None


class Assignment:
    """Gives out the shards of one execution. Samplers are names of actors."""

    def __init__(
        self, work: Iterable[Work], pace: Pace, clock: Callable[[], float] = time.monotonic, least: int = LEAST
    ) -> None:
        """`least`: shards that a sampler may have, however little is left for others."""
        self._pace, self._least, self._clock = pace, least, clock
        self._left: dict[str, deque[Work]] = {}
        """Model -> its shards that nobody has taken, in order."""
        self._sequences: Counter[str] = Counter()
        """Model -> sequences of these shards."""
        self._architectures: dict[str, str] = {}
        self._holds: dict[str, str] = {}
        """Sampler -> the model of the shard that it took last."""
        self._taken: dict[str, dict[str, Work]] = {}
        """Sampler -> the shards that it has taken and not finished, by stem."""
        self._waits_since: dict[str, float] = {}
        self._here: set[str] = set()
        """Samplers that have asked for shards, and whose processes have not ended."""
        for entry in work:
            self._left.setdefault(entry.model, deque()).append(entry)
            self._sequences[entry.model] += entry.sequences
            self._architectures[entry.model] = entry.architecture

    @property
    def models(self) -> list[str]:
        """The models of this execution, in order."""
        return list(self._left)

    def take(self, sampler: str, may_load: Callable[[str], bool]) -> Work | Literal["none", "wait", "stuck"]:
        """The sampler's next shard.

        `none`: every shard is taken; `wait`: no load pays yet, or the sampler has its share; `stuck`: `may_load`
        refuses all models that are left.
        """
        self._here.add(sampler)
        left = [model for model, shards in self._left.items() if shards]
        if not left:
            return "none"
        left = [model for model in left if may_load(model)]
        if not left:
            return "stuck"
        model = None if self._has_its_share(sampler) else self._next(sampler, left)
        if model is None:
            return "wait"
        self._waits_since.pop(sampler, None)
        work = self._left[model].popleft()
        self._sequences[model] -= work.sequences
        self._holds[sampler] = model
        self._taken.setdefault(sampler, {})[work.shard.stem] = work
        return work

    def work_of(self, sampler: str, stem: str) -> Work | None:
        """The shard that the sampler has taken; None where it has not."""
        return self._taken.get(sampler, {}).get(stem)

    def finished(self, sampler: str, stem: str) -> None:
        """Note that the sampler has returned a receipt of a shard."""
        self._taken.get(sampler, {}).pop(stem, None)

    def give_back(self, sampler: str, stem: str) -> None:
        """Leave a shard whose model the sampler cannot load to others."""
        if work := self._taken.get(sampler, {}).pop(stem, None):
            self._left[work.model].appendleft(work)
            self._sequences[work.model] += work.sequences
        self._holds.pop(sampler, None)

    def ended(self, sampler: str) -> None:
        """Leave all shards of a sampler whose process has ended to whoever asks next."""
        for stem in list(self._taken.get(sampler, {}))[::-1]:
            self.give_back(sampler, stem)
        self._holds.pop(sampler, None)
        self._here.discard(sampler)

    def _has_its_share(self, sampler: str) -> bool:
        """Whether the sampler has as many sequences as each would have of all that are not answered."""
        own = self._taken.get(sampler, {})
        if len(own) < self._least:
            return False
        taken = {name: sum(work.sequences for work in shards.values()) for name, shards in self._taken.items()}
        unanswered = self._sequences.total() + sum(taken.values())
        return taken[sampler] * len(self._here) >= unanswered

    def _next(self, sampler: str, left: list[str]) -> str | None:
        """The model among `left` that the sampler is to work on; None where it is to wait."""
        held = self._holds.get(sampler)
        if held in left:
            return held
        engines = Counter(self._holds.values())
        if fresh := [model for model in left if not engines[model]]:
            like = self._architectures.get(held or "")
            return next((model for model in fresh if self._architectures[model] == like), fresh[0])
        most = max(left, key=lambda model: self._remaining(model) / (engines[model] + 1))
        return most if self._pays(sampler, self._remaining(most) / engines[most]) else None

    def _remaining(self, model: str) -> float:
        """Seconds of one engine that the shards that nobody has taken need; sequences, before that is known."""
        seconds = self._pace.engine_s(model, self._sequences[model])
        return self._sequences[model] if seconds is None else seconds

    def _pays(self, sampler: str, without_s: float) -> bool:
        """Whether the sampler is to load a model whose engines need so many seconds without it."""
        load_s = self._pace.load_s
        if load_s is None or self._pace.engine_s("", 0) is None or without_s > WORTH * load_s:
            return True
        since = self._waits_since.setdefault(sampler, self._clock())
        return self._clock() - since > WORTH * load_s
