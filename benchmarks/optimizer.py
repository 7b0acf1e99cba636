"""The step of AdamW on CPUs, as an optimizer whose state is in the host's memory takes it: seconds, as ratios.

    python -m benchmarks.optimizer [--weights 20e6] [--threads N] [--rounds 7]

Input: random float32 weights and gradients, the threads of one worker. Output: the time of a step of PyTorch's AdamW,
of the same in one kernel (fused), and of DeepSpeed's CPU Adam, which is compiled first where it is not yet; and how far
their weights are apart afterwards. They step by turns; ratios are of one round, and their median is printed.

Seconds are wall-clock on an idle machine; `--cpu-seconds` counts those of all of the process's threads on the cores
instead, so that other work on the machine counts little. Limits: one worker; a state that fits its memory.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from rft_ray.training import cpu_adam, transformers_private

PLAIN, FUSED, DEEPSPEED = "PyTorch, plain", "PyTorch, fused", "DeepSpeed"
SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def optimizers(weights: int) -> dict[str, tuple[Any, Any]]:
    """Name -> weights and their optimizer; all start alike."""
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    makers: dict[str, Callable[..., Any]] = {
        PLAIN: lambda ours: torch.optim.AdamW(ours, foreach=False, fused=False, **SETTINGS),
        FUSED: lambda ours: torch.optim.AdamW(ours, fused=True, **SETTINGS),
        DEEPSPEED: lambda ours: DeepSpeedCPUAdam(ours, **SETTINGS),
    }
    start = torch.randn(weights, generator=torch.Generator().manual_seed(0))
    made = {name: torch.nn.Parameter(start.clone()) for name in makers}
    return {name: (made[name], make([made[name]])) for name, make in makers.items()}


def measure(weights: int, rounds: int, clock: Callable[[], float]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each step, without the first one, which makes the state; and the distance to PyTorch's weights."""
    import torch

    contenders = optimizers(weights)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for step in range(rounds + 1):
        gradient = torch.randn(weights, generator=torch.Generator().manual_seed(step + 1))
        for name, (parameter, optimizer) in contenders.items():
            parameter.grad = gradient
            began = clock()
            optimizer.step()
            seconds[name].append(clock() - began)
    plain = contenders[PLAIN][0].detach()
    apart = {name: float((parameter.detach() - plain).abs().max()) for name, (parameter, _) in contenders.items()}
    return {name: times[1:] for name, times in seconds.items()}, apart


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, default=20e6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-seconds", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    operator = cpu_adam.compiled()
    print(f"DeepSpeed's operator was there, or was compiled, after {time.monotonic() - began:.0f} s")
    torch.set_num_threads(given.threads)
    transformers_private.load_cpu_adam(operator)
    clock = time.process_time if given.cpu_seconds else time.monotonic
    seconds, apart = measure(int(given.weights), given.rounds, clock)
    print(f"{given.weights:.3g} weights, {given.threads} threads, {given.rounds} rounds, {platform.machine()}")
    print(f"torch {version('torch')}, deepspeed {version('deepspeed')}")
    print(f"{'':16} {'s/step':>8} {'plain / it':>11} {'fused / it':>11} {'apart':>9}")
    for name, times in seconds.items():
        ratios = [
            statistics.median(other / own for other, own in zip(seconds[against], times, strict=True))
            for against in (PLAIN, FUSED)
        ]
        print(f"{name:16} {statistics.median(times):8.4f} {ratios[0]:11.2f} {ratios[1]:11.2f} {apart[name]:9.1e}")


if __name__ == "__main__":
    main()
