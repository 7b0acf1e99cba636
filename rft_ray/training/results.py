"""Results, progress and errors of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rft_ray.config.errors import RunError

STARTED = "started.json"
"""File that an attempt writes into a job's work folder: it shows which job a group was training when it died."""


class TrainingError(RunError, RuntimeError):
    """A model could not be trained. The message is one line: the model, the number of attempts and the last cause."""


def without_rows(data_key: str) -> str:
    """Why nothing can be trained on a training table that has no rows."""
    return (
        f"no example is left to train on: {data_key} has no rows, since no sample was accepted (rft-ray report shows "
        "rejected samples): give a stronger sampler, more samples, or gold solutions; after many no_answer, ask for "
        "a form of the answer (docs/your-data.md)"
    )


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a model was trained: the `training` entry in the metadata of its manifest.

    Example: TrainingRecord(examples=600, skipped_too_long=0, steps=15, tokens=69000, seconds=5.1, tokens_per_s=13529.4,
    final_loss=0.41, attempt="5f0c…", curve=[[1, 0.93, 0.001], …], device="cpu", versions={"torch": "2.13.0"}, …)
    """

    examples: int
    skipped_too_long: int
    """Rows skipped because prompt and response together exceed `max_tokens` or the model's context."""
    steps: int
    tokens: int
    """Prompt and response tokens of all steps, over all epochs."""
    seconds: float
    """Time spent on training steps and checkpoints, over the attempts that led to the model."""
    tokens_per_s: float
    final_loss: float
    began_unix: float = 0.0
    ended_unix: float = 0.0
    """When the last attempt began with the model, and when it had its final weights, by the clock of its first worker;
    0 in manifests of earlier versions."""
    resumed_at_step: int = 0
    """Step of the checkpoint that the last attempt started from; 0 when it started from the base model."""
    resumed_from: str = ""
    """The workers and ZeRO stage that this checkpoint was saved with; empty in manifests of earlier versions."""
    checkpoints_passed_over: int = 0
    """Complete checkpoints that were skipped: damaged, of other data, or of a ZeRO stage that keeps them otherwise."""
    checkpoint_seconds: float = 0.0
    """Time that the training stood still for checkpoints, in the last attempt."""
    attention: str = ""
    """`padded` rows, or the attention of packed ones: `rft_by_example` or `flash_attention_2`."""
    useful_tokens: float = 0.0
    """Tokens of examples, as a share of what the workers computed or waited for; 0 in manifests of earlier versions."""
    attempt: str = ""
    """Identifies the attempt that committed the model."""
    curve: Sequence[Sequence[float]] = ()
    """Step, loss and learning rate of each logged step."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The config's `training` section."""
    device: str = ""
    """`cpu` or `gpu`."""
    card: str = ""
    """The GPU, by its name in the table of cards or else the device's own; empty without one."""
    parameters: int = 0
    """Weights of the base; 0 in manifests of earlier versions."""
    activation_checkpointing: bool = False
    optimizer: str = ""
    """`adamw_torch`, `adamw_torch_fused` or `deepspeed_cpu_adam`; empty in manifests of earlier versions."""
    optimizer_reason: str = ""
    """Why an optimizer whose state is in the host's memory is not DeepSpeed's."""
    liger: bool = False
    """Whether the model ran with Liger kernels."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version."""


def training_record(metadata: Mapping[str, Any]) -> TrainingRecord | None:
    """The record in the metadata of a model's manifest; None where it has none.

    Raises TypeError when the record is incomplete.
    """
    if "training" not in metadata:
        return None
    known = {entry.name for entry in fields(TrainingRecord)}
    return TrainingRecord(**{name: value for name, value in metadata["training"].items() if name in known})


@dataclass(frozen=True)
class TrainingResult:
    """A trained and committed model.

    Example: TrainingResult("tiny-s", "sft", "9c…", TrainingRecord(examples=600, …), True)
    """

    model: str
    stage: str
    fingerprint: str
    record: TrainingRecord
    committed_here: bool
    """Whether this call trained the model, rather than an earlier one."""

    def notes(self) -> Iterator[str]:
        """What a user should know of it, beyond its figures."""
        if skipped := self.record.skipped_too_long:
            yield f"{skipped} examples are longer than the limit and were skipped"
        if self.committed_here and self.record.optimizer_reason:
            yield f"optimizer: PyTorch's fused AdamW, not DeepSpeed's CPU Adam: {self.record.optimizer_reason}"
        elif self.committed_here and self.record.optimizer == "deepspeed_cpu_adam":
            yield "optimizer: DeepSpeed's CPU Adam, as its state is in the host's memory"
        if self.committed_here and self.record.resumed_from:
            yield f"went on at step {self.record.resumed_at_step} from a checkpoint of {self.record.resumed_from}"


@dataclass(frozen=True)
class TrainingProgress:
    """How far a job has come. `str()` gives the line for a terminal.

    Example: TrainingProgress("tiny-s", "sft", 10, 15, 0.52, 13500.0, 1.7)
    """

    model: str
    stage: str
    step: int
    steps: int
    loss: float
    tokens_per_s: float
    eta_s: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.eta_s), 60)
        return (
            f"{self.stage} {self.model}: step {self.step}/{self.steps}, loss {self.loss:.4f}, "
            f"{self.tokens_per_s:,.0f} tokens/s, {minutes}:{seconds:02d} left"
        )
