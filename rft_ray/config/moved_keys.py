"""Keys of the config that have moved to another section; configs that use the old key are still read.

In: the tree of a config (YAML and overrides, or a run's `config.yaml`) before validation. Out: the tree with each value
under its new key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {"engine.kind": "sampling.engine", "engine.max_model_len": "sampling.max_model_len"}
"""Old key -> new key."""


def old_keys(tree: Mapping[str, Any]) -> list[str]:
    """The old keys that a config gives."""
    keys = [key.split(".") for key in MOVED]
    return [f"{section}.{name}" for section, name in keys if name in _section(tree, section)]


def with_new_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with new keys in place of old ones. Raises ValueError where both are given and differ."""
    moved = dict(tree)
    for old in old_keys(tree):
        (old_section, old_name), (section, name) = old.split("."), MOVED[old].split(".")
        values = dict(_section(moved, old_section))
        value = values.pop(old_name)
        there = dict(_section(moved, section))
        if there.setdefault(name, value) != value:
            raise ValueError(f"{old}: {value} and {MOVED[old]}: {there[name]} differ: give {MOVED[old]} only")
        moved |= {old_section: values, section: there}
    return moved


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}
