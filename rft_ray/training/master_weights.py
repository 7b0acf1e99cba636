"""The optimizer's float32 weights at the start of a training, taken from the base as it is stored.

In: a model in bfloat16 that DeepSpeed has taken over, and the base's safetensors. Out: float32 weights without the
rounding to bfloat16, by which a base in float16 (Llama's) loses three of its eleven bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rft_ray.training.results import TrainingError


def take_from_base(model: Any, base: Path, rank: int, world_size: int) -> None:
    """Set this rank's part of every float32 weight that is trained. Raises TrainingError where the base lacks one.

    Tensors are read one at a time. Each rank reads all of them, since ZeRO divides most.
    """
    from contextlib import ExitStack

    from safetensors import safe_open

    with ExitStack() as files:
        where: dict[str, Any] = {}
        for path in sorted(base.glob("*.safetensors")):
            file: Any = files.enter_context(safe_open(path, "pt"))
            where |= dict.fromkeys(file.keys(), file)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if name not in where:
                raise TrainingError(
                    f"master_weights: base needs the tensor {name} of {base}, which has none of this name: set "
                    "master_weights: rounded"
                )
            _set(parameter, where[name].get_tensor(name).float(), rank, world_size)


def _set(parameter: Any, value: Any, rank: int, world_size: int) -> None:
    """Set the float32 weight of one parameter to `value`, or this rank's part of it."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_full_fp32_param, safe_set_local_fp32_param
    from torch.nn.functional import pad

    if not hasattr(parameter, "ds_id"):  # ZeRO 1 and 2
        safe_set_full_fp32_param(parameter, value)
        return
    part = safe_get_local_fp32_param(parameter).numel()  # the last rank's is filled up with zeros
    filled = pad(value.flatten(), (0, part * world_size - value.numel()))
    safe_set_local_fp32_param(parameter, filled.narrow(0, part * rank, part))
