"""The counters and gauges that the Ray dashboard and Prometheus show, as `ray_rft_*`.

Made inside the actor that counts (Ray binds a metric to the process that makes it).
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge


class SamplerMetrics:
    """What one sampler actor has committed, by model: completions, tokens, and the rate of the model it samples."""

    def __init__(self) -> None:
        self.completions = Counter("rft_completions", "Completions committed", ("model",))
        self.tokens = Counter("rft_completion_tokens", "Tokens sampled, prompt excluded", ("model",))
        self.rate = Gauge("rft_tokens_per_s", "Tokens a second of the last shard", ("model",))

    def committed(self, model: str, completions: int, tokens: int) -> None:
        if completions:
            self.completions.inc(completions, {"model": model})
        if tokens:
            self.tokens.inc(tokens, {"model": model})

    def sampled(self, model: str, tokens: int, seconds: float) -> None:
        self.rate.set(tokens / seconds if seconds > 0 else 0.0, {"model": model})

    def left(self, model: str) -> None:
        """The actor goes over to another model: a gauge would show its last value for ever."""
        self.rate.set(0.0, {"model": model})


class VerifierMetrics:
    """What one verifier actor has graded, by verdict, and the distinct paths that selection kept."""

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
