"""The search for the engine settings that sample fastest: which are tried, in what order, and which of them win.

In: the settings of a config, and a function that measures an engine with given settings. Out: a table of what was
tried, and the settings to paste into the config. One setting is varied after another, from the fastest settings so far,
as a whole grid would take hours. Settings that change samples are tried last and never win by themselves. Pure.

Limits: a maximum that needs two settings to change at once is missed; speeds that differ by less than `WORTH` count as
equal, because two measurements of one engine differ by about as much.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import yaml
from pydantic import ValidationError

from rft_ray.config import ConfigError, Engine

WORTH = 1.02
"""Settings win where they sample faster by this factor."""
UNSTEADY = 1.2
"""Two measurements of one engine that differ by this factor say that something else decides the speeds."""
HOPELESS = 1.5
"""A trial ends when it has sampled for so many times the seconds of the fastest one."""
SEQUENCES = (16, 32, 64, 128, 256, 512, 1024, 2048)
BATCHED_TOKENS = (4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine's work on the prompts, by its own statistics.

    Example: Measured(612_000, 51.2, 38.0, 0, 0.83, 256, 71.4)
    """

    tokens: int
    """Tokens of the completions."""
    seconds: float
    """From the first request to the last answer."""
    start_s: float
    """Until the engine was open and warm."""
    preemptions: int
    kv_cache: float
    """The most of the key-value cache in use at a time, as a share of it."""
    running: int
    """The most sequences at a time."""
    memory_gib: float
    """Of the fullest GPU; without a GPU the peak of the process."""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Failed:
    """Settings without a measurement. Example: Failed("OutOfMemoryError: CUDA out of memory.")"""

    reason: str
    """One line."""
    fits: bool = False
    """Whether the engine opened and sampled, and was only ended as too slow."""


Outcome = Measured | Failed


