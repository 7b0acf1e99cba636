"""vLLM with its engine in a process of its own, as on GPUs: how a failed start and a killed engine are reported."""

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
import os
import sys
import threading
from pathlib import Path

import psutil

from rft_ray import config
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling.engine import Request
from rft_ray.sampling.vllm_engine import VllmEngine

FORM = "Question: {query}\\nAnswer:"


def kill_engine():
    for child in psutil.Process().children(recursive=True):
        if "EngineCore" in child.name():
            child.kill()


if __name__ == "__main__":
    engine = config.Engine(kv_cache_gib=0.1)
    try:
        opened = VllmEngine(engine, Path(sys.argv[1]), max_model_len=256, gpu=False, seed=1)
        requests = [Request(Problem(str(n), str(n), "", ""), FORM.format(query=n), 0, 8) for n in range(256)]
        threading.Timer(1, kill_engine).start()
        opened.generate(requests, SamplingSettings(0.7, 1.0, 200, 8, FORM))
    except Exception as error:
        print(type(error).__name__, str(error), flush=True)
    os._exit(0)
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def reported(model: Path, folder: Path) -> str:
    """What is printed where an engine of this model is opened, samples, and is killed meanwhile."""
    pytest.importorskip("vllm")
    script = folder / "open.py"
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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_model_that_the_engines_process_refuses_is_reported_with_its_reason(tmp_path: Path) -> None:
    """vLLM's own message says only that the cause is above."""
    message = reported(damaged(model_dir("tiny-s"), tmp_path / "model"), tmp_path)
    assert "Engine core initialization failed" in message
    assert "model.norm.weight" in message.partition("Its process wrote: ")[2]


def test_an_engine_that_is_killed_ends_what_waits_for_it(tmp_path: Path) -> None:
    """vLLM itself would wait for ever."""
    message = reported(model_dir("tiny-s"), tmp_path)
    assert message.startswith("EngineDied vLLM stopped: EngineDeadError")
    assert message.endswith("it was killed or has crashed")
