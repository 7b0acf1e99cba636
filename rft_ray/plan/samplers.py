"""What each model of a config does: whether it learns gold, what samples for it, and how it is asked.

In: a config and its models. Out: the choices that `run_plan.py` makes jobs of. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from rft_ray.config import BaseModelSpec, Config
from rft_ray.data import prompts
from rft_ray.plan.jobs import ModelRef, TrainingJob
from rft_ray.plan.judges import JUDGE


def learns_gold(config: Config, model: BaseModelSpec) -> bool:
    """Whether the model is fine-tuned on the gold solutions: for its samples, or to compare with."""
    return config.sft is not None and model.sample_from in (None, "sft") and not model.is_endpoint


def sampler_of(model: BaseModelSpec, sft: TrainingJob | None, bases: Mapping[str, str]) -> ModelRef:
    """The model that samples: the fine-tuned one, the base, or another source. `bases`: as in `make_plan`."""
    if sft:
        return trained_model(sft)
    if model.sample_from in (None, "base"):
        return ModelRef(model.name, "base", bases[model.name], model.source)
    return ModelRef(model.name, "base", bases[sampler_name(model)], str(model.sample_from))


def sampler_name(model: BaseModelSpec) -> str:
    """The name in `bases` of a model that samples for another one (`sample_from`)."""
    return f"{model.name} samples from"


def sources(config: Config) -> dict[str, str]:
    """The sources of the models whose fingerprints `make_plan` takes as `bases`."""
    judge = {JUDGE: config.grading.judge.source} if config.grading.judge else {}
    of_samplers = {
        sampler_name(model): model.sample_from
        for model in config.models
        if model.sample_from not in (None, "sft", "base")
    }
    return {model.name: model.source for model in config.models} | {k: str(v) for k, v in of_samplers.items()} | judge


def prompt_of(config: Config, model: BaseModelSpec) -> str:
    """The model's prompt in its stored form."""
    return prompts.stored(model.prompt or config.prompt)


def trained_model(job: TrainingJob) -> ModelRef:
    """The model that a training commits."""
    return ModelRef(job.model, job.stage, job.fingerprint)
