"""What a training comes to: results, progress and errors."""

from __future__ import annotations

from dataclasses import dataclass

from rft_ray.config.errors import RunError

STARTED = "started.json"
"""An attempt's mark in a job's work folder: tells which job a group was at when it died."""


class TrainingError(RunError, RuntimeError):
    """A model could not be trained. One line: which one, how often it was tried, and the last cause."""


@dataclass(frozen=True)
class TrainingResult:
    """How one model was trained, as its manifest tells.

    Example: TrainingResult("tiny-s", "sft", "9c…", 600, 0, 15, 69000, 5.1, 13529.4, 0.41, 0, 0, True)
    """

    model: str
    stage: str
    fingerprint: str
    examples: int
    skipped_too_long: int
    """Rows left out because prompt and response exceed `max_tokens` or the model's context."""
    steps: int
    tokens: int
    """Prompt and response tokens that were trained on, over all epochs."""
    seconds: float
    """Time in training steps and checkpoints, over all attempts that count."""
    tokens_per_s: float
    final_loss: float
    resumed_at_step: int
    """Step of the checkpoint that the last attempt started from; 0 where it started from the base."""
    checkpoints_passed_over: int
    """Complete checkpoints that could not be used: damaged, or of another number of workers or ZeRO stage."""
    committed_here: bool
    """Whether this call trained it, not an earlier one."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a job is. `str()` is the line for a terminal.

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