class OutOfTime(Exception):
    """The time of the search is over; what was measured counts."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of an engine with these settings."""

    engine: Engine
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting and its values. Example: Axis("max_num_seqs", (64, 128, 256), ordered=True)"""

    key: str
    """As below `engine`, such as `extra.block_size`."""
    values: tuple[Any, ...]
    ordered: bool = False
    """Whether values beyond one that is no faster are left out; else all are tried."""

    def ways(self, own: Any) -> Iterator[tuple[Any, ...]]:
        """Values to try one after another, from the present value: upwards and downwards, or each alone."""
        if self.ordered:
            yield tuple(sorted(value for value in self.values if value > own))
            yield tuple(sorted((value for value in self.values if value < own), reverse=True))
        else:
            yield from ((value,) for value in self.values)


def axes(own: Engine, sequences: int, *, gpu: bool) -> list[Axis]:
    """What is varied where the user does not say. `sequences`: the samples of all prompts, more of which cannot run."""
    sizes = tuple(size for size in SEQUENCES if size <= sequences)
    common = [Axis("max_num_seqs", sizes, ordered=True), Axis("max_num_batched_tokens", BATCHED_TOKENS)]
    if not gpu:  # compilation takes minutes there, and key-value caches of 8 bits do not work
        return common
    eager = own.enforce_eager is True
    return [*common, Axis("enforce_eager", (not eager,)), Axis("kv_cache_dtype", ("fp8",))]


def asked_axis(text: str) -> Axis:
    """The axis that `--try KEY=VALUE,VALUE` names. Raises ConfigError."""
    key, equals, values = text.partition("=")
    key = key.strip().removeprefix("engine.")
    name, dot, rest = key.partition(".")
    if not equals or not values.strip():
        raise ConfigError(f"--try {text!r}: write KEY=VALUE,VALUE, as in --try max_num_seqs=256,512")
    if name not in Engine.model_fields or (dot and (name not in ("extra", "speculative") or not rest)):
        raise ConfigError(f"--try {text!r}: the section engine has no key {key!r} (docs/configuration.md)")
    try:
        chosen = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError:
        raise ConfigError(f"--try {text!r}: {values!r} is no list of values") from None
    return Axis(key, tuple(chosen))


def value_of(engine: Engine, key: str) -> Any:
    """The present value of a key as in `Axis`; None where `extra` does not have it."""
    name, dot, rest = key.partition(".")
    value = getattr(engine, name)
    return value.get(rest) if dot else value


def with_value(engine: Engine, key: str, value: Any) -> Engine:
    """The settings with another value of a key as in `Axis`. Raises ConfigError where they do not go together."""
    tree = engine.model_dump()
    name, dot, rest = key.partition(".")
    if dot:
        tree[name] = {**tree[name], rest: value}
    else:
        tree[name] = value
    try:
        return Engine.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"engine.{key}={value}: {str(first['msg']).removeprefix('Value error, ')}") from None


@dataclass
class Search:
    """The trials of one search. `measure` gets settings and the seconds that sampling may take at most."""

    own: Engine
    measure: Callable[[Engine, float], Outcome]
    seconds_left: Callable[[], float]
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    """The fastest measured settings that leave samples as they are; the config's own unless others are faster."""

    def run(self, varied: Iterable[Axis]) -> None:
        """Try the config's own settings, then each axis from the best so far, then the two best again.

        Ends early, without an error, when `measure` raises OutOfTime.
        """
        try:
            self._try(self.own)
            for axis in varied:
                self._vary(axis)
            self._confirm()
        except OutOfTime:
            return

    def _vary(self, axis: Axis) -> None:
        start = self.best.engine if self.best else self.own
        for way in axis.ways(value_of(start, axis.key)):
            faster = False
            for value in way:
                try:
                    candidate = with_value(start, axis.key, value)
                except ConfigError:  # such as fewer batched tokens than sequences
                    continue
                if any(trial.engine == candidate for trial in self.trials):
                    continue
                if not self._try(candidate):
                    break
                faster = True
            if faster and axis.ordered:
                return

    def _try(self, engine: Engine) -> bool:
        """Measure an engine. Returns whether it is the best now."""
        best = self.best.outcome if self.best else None
        limit = HOPELESS * best.seconds if isinstance(best, Measured) else float("inf")
        trial = Trial(engine, self.measure(engine, limit))
        self.trials.append(trial)
        if not isinstance(trial.outcome, Measured) or engine.deciding_arguments != self.own.deciding_arguments:
            return False
        if isinstance(best, Measured) and trial.outcome.tokens_per_s < WORTH * best.tokens_per_s:
            return False
        self.best = trial
        return True

    def _confirm(self) -> None:
        """Measure the winner and the config's own settings once more, where there is time for both.

        Then also what was measured once and is faster than the winner's mean: chance may have made it the second best.
        """
        if self.best is None or self.best.engine == self.own or not self._again(self.best.engine, self.own):
            return
        while challenger := self._challenger():
            if not self._again(challenger):
                return

    def _again(self, *engines: Engine) -> bool:
        """Measure engines once more, those that were measured before. False: there is no time for all of them."""
        pairs = ((engine, self._measured(engine)) for engine in engines)
        known = [(engine, measured[0]) for engine, measured in pairs if measured]
        if self.seconds_left() <= 1.2 * sum(first.start_s + first.seconds for _, first in known):
            return False
        for engine, _ in known:
            self.trials.append(Trial(engine, self.measure(engine, float("inf"))))
        return True

    def _challenger(self) -> Engine | None:
        """The fastest settings that were tried once and seem faster than the winner."""
        fastest = max(self._own_samples(1), key=self.rate, default=None)
        return fastest if fastest and self.winner and self._beats(fastest, self.winner) else None

    def _own_samples(self, times: int) -> list[Engine]:
        """Measured settings that leave samples as they are and were tried so many times."""
        tried = [trial.engine for trial in self.trials]
        same = [engine for engine in tried if engine.deciding_arguments == self.own.deciding_arguments]
        return [engine for engine in same if tried.count(engine) == times and self.rate(engine)]

    def _beats(self, engine: Engine, other: Engine) -> bool:
        return self.rate(engine) >= WORTH * self.rate(other)

    @property
    def winner(self) -> Engine | None:
        """The settings to use, of those that were measured twice where some were; None where nothing was measured."""
        if self.best is None:
            return None
        fastest = max(self._own_samples(2), key=self.rate, default=self.best.engine)
        return fastest if self._beats(fastest, self.own) else self.own

    @property
    def faster_with_other_samples(self) -> Engine | None:
        """Settings that change samples and are faster than the winner; None where there are none."""
        winner = self.rate(self.winner) if self.winner else 0.0
        changing = [t.engine for t in self.trials if t.engine.deciding_arguments != self.own.deciding_arguments]
        fastest = max(changing, key=self.rate, default=None)
        return fastest if fastest and self.rate(fastest) >= WORTH * winner and self.rate(fastest) else None

    def rate(self, engine: Engine) -> float:
        """Tokens a second, the mean of the measurements of these settings; 0 without any."""
        rates = [measured.tokens_per_s for measured in self._measured(engine)]
        return fmean(rates) if rates else 0.0

    def _measured(self, engine: Engine) -> list[Measured]:
        return [m for t in self.trials if t.engine == engine and isinstance(m := t.outcome, Measured)]

    @property
    def spread(self) -> float:
        """The most by which two measurements of one engine differ, as a factor; 1 where none was repeated."""
        repeated = ([m.tokens_per_s for m in self._measured(trial.engine)] for trial in self.trials)
        return max((max(rates) / min(rates) for rates in repeated if rates), default=1.0)


