"""What each model of a config does: whether it learns gold, what samples for it, and how it is asked.

In: a config and its models. Out: the choices that `run_plan.py` makes jobs of. Pure, but for `reasoning_openers`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from rft_ray.config import ENDPOINT, BaseModelSpec, Config
from rft_ray.data import prompts
from rft_ray.plan.jobs import EvaluationJob, ModelRef, TrainingJob
from rft_ray.plan.judges import JUDGE


def learns_gold(config: Config, model: BaseModelSpec) -> bool:
    """Whether the model is fine-tuned on the gold solutions: for its samples, or to compare with."""
    return config.sft is not None and model.sample_from in (None, "sft") and not model.is_endpoint


def sampler_of(model: BaseModelSpec, sft: TrainingJob | None, bases: Mapping[str, str]) -> ModelRef:
    """The model that samples: the fine-tuned one, the base, or another source. `bases`: as in `make_plan`."""
    if sft:
        return trained_model(sft)
    if model.other_sampler:
        return ModelRef(model.name, "base", bases[sampler_name(model)], model.other_sampler)
    return ModelRef(model.name, "base", bases[model.name], model.source)


def sampler_name(model: BaseModelSpec) -> str:
    """The name in `bases` of a model that samples for another one (`sample_from`)."""
    return f"{model.name} samples from"


def sources(config: Config) -> dict[str, str]:
    """The sources of the models whose fingerprints `make_plan` takes as `bases`."""
    judge = {JUDGE: config.grading.judge.source} if config.grading.judge else {}
    others = {sampler_name(model): model.other_sampler for model in config.models if model.other_sampler}
    return {model.name: model.source for model in config.models} | others | judge


def reasoning_openers(config: Config, opens: Callable[[str, str, Sequence[str]], bool]) -> frozenset[str]:
    """The names, as in `sources`, of models whose chat template opens reasoning after their prompt.

    `opens`: source, prompt in its stored form, and tags -> whether it does (`base_models.opens_reasoning`). It is not
    asked of a model behind an endpoint, whose answers have the opening tag where they have reasoning.
    """
    asked = {}
    for model in config.models:
        asked[model.name] = (model.source, prompt_of(config, model))
        if model.other_sampler:
            asked[sampler_name(model)] = (model.other_sampler, prompt_of(config, model))
    chats = {pair for pair in asked.values() if prompts.is_chat(pair[1]) and not pair[0].startswith(ENDPOINT)}
    opening = {pair for pair in sorted(chats) if opens(*pair, config.corpus.reasoning_tags)}
    return frozenset(name for name, pair in asked.items() if pair in opening)


def opens_reasoning(model: BaseModelSpec, openers: Collection[str]) -> bool:
    """Whether the chat template of what samples for the model opens reasoning. `openers`: as in `make_plan`."""
    return (sampler_name(model) if model.other_sampler else model.name) in openers


def with_openers(job: EvaluationJob, openers: Collection[str]) -> EvaluationJob:
    """The evaluation, graded as that of a model whose chat template opens reasoning where its name is in `openers`."""
    opens = job.model.name in openers
    samples = job.samples and replace(job.samples, opens_reasoning=opens)
    return replace(job, greedy=replace(job.greedy, opens_reasoning=opens), samples=samples)


def prompt_of(config: Config, model: BaseModelSpec) -> str:
    """The model's prompt in its stored form."""
    return prompts.stored(model.prompt or config.prompt)


def trained_model(job: TrainingJob) -> ModelRef:
    """The model that a training commits."""
    return ModelRef(job.model, job.stage, job.fingerprint)
