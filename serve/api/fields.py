"""Rules for the fields of requests on all routes: null is absent, and some of OpenAI's fields have no effect here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from serve.api.errors import Refusal

NO_EFFECT = ("user", "store", "metadata", "service_tier", "prompt_cache_key")
"""Accepted on all routes, and ignored: they label, store or schedule requests at OpenAI."""
IGNORED = "accepted, without effect"


def without_nulls(value: Any) -> Any:
    """A value without the null fields of its objects, at any depth."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def without_idle_seed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without a `seed` that changes nothing: of greedy sampling, or of an echo without new tokens.

    Raises Refusal where such a seed is not an integer.
    """
    idle = given.get("temperature") == 0 or (bool(given.get("echo")) and given.get("max_tokens") == 0)
    if "seed" not in given or not idle:
        return dict(given)
    if not isinstance(given["seed"], int) or isinstance(given["seed"], bool):
        raise Refusal(400, "seed must be an integer", param="seed")
    return {name: value for name, value in given.items() if name != "seed"}


def named_field(message: str, fields: Iterable[str]) -> str | None:
    """The field of a request that an error message names first."""
    known = set(fields)
    return next((word for word in re.findall(r"\w+", message) if word in known), None)
