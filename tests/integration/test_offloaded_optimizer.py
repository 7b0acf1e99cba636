"""DeepSpeed's Adam for CPUs, compiled here: its steps and its checkpoints are as good as PyTorch's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.training import cpu_adam
from rft_ray.training.cpu_adam import compiled
from rft_ray.training.trainer import CPU_ADAM, FUSED

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = """
import ctypes, sys, torch
from rft_ray.training import transformers_private

def random(size, seed):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))

torch.set_num_threads(3)
transformers_private.load_cpu_adam(sys.argv[1])
print(ctypes.CDLL(sys.argv[1]).omp_get_max_threads())
from deepspeed.ops.adam import DeepSpeedCPUAdam

settings = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
sizes, models, optimizers = (1, 7, 4099), [], []
for adam in (torch.optim.AdamW, DeepSpeedCPUAdam):
    weights = [torch.nn.Parameter(random(size, size)) for size in sizes]
    models.append(weights)
    optimizers.append(adam([{"params": weights[:1], "weight_decay": 0.0}, {"params": weights[1:]}], **settings))
for step in range(300):
    for weights, optimizer in zip(models, optimizers):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 300)
        for size, weight in zip(sizes, weights):
            weight.grad = random(size, 1000 * step + size)
        optimizer.step()
print(max(float((a - b).detach().abs().max()) for a, b in zip(*models)))
print(max(float((weight - random(size, size)).detach().abs().max()) for size, weight in zip(sizes, models[0])))
"""
"""Prints the operator's threads, how far both models are apart after 300 steps, and how far they have come."""


@pytest.fixture(scope="module")
def operator() -> Path:
    """The compiled operator, although a compilation that was killed has left its lock."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs a C++ compiler")
    lock = cpu_adam.folder() / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    file = compiled()
    assert not lock.exists()
    return file


def test_its_steps_are_those_of_pytorchs_adamw_on_as_many_threads(operator: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STEPS, str(operator)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    threads, apart, moved = done.stdout.splitlines()[-3:]
    assert threads == "3", "Ray sets OMP_NUM_THREADS to 1"
    assert float(apart) < 1e-5
    assert float(moved) > 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("offload")
    torch.manual_seed(0)
    shape = {"hidden_size": 36, "intermediate_size": 75, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=67, max_position_embeddings=64, **shape)).save_pretrained(made / "base")
    return made


def losses(
    folder: Path, stage: int, optimizer: str, start: Path | None = None, leave: Path | None = None
) -> list[float]:
    """Losses of a training whose optimizer's state is offloaded; of one that is not, where `optimizer` is empty."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(folder), str(port), str(stage), optimizer, str(start or ""), str(leave or "")]
    command = [sys.executable, "-m", "tests.integration.offload_driver", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("stage", [2, 3])
def test_an_offloaded_training_has_the_losses_of_one_that_is_not(operator: Path, folder: Path, stage: int) -> None:
    plain = losses(folder, stage, "")
    assert plain[-1] < plain[0]
    assert losses(folder, stage, FUSED) == pytest.approx(plain, rel=1e-5)
    assert losses(folder, stage, CPU_ADAM) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("first", "then"), [(CPU_ADAM, CPU_ADAM), (CPU_ADAM, FUSED), (FUSED, CPU_ADAM)])
def test_a_training_goes_on_with_either_optimizer(
    operator: Path, folder: Path, tmp_path: Path, stage: int, first: str, then: str
) -> None:
    whole = losses(folder, stage, first, leave=tmp_path / "left")
    assert losses(folder, stage, then, start=tmp_path / "left")[-4:] == pytest.approx(whole[-4:], rel=1e-5)
