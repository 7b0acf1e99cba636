"""Which files of a folder or repository belong to a model, by their names, and in what form its weights are.

In: file names. Out: the form, and the chosen names. Pure. A folder with safetensors of a whole model is read as that,
whatever else it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

from rft_ray.store.models.folder import is_model_file

ADAPTER_CONFIG = "adapter_config.json"
PICKLES = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")
_ADAPTER = (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
_WEIGHTS = ("*.safetensors", "*.bin")


class Form(StrEnum):
    """How the weights of a model lie there."""

    SAFETENSORS = "safetensors"
    PICKLED = "pickled"
    """`pytorch_model*.bin`."""
    ADAPTER = "adapter"
    """A PEFT adapter, whose base is another model."""


def form_of(names: Iterable[str]) -> Form:
    """The form of a model with these files. A folder without any weights counts as `SAFETENSORS`."""
    there = set(names)
    if any(name.endswith(".safetensors") and is_model_file(name) and name not in _ADAPTER for name in there):
        return Form.SAFETENSORS
    if ADAPTER_CONFIG in there:
        return Form.ADAPTER
    return Form.PICKLED if any(_matches(name, PICKLES) for name in there) else Form.SAFETENSORS


def choose(names: Sequence[str]) -> list[str]:
    """Those of the names that belong to the model, in order."""
    extra = {Form.SAFETENSORS: (), Form.PICKLED: PICKLES, Form.ADAPTER: _ADAPTER}[form_of(names)]
    return [name for name in names if is_model_file(name) or _matches(name, extra)]


def is_weights(name: str) -> bool:
    """Whether a file holds weights, and so can be too large for a machine that only plans."""
    return _matches(name, _WEIGHTS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
