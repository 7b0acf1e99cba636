"""Which prompt each model gets where the config leaves it open: `prompt.kind: auto` -> `template` or `chat`.

In: a config, and whether each base model has a chat template. Out: the config without `auto`, which the run saves: a
plan that is made from it again does not need the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rft_ray.config import BaseModelSpec, Config, Prompt


def resolved(config: Config, has_chat_template: Callable[[str], bool]) -> Config:
    """The config with a prompt of kind `template` or `chat` for each model. Returns it as it is where none is open.

    `has_chat_template`: source of a base model -> whether its tokenizer has a chat template. A model behind an
    endpoint has one.
    """
    if not any(prompt.kind == "auto" for prompt in _prompts(config)):
        return config
    chosen = {model.name: _chosen(config, model, has_chat_template) for model in config.models}
    alike = {prompt.model_dump_json(): prompt for prompt in chosen.values()}
    shared = next(iter(alike.values())) if len(alike) == 1 else None
    run = shared or config.prompt.model_copy(update={"kind": "template"})
    models = tuple(
        model.model_copy(update={"prompt": None if chosen[model.name] == run else chosen[model.name]})
        for model in config.models
    )
    return config.model_copy(update={"prompt": run, "models": models})


def _prompts(config: Config) -> Iterable[Prompt]:
    return (config.prompt, *(model.prompt for model in config.models if model.prompt))


def _chosen(config: Config, model: BaseModelSpec, has_chat_template: Callable[[str], bool]) -> Prompt:
    prompt = model.prompt or config.prompt
    if prompt.kind != "auto":
        return prompt
    chat = model.is_endpoint or has_chat_template(model.source)
    return prompt.model_copy(update={"kind": "chat" if chat else "template"})
