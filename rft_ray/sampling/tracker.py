"""Follows one sampling stage in the driver: its progress, what is unfinished, and what is left out and why.

In: the receipts, as they come. Out: lines on standard output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rft_ray.plan.jobs import ModelRef, SamplingJob
from rft_ray.runtime.progress import Progress
from rft_ray.sampling.places import LoadFailure
from rft_ray.sampling.receipt import SampleReceipt
from rft_ray.store.shards import Shard


def label_of(model: ModelRef) -> str:
    """Example: tiny-m (sft)"""
    return f"{model.name} ({model.stage})"


class ShardTracker:
    """Counts the shards that are left of each model, and prints a line of progress every few seconds."""

    def __init__(self, shards: Sequence[Shard], job_of: dict[str, SamplingJob]) -> None:
        """`job_of`: fingerprint -> job, of every shard."""
        self.unloadable: dict[ModelRef, str] = {}
        """Model -> why it could not be loaded."""
        self.aborted = ""
        """Why the supervisor has refused all further shards; empty where it has not."""
        self.pending = {shard.stem for shard in shards}
        """Shards that are neither returned nor quarantined."""
        self._models = {shard.stem: job_of[shard.fingerprint].model for shard in shards}
        self._left = Counter(self._models.values())
        self._place = {model: place for place, model in enumerate(self._left, 1)}
        sizes = [(s.problem_stop - s.problem_start) * job_of[s.fingerprint].settings.samples_per_block for s in shards]
        self._progress = Progress("sample", sum(sizes), "completions")
        models = f"{len(self._left)} models" if len(self._left) > 1 else label_of(next(iter(self._left)))
        print(f"  sample {models}: starting the engine for {len(shards)} shards", flush=True)

    def advance(self, receipt: SampleReceipt) -> None:
        """Take in one receipt, and print what a reader is to know of it."""
        model = self._models[receipt.shard]
        if receipt.refusal in (None, "quarantined"):  # other refusals name the shard of a turn, and are not about it
            self.pending.discard(receipt.shard)
        if receipt.refusal:
            self._note_refusal(model, receipt)
            return
        self._left[model] -= 1
        if receipt.unloadable and model not in self.unloadable:
            self.unloadable[model] = receipt.unloadable
            print(f"  sample {label_of(model)}: {receipt.unloadable}: sampling the other models", flush=True)
        place = f", model {self._place[model]} of {len(self._place)}" if len(self._place) > 1 else ""
        self._progress.label = f"sample {label_of(model)}{place}"
        self._progress.advance(receipt.rows)

    def report(self, failure: LoadFailure) -> None:
        """Print that a place has failed with a model."""
        labels = {label_of(model) for model in self._left if model.fingerprint == failure.model}
        print(f"  sample {', '.join(labels)}: {failure.place} cannot load it: {failure.reason}", flush=True)

    def unfinished(self) -> str:
        """The first three models with shards left, in the order in which they are sampled."""
        return _first_three([label_of(model) for model, left in self._left.items() if left], ", ")

    def left_out(self) -> str:
        """The models that could not be loaded, and why, in one line."""
        return _first_three([f"sample {label_of(model)}: {why}" for model, why in self.unloadable.items()], "; ")

    def _note_refusal(self, model: ModelRef, receipt: SampleReceipt) -> None:
        if receipt.refusal == "quarantined":
            print(f"  sample {label_of(model)}: {receipt.shard} is quarantined: {receipt.reason}", flush=True)
        elif receipt.refusal == "aborted":
            self.aborted = receipt.reason


def _first_three(texts: Sequence[str], separator: str) -> str:
    return separator.join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
