"""vLLM with its engine in a process of its own, as on GPUs: the error of a failed start has the root cause."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rft_ray.data.tiny import model_dir
from tests.integration.test_sampling import damaged

ROOT = Path(__file__).parents[2]
OPEN = """
import sys
from pathlib import Path
from rft_ray import config
from rft_ray.sampling.vllm_engine import VllmEngine

if __name__ == "__main__":
    engine = config.Engine(kv_cache_gib=0.1)
    try:
        VllmEngine(engine, Path(sys.argv[1]), max_model_len=256, gpu=False, seed=1)
    except Exception as error:
        print(type(error).__name__, str(error))
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_a_model_that_the_engines_process_refuses_is_reported_with_its_reason(tmp_path: Path) -> None:
    """vLLM's own message says only that the cause is above."""
    pytest.importorskip("vllm")
    model = damaged(model_dir("tiny-s"), tmp_path / "model")
    script = tmp_path / "open.py"
    script.write_text(OPEN)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script), str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr
    [message] = done.stdout.splitlines()[-1:]
    assert "Engine core initialization failed" in message
    assert "model.norm.weight" in message.partition("Its process wrote: ")[2]
