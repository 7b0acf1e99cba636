"""Models behind OpenAI-compatible endpoints (teachers): where and how one is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rft_ray.config.section import NOT_A_NAME, VARIABLE, Place, Section

ENDPOINT = "openai:"
"""A source with this prefix is a model behind an OpenAI-compatible endpoint: it can sample, and cannot be trained."""


class TokenPrice(Section):
    """The price of tokens, in any currency; 0 for both: not known, so no cost is shown."""

    prompt: float = Field(0.0, ge=0)
    """Price of a million prompt tokens."""
    completion: float = Field(0.0, ge=0)
    """Price of a million completion tokens."""


class Endpoint(Section):
    """Where and how a model with the source `openai:<model>` is asked; for other sources it has no effect."""

    base_url: Place = "https://api.openai.com/v1"
    """Address of an OpenAI-compatible API, without `/chat/completions`."""
    server: Literal["openai", "vllm"] = "openai"
    """`vllm`: the server takes `top_k`, `min_p` and `repetition_penalty` too, as vLLM's and SGLang's do. With `openai`
    a config that sets one of them for the samples of this model is refused."""
    key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable with the API key, set where the samplers run; null: no key."""
    max_concurrency: int = Field(16, ge=1, le=10_000)
    """Requests in progress at once."""
    token_budget: int | None = Field(None, ge=1)
    """Sampling stops when the run's samples of this model have used so many tokens, of prompts and completions; shards
    that are started are finished. null: no bound."""
    timeout_seconds: float = Field(600, gt=0)
    """How long one request may take; must be less than `engine.stall_seconds`, as `retry_seconds`."""
    retry_seconds: float = Field(300, ge=0)
    """How long the endpoint may be busy, failing or out of reach before sampling from it stops."""
    price_per_million_tokens: TokenPrice = TokenPrice()

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not VARIABLE.fullmatch(name):
            raise ValueError(f"{NOT_A_NAME}: write the variable's name, and put the key into the environment")
        return name


def check_patience(name: str, endpoint: Endpoint, stall_seconds: float) -> None:
    """Raises ValueError where a sampler that waits for an endpoint would be taken to hang. `name`: whose it is."""
    if max(endpoint.timeout_seconds, endpoint.retry_seconds) >= stall_seconds:
        raise ValueError(
            f"{name}: its endpoint's timeout_seconds and retry_seconds must be less than "
            f"engine.stall_seconds={stall_seconds:g}, after which the sampler is taken to hang"
        )
