"""The `summary.json` of `rft-ray verify`: what was read, and the counts of each mode."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing `external` imports Ray
    from rft_ray.corpus.external import MergedCorpus
    from rft_ray.corpus.mode_comparison import Comparison
    from rft_ray.grading import Mode
    from rft_ray.runtime.progress import StageTime

JOB = "verify"
"""The value of `job`, which the summary of a pipeline run does not have."""


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """What `rft-ray verify` read and made.

    Example: VerifySummary("gsm8k:train", 7473, ("mistral.jsonl",), {"mistral": "9c3f…"}, {"mistral": 2}, ("Who …?",),
    Comparison(…), {"strict": MergedCorpus(…)}, (StageTime("verify", 9.36, {"new_shards": 4}), …))
    """

    gold: str
    """The source of the gold problems, as given."""
    problems: int
    """Number of gold problems."""
    files: tuple[str, ...]
    samplers: dict[str, str]
    """Model -> fingerprint of the sampling job that stands for its completions in the files."""
    unknown: dict[str, int]
    """Model -> completions whose question is not a gold problem."""
    unknown_questions: tuple[str, ...]
    """The first of these questions."""
    comparison: Comparison
    corpora: dict[Mode, MergedCorpus]
    stages: tuple[StageTime, ...]

    def as_json(self) -> bytes:
        """The bytes of `summary.json`."""
        tree: dict[str, Any] = {
            "job": JOB,
            "gold": {"source": self.gold, "problems": self.problems},
            "files": self.files,
            "samplers": self.samplers,
            "unknown": {"completions": self.unknown, "questions": self.unknown_questions},
            **asdict(self.comparison),
            "corpus": {mode: corpus.as_data() for mode, corpus in self.corpora.items()},
            "stages": [stage.as_data() for stage in self.stages],
        }
        return json.dumps(tree, indent=2, ensure_ascii=False).encode()
