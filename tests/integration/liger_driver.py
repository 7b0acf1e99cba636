"""Loss and gradients of a random model with Liger kernels and without, in Triton's interpreter on a CPU.

    TRITON_INTERPRET=1 python -m tests.integration.liger_driver TYPE

Out: for padded and packed rows, and packed ones of which only the learned tokens have logits, a line of JSON: both
losses, the largest gradient, and how far it is from the plain model's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy
import torch
import triton.language
from triton.runtime import interpreter

from rft_ray.training import liger
from rft_ray.training.batches import IGNORED, padded
from rft_ray.training.packed_attention import BY_EXAMPLE, packed
from tests.unit.training.test_packed_attention import examples, model_of


def complete_the_interpreter() -> None:
    """What Triton's compiler does and its interpreter does not: scalars as float32, and the GPU's `rsqrt`."""
    from liger_kernel.ops import rms_norm

    plain = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        if not isinstance(argument, float):
            return plain(argument)
        handle = interpreter.TensorHandle(numpy.array([argument], numpy.float32), triton.language.float32)
        return triton.language.tensor(handle, triton.language.float32)

    interpreter._implicit_cvt = converted
    rms_norm.rsqrt = lambda value: triton.language.math.rsqrt(value)


def main(kind: str) -> None:
    from liger_kernel.transformers import functional
    from transformers.integrations.liger import apply_liger_kernel

    complete_the_interpreter()
    liger.prepare()
    step = examples(9, 17, 4)
    row = packed(step, 0, BY_EXAMPLE)
    labels = [label for example in step for label in (IGNORED, *example.labels[1:])]
    learned = [place for place, label in enumerate(labels) if label != IGNORED]
    targets = torch.tensor([[labels[place] for place in learned]])
    kept = {"logits_to_keep": torch.tensor([place - 1 for place in learned]), "labels": targets}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "padded": ("sdpa", {name: torch.tensor(value) for name, value in padded(step, 0).items()}),
        "packed": (BY_EXAMPLE, row),
        "packed, learned tokens only": (BY_EXAMPLE, {**row, **kept, "shift_labels": targets}),
    }
    count = len(learned)
    plain = {case: trained(model_of(kind, attention), inputs, count) for case, (attention, inputs) in cases.items()}
    accumulated: list[str] = []
    fused = functional.liger_fused_linear_cross_entropy

    def watched(*given: Any, accum_dtype: Any = None, **more: Any) -> Any:
        accumulated.append(str(accum_dtype))
        return fused(*given, accum_dtype=accum_dtype, **more)

    functional.liger_fused_linear_cross_entropy = watched
    results = {}
    for name, (attention, inputs) in cases.items():
        accumulated.clear()
        model = model_of(kind, attention)
        apply_liger_kernel(model, None)
        loss, gradients, logits = trained(model, inputs, count)
        expected_loss, expected, _ = plain[name]
        apart = max(float((gradients[weight] - value).abs().max()) for weight, value in expected.items())
        results[name] = {
            "loss": [loss, expected_loss],
            "apart": apart,
            "scale": max(float(value.abs().max()) for value in expected.values()),
            "fused": logits is None,
            "accumulated_in": accumulated[:],
        }
    print(json.dumps(results))


def trained(model: Any, inputs: dict[str, Any], learned: int) -> tuple[float, dict[str, Any], Any]:
    """Loss, gradients and logits of one pass."""
    output = model(**inputs, num_items_in_batch=torch.tensor(learned))
    output.loss.backward()
    return output.loss.item(), {name: weight.grad for name, weight in model.named_parameters()}, output.logits


if __name__ == "__main__":
    main(sys.argv[1])
