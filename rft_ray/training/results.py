"""Results, progress and errors of training."""

from __future__ import annotations

from dataclasses import dataclass

from rft_ray.config.errors import RunError

STARTED = "started.json"
"""File that an attempt writes into a job's work folder: it shows which job a group was training when it died."""


class TrainingError(RunError, RuntimeError):
    """A model could not be trained. The message is one line: the model, the number of attempts and the last cause."""


@dataclass(frozen=True)
class TrainingResult:
    """How one model was trained, as its manifest records it.

    Example: TrainingResult("tiny-s", "sft", "9c…", 600, 0, 15, 69000, 5.1, 13529.4, 0.41, 0, 0, True)
    """

    model: str
    stage: str
    fingerprint: str
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
    resumed_at_step: int
    """Step of the checkpoint that the last attempt started from; 0 when it started from the base model."""
    checkpoints_passed_over: int
    """Complete checkpoints that were skipped: damaged, or of another number of workers, ZeRO stage or data."""
    committed_here: bool
    """Whether this call trained the model, rather than an earlier one."""


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
