"""The counters and gauges that the Ray dashboard and Prometheus show, as `ray_rft_*`.

Each is made in the actor that counts, since Ray binds a metric to the process that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ray.util.metrics import Counter, Gauge


class Load(Protocol):
    """The load of an engine: `EngineLoad` of `sampling/engine_load.py`."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_cache(self) -> float: ...
    @property
    def preemptions(self) -> int: ...


class SamplerMetrics:
    """Completions and tokens that one sampler actor has committed, and its rate, by model."""

    def __init__(self) -> None:
        self.completions = Counter("rft_completions", "Completions committed", ("model",))
        self.tokens = Counter("rft_completion_tokens", "Tokens sampled, prompt excluded", ("model",))
        self.rate = Gauge("rft_tokens_per_s", "Tokens a second of the last shard", ("model",))
        self.running = Gauge("rft_engine_running", "Sequences that the engine generates at once")
        self.waiting = Gauge("rft_engine_waiting", "Sequences that wait for a place in the engine's batch")
        self.kv_cache = Gauge("rft_engine_kv_cache", "Share of the engine's key-value cache in use")
        self.preemptions = Counter("rft_engine_preemptions", "Sequences that lost their place in the cache")

    def committed(self, model: str, completions: int, tokens: int) -> None:
        if completions:
            self.completions.inc(completions, {"model": model})
        if tokens:
            self.tokens.inc(tokens, {"model": model})

    def sampled(self, model: str, tokens: int, seconds: float) -> None:
        self.rate.set(tokens / seconds if seconds > 0 else 0.0, {"model": model})

    def engine(self, load: Load) -> None:
        """Show the load of the engine's last step; `preemptions`: since the last call."""
        self.running.set(load.running)
        self.waiting.set(load.waiting)
        self.kv_cache.set(load.kv_cache)
        if load.preemptions:
            self.preemptions.inc(load.preemptions)

    def left(self, model: str) -> None:
        """Set the rate of a model to zero when the actor swaps to another: a gauge keeps its last value."""
        self.rate.set(0.0, {"model": model})


class VerifierMetrics:
    """Completions that one verifier actor has graded, by verdict, and distinct paths that it has selected."""

    def __init__(self) -> None:
        self.verdicts = Counter("rft_verdicts", "Completions graded, by status", ("status",))
        self.paths = Counter("rft_distinct_paths", "Distinct correct reasoning paths kept")

    def graded(self, counts: dict[str, int]) -> None:
        for status, count in counts.items():
            if count:
                self.verdicts.inc(count, {"status": status})

    def selected(self, paths: int) -> None:
        if paths:
            self.paths.inc(paths)


def training_metrics() -> Callable[[dict[str, str], float, int, float], None]:
    """Returns a function that reports (tags, loss, new tokens, tokens/s) of a training."""
    tags = ("model", "stage")
    loss_gauge = Gauge("rft_training_loss", "Loss of the last logged steps", tags)
    rate_gauge = Gauge("rft_training_tokens_per_s", "Tokens a second since the last report", tags)
    counter = Counter("rft_training_tokens", "Prompt and response tokens trained on", tags)

    def report(where: dict[str, str], loss: float, tokens: int, rate: float) -> None:
        loss_gauge.set(loss, where)
        rate_gauge.set(rate, where)
        if tokens:
            counter.inc(tokens, where)

    return report
