"""What is recorded of the device that sampled a shard."""

from __future__ import annotations

from rft_ray.config import Engine
from rft_ray.sampling.sampler import environment


def test_scripted_engines_on_logical_gpus_record_them() -> None:
    """So that the summary of a rehearsal without GPUs has their hours and their price."""
    assert environment(Engine(), "scripted", gpu=False) == {"engine": "scripted"}
    two = Engine(tensor_parallel_size=2)
    assert float(environment(two, "scripted", gpu=True)["gpus"]) == 2
