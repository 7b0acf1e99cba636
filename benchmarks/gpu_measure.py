"""The steps of `make gpu-smoke ARGS=--measure`: what a quarter of an hour on a GPU should say of sizes that matter.

Engines first, with tiny models (do swaps and neighbours work, with each of vLLM's model runners?) and in the shape of a
7B with random weights (how fast?), then the training of a 1.5B. Each step is one process; `--only` takes some of them.
"""

from __future__ import annotations

import platform
from functools import partial

from benchmarks.gpu_engines import AS_ON_GPUS, V1_RUNNER, beside, speed, swap
from benchmarks.gpu_steps import Note, Place, Step, driver_version
from benchmarks.gpu_training import Variant, train


def versions(place: Place, note: Note) -> None:
    """Packages, driver and cards; a sum on each GPU."""
    import deepspeed
    import ray
    import torch
    import vllm

    packages = {module.__name__: str(module.__version__) for module in (torch, vllm, ray, deepspeed)}
    note(python=platform.python_version(), **packages)
    if not place.gpus:
        return
    cards = [torch.cuda.get_device_properties(at) for at in range(torch.cuda.device_count())]
    if not cards:
        raise RuntimeError("torch sees no GPU: are these the packages of requirements/gpu.lock?")
    note(cuda=torch.version.cuda, cards=[f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards])
    note(driver=driver_version())
    for at in range(len(cards)):
        torch.ones(8, device=f"cuda:{at}").sum().item()


TRAININGS = {
    "zero1": Variant(zero=1),
    "zero2": Variant(),
    "zero3": Variant(zero=3),
    "micro16": Variant(micro=16),
    "padded": Variant(packing=False),
    "recomputed": Variant(checkpointing=True),
    "micro16-recomputed": Variant(micro=16, checkpointing=True),
    "float32-sums": Variant(accumulation="float32"),
}
"""Each against `zero2`: micro-batch 4, packed rows, activations kept, gradients summed in bfloat16."""
MEASUREMENTS = {
    "versions": Step(versions, 25),
    "swap-eager": Step(partial(swap, eager=True), 60),
    "swap-graphs": Step(partial(swap, eager=False), 90),
    "swap-eager-v1": Step(partial(swap, eager=True), 60, V1_RUNNER),
    "swap-graphs-v1": Step(partial(swap, eager=False), 90, V1_RUNNER),
    "beside": Step(beside, 75, AS_ON_GPUS),
    "7b-512": Step(partial(speed, sequences=512, eager=False), 150, AS_ON_GPUS),
    "7b-512-eager": Step(partial(speed, sequences=512, eager=True), 100, AS_ON_GPUS),
    "7b-1024": Step(partial(speed, sequences=1024, eager=False), 130, AS_ON_GPUS),
    **{f"train-{name}": Step(partial(train, variant=variant), 50) for name, variant in TRAININGS.items()},
}
"""Of twenty minutes for all. The seconds are guesses until a GPU was measured."""
