"""What the driver says while samplers are at work: progress, what is unfinished, what is left out and why.

In: the receipts of an execution, as they come. Out: lines on standard output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.runtime.progress import Progress
from rft_ray.store.shards import Shard


def label_of(model: ModelRef) -> str:
    """Example: tiny-m (sft)"""
    return f"{model.name} ({model.stage})"


class Following:
    """What the driver sees of an execution: a line of progress, what is unfinished, which models cannot be loaded."""

    def __init__(self, shards: Sequence[Shard], job_of: dict[str, SamplingJob]) -> None:
        self.unloadable: dict[ModelRef, str] = {}
        self.given_up = ""
        self._models = {shard.stem: job_of[shard.fingerprint].model for shard in shards}
        self._left = Counter(self._models.values())
        self._place = {model: place for place, model in enumerate(self._left, 1)}
        sizes = [(s.problem_stop - s.problem_start) * job_of[s.fingerprint].settings.samples_per_block for s in shards]
        self._progress = Progress("sample", sum(sizes), "completions")
        of = f"{len(self._left)} models" if len(self._left) > 1 else label_of(next(iter(self._left)))
        print(f"  sample {of}: starting the engine for {len(shards)} shards", flush=True)

    def advance(self, receipt: dict[str, Any]) -> None:
        model = self._models[receipt["shard"]]
        if why := receipt.get("left_out"):
            if why == "quarantined":
                print(f"  sample {label_of(model)}: {receipt['shard']} is quarantined: {receipt['why']}", flush=True)
            elif why == "given up":
                self.given_up = receipt["why"]
            return
        self._left[model] -= 1
        if (why := receipt.get("unloadable")) and model not in self.unloadable:
            self.unloadable[model] = why
            print(f"  sample {label_of(model)}: {why}: it is left out, the others go on", flush=True)
        place = f", model {self._place[model]} of {len(self._place)}" if len(self._place) > 1 else ""
        self._progress.label = f"sample {label_of(model)}{place}"
        self._progress.advance(receipt["rows"])

    def unfinished(self) -> str:
        """The first three models with shards to come; they are sampled in this order."""
        return _few([label_of(model) for model, left in self._left.items() if left], ", ")

    def left_out(self) -> str:
        """What to tell of the models that could not be loaded, in one line."""
        return _few([f"sample {label_of(model)}: {why}" for model, why in self.unloadable.items()], "; ")


def _few(texts: Sequence[str], separator: str) -> str:
    return separator.join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