def changes(engine: Engine, own: Engine) -> dict[str, Any]:
    """The keys of `engine` whose values differ from the config's own, as in the config's YAML."""
    before = own.model_dump(mode="json")
    return {key: value for key, value in engine.model_dump(mode="json").items() if value != before[key]}


def label(engine: Engine, own: Engine) -> str:
    """The settings in a few words. Example: `max_num_seqs=512 enforce_eager=true`"""
    parts = [f"{key}={as_yaml(value)}" for key, value in changes(engine, own).items()]
    return " ".join(parts) or "the config's own"


def as_yaml(value: Any) -> str:
    """A value of a setting as in YAML, on one line. Example: `null`"""
    return json.dumps(value).strip('"')


HEAD = ("settings", "tokens/s", "preemptions", "peak KV", "at once", "memory GiB", "start s", "fits")


def table(search: Search) -> str:
    """What was tried, the fastest first, as a Markdown table; repeated measurements are one row with their mean."""
    rows: dict[str, tuple[float, tuple[str, ...]]] = {}
    for trial in search.trials:
        name, rate = label(trial.engine, search.own), search.rate(trial.engine)
        if isinstance(outcome := trial.outcome, Measured):
            mark = " (changes samples)" if trial.engine.deciding_arguments != search.own.deciding_arguments else ""
            count = sum(t.engine == trial.engine and isinstance(t.outcome, Measured) for t in search.trials)
            rows[name] = (
                rate,
                (
                    name + mark,
                    f"{rate:,.0f}" + (f" (mean of {count})" if count > 1 else ""),
                    f"{outcome.preemptions:,}",
                    f"{outcome.kv_cache:.0%}",
                    f"{outcome.running:,}",
                    f"{outcome.memory_gib:.1f}",
                    f"{outcome.start_s:.0f}",
                    "yes",
                ),
            )
        else:
            text = f"yes: {outcome.reason}" if outcome.fits else f"no: {outcome.reason}"
            rows.setdefault(name, (rate, (name, *["-"] * 6, text)))
    ordered = [cells for _, cells in sorted(rows.values(), key=lambda row: -row[0])]
    return _markdown([HEAD, *ordered])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [" | ".join([*map(str.ljust, row[:-1], widths), row[-1]]) for row in rows]
    lines.insert(1, "-|-".join(["-" * width for width in (*widths, 4)]))
    return "\n".join(f"| {line} |" if at != 1 else f"|-{line}-|" for at, line in enumerate(lines))


def advice(search: Search) -> str:
    """The YAML of the winner to paste, with its gain; or that there is nothing to change."""
    winner, own = search.winner, search.rate(search.own)
    if winner is None:
        return "nothing was measured: see the reasons in the table"
    lines = []
    if winner == search.own:
        lines.append(f"the config's own settings are the fastest that fit: {own:,.0f} tokens/s; nothing to change")
    else:
        gain = f"{search.rate(winner) / own:.2f} times the config's own" if own else "the config's own do not fit"
        lines.append(f"# rft-ray tune: {search.rate(winner):,.0f} tokens/s, {gain}")
        lines.append(yaml.safe_dump({"engine": changes(winner, search.own)}, sort_keys=False).rstrip())
    if other := search.faster_with_other_samples:
        ratio = search.rate(other) / search.rate(winner)
        lines.append(
            f"# {label(other, search.own)} makes {ratio:.2f} times that, and other samples under other names: for a "
            "run that has not begun"
        )
    if search.spread >= UNSTEADY:
        lines.append(
            f"# note: two measurements of the same settings differ by a factor of {search.spread:.1f}, so other work "
            "on this machine may have decided all of these speeds: measure again while it is idle"
        )
    return "\n".join(lines)
