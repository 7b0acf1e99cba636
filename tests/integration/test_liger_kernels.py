"""A model with Liger kernels has its own loss and gradients; in Triton's interpreter, as the kernels are for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rft_ray.training.liger import MODEL_TYPES

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not find_spec("liger_kernel"), reason="the package liger-kernel, for GPUs, is not installed"),
]


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_loss_and_gradients_are_the_models_own(kind: str) -> None:
    """In a process of its own, as Triton reads TRITON_INTERPRET when it is imported."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.integration.liger_driver", kind]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for rows, result in json.loads(done.stdout.splitlines()[-1]).items():
        assert result["fused"], f"{rows}: the model kept its logits, so Liger's loss did not run"
        assert result["accumulated_in"] == ["torch.float32"], rows
        assert result["loss"][0] == pytest.approx(result["loss"][1], rel=1e-5), rows
        assert result["apart"] < 1e-5 * result["scale"], rows
