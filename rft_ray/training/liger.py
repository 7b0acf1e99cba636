"""Liger kernels: Triton's RMSNorm, rotary embedding and MLP, and a cross-entropy that never holds all logits.

In: `training.liger` and a model's config. Out: whether a training uses them, the same on every rank. transformers puts
them into the model (`TrainingArguments.use_liger_kernel`); `prepare` makes the loss sum the output layer's gradient in
float32. They compute what the model's own code does, up to rounding.

Checked against liger-kernel 0.8.5. Limits: the types of models in MODEL_TYPES. Tests run the kernels in Triton's
interpreter on CPUs, never on a GPU.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rft_ray.training.agreement import together
from rft_ray.training.results import TrainingError
from rft_ray.training.trainer import Group

PACKAGE = "liger_kernel"
MODEL_TYPES = ("llama", "qwen2")
"""The types of models whose loss and gradients a test has compared, with the kernels and without."""


def choose(group: Group, model_type: str) -> bool:
    """Whether a training of a model of this type uses the kernels. Raises TrainingError where `on` cannot be.

    Every rank must call this: all nodes need the package.
    """
    setting = group.settings.liger
    if setting == "off":
        return False
    found = together(group, "liger-kernel was not found", lambda: why_not(model_type, gpu=group.gpu))
    reason = next(filter(None, found), "")
    if reason and setting == "on":
        raise TrainingError(f"training.liger=on: {reason}: set it to auto or off")
    return not reason


def why_not(model_type: str, *, gpu: bool) -> str:
    """Why this process cannot use the kernels; empty where it can."""
    if not gpu:
        return "the kernels need a GPU"
    if model_type not in MODEL_TYPES:
        return f"the kernels are not tested for models of type {model_type!r}"
    return "" if find_spec(PACKAGE) else "the package liger-kernel is not installed"


def prepare() -> None:
    """Make Liger's loss sum the output layer's gradient in float32, not in the weights' bfloat16 chunk by chunk.

    A model with a large vocabulary has a hundred chunks. Liger's models call `fixed_fused_linear_cross_entropy` by
    its name in `liger_kernel.transformers.model.loss_utils`, and have no argument that reaches it alone.
    """
    import torch

    loss_utils: Any = import_module(f"{PACKAGE}.transformers.model.loss_utils")
    plain = loss_utils.fixed_fused_linear_cross_entropy
    if not isinstance(plain, partial):
        loss_utils.fixed_fused_linear_cross_entropy = partial(plain, accum_dtype=torch.float32)
