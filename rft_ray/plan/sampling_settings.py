"""The settings of a model's samples: a config -> what decides their distribution, and what of it enters names. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rft_ray.config import Config
from rft_ray.store.names import FIRST_SHOTS


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """What decides the distribution of a model's samples, and how they are cut into shards."""

    temperature: float
    top_p: float
    max_new_tokens: int
    samples_per_block: int
    prompt: str
    """The prompt in its stored form (`data/prompts.py`)."""
    shots: int = 0
    """Worked examples before the question: the first other problems of `shots_from` that have a solution."""
    shots_from: str = ""
    """Fingerprint of the problem set that the worked examples come from."""
    max_model_len: int | None = None
    """Bound of prompt and completion together, in tokens; None: the model's own context."""
    engine: str = "vllm"
    """`vllm`, `scripted`, or `openai` for a model behind an endpoint: the samples of each engine have other names."""
    top_k: int | None = None
    """Draw from so many of the most likely tokens; None: from all."""
    min_p: float = 0.0
    """Draw from the tokens of at least this share of the most likely one's probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and of the text so far are less likely."""
    engine_arguments: str = ""
    """vLLM's arguments that change samples, as canonical JSON (`config/engine_arguments.py`); empty: none."""
    shots_version: int = FIRST_SHOTS
    """1: a problem among the worked examples is shown its own solution, as it was in earlier versions; 2: it is not."""

    def identity(self) -> dict[str, object]:
        """What enters fingerprints: the fields of `WITHOUT_EFFECT` only where they have one, so that old names stay."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in WITHOUT_EFFECT or value != WITHOUT_EFFECT[name]
        }


WITHOUT_EFFECT = {
    "top_k": None,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "engine_arguments": "",
    "shots_version": FIRST_SHOTS,
}
"""Field of SamplingSettings -> the value that leaves samples as they are; samples had names before these fields."""


def settings_of(config: Config, prompt: str, *, endpoint: bool = False) -> SamplingSettings:
    """The settings of the samples for the corpus. `prompt`: in its stored form; `endpoint`: of a model behind one."""
    sampling = config.sampling
    return SamplingSettings(
        sampling.temperature,
        sampling.top_p,
        sampling.max_new_tokens,
        sampling.samples_per_block,
        prompt,
        max_model_len=None if endpoint else sampling.max_model_len,
        engine="openai" if endpoint else sampling.engine,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        engine_arguments="" if endpoint else config.engine.deciding_arguments,
    )
