"""The licence of a base model, as its own card or GGUF file names it.

In: a source as `base_models.resolve` takes it. Out: the identifier, and the licence and notice files to pass on.
Limits: only what the model says of itself; nothing is guessed.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from rft_ray.data import base_models
from rft_ray.store import StoreError
from rft_ray.store.models.folder import ModelError

CARD = "README.md"


def licence_of(source: str) -> tuple[str, list[Path]]:
    """The licence, empty where the model names none or can no longer be read, and its licence files."""
    try:
        files = base_models.documents(source)
    except (ModelError, StoreError):
        return "", []
    named = ""
    for path in files:
        if path.name == CARD:
            named = card_licence(path.read_text("utf-8", "replace"))
        elif path.suffix == ".gguf":
            named = _gguf_licence(path)
    return named, [path for path in files if path.name != CARD and path.suffix != ".gguf"]


def card_licence(card: str) -> str:
    """The licence in the head of a model card; empty where it has none."""
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return ""
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return ""
    named = head.get("license") if isinstance(head, dict) else None
    return named if isinstance(named, str) else ""


def _gguf_licence(path: Path) -> str:
    from gguf import GGUFReader

    try:
        named = GGUFReader(path).get_field("general.license")
    except ValueError:
        return ""
    return str(named.contents()) if named else ""
