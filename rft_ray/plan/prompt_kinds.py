"""Which prompt each model gets where the config leaves it open: `prompt.kind: auto` -> `template` or `chat`.

In: a config, and whether each base model has a chat template. Out: the config without `auto`, which the run saves: a
plan that is made from it again does not need the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rft_ray.config import BaseModelSpec, Config, ConfigError, Prompt


def resolved(config: Config, has_chat_template: Callable[[str], bool]) -> Config:
    """The config with a prompt of kind `template` or `chat` for each model. Returns it as it is where none is open.

    Raises ConfigError where settings of a chat are given and a model has no chat template.
    `has_chat_template`: source of a base model -> whether its tokenizer has a chat template. A model behind an endpoint
    has one.
    """
    config = _with_judge(config, has_chat_template)
    if not any(prompt.kind == "auto" for prompt in _prompts(config)):
        return config
    chosen = {model.name: _chosen(config, model, has_chat_template) for model in config.models}
    alike = {prompt.model_dump_json(): prompt for prompt in chosen.values()}
    shared = next(iter(alike.values())) if len(alike) == 1 else None
    run = shared or config.prompt.model_copy(update={"kind": "template", "system": "", "chat_kwargs": {}})
    models = tuple(
        model.model_copy(update={"prompt": None if chosen[model.name] == run else chosen[model.name]})
        for model in config.models
    )
    return config.model_copy(update={"prompt": run, "models": models})


def _prompts(config: Config) -> Iterable[Prompt]:
    return (config.prompt, *(model.prompt for model in config.models if model.prompt))


def _with_judge(config: Config, has_chat_template: Callable[[str], bool]) -> Config:
    """The config with a resolved prompt of the judge."""
    judge = config.grading.judge
    if judge is None or judge.prompt.kind != "auto":
        return config
    chat = judge.is_endpoint or has_chat_template(judge.source)
    prompt = _of_kind(judge.prompt, f"{judge.source} (grading.judge)", chat=chat)
    asked = judge.model_copy(update={"prompt": prompt})
    return config.model_copy(update={"grading": config.grading.model_copy(update={"judge": asked})})


def _chosen(config: Config, model: BaseModelSpec, has_chat_template: Callable[[str], bool]) -> Prompt:
    prompt = model.prompt or config.prompt
    if prompt.kind != "auto":
        return prompt
    chat = model.is_endpoint or has_chat_template(model.source)
    return _of_kind(prompt, f"{model.source} ({model.name})", chat=chat)


def _of_kind(prompt: Prompt, model: str, *, chat: bool) -> Prompt:
    """The prompt as a chat or as a template. Raises ConfigError where a template cannot have its settings."""
    if not chat and (prompt.system or prompt.chat_kwargs):
        raise ConfigError(
            f"prompt.system and prompt.chat_kwargs belong to a chat, and {model} has no chat "
            "template: write the system text into prompt.template, or choose a model with a chat template"
        )
    return prompt.model_copy(update={"kind": "chat" if chat else "template"})
