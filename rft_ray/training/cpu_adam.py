"""DeepSpeed's Adam on CPUs: compiled once on each node, by a child process, and loaded by the node's workers.

In: a C++ compiler, and `TORCH_EXTENSIONS_DIR` for what is compiled (without it, PyTorch's own place for such files).
Out: the operator's file, or one line that says why there is none. What is compiled stays: each kind of CPU and each
version of PyTorch and DeepSpeed has its own folder, so that nodes may share a home.

DeepSpeed itself would compile it in every worker, under a lock that is a mere file: that of a killed worker stays, and
whoever comes later waits for it without end. Here the lock ends with its process, and the wait is bounded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rft_ray.config.errors import RunError

COMPILE_S = 900.0
"""Most seconds for compiling; a quiet machine takes one minute."""
MODULE = "rft_ray.training.cpu_adam"
ROOT = Path(__file__).parents[2]
DONE = "compiled: "
"""What the last line of a child's output begins with where it has compiled the operator."""


class CompileError(RunError, RuntimeError):
    """This node has no compiled operator. The message is the reason, in one line."""


def compiled(limit_s: float = COMPILE_S) -> Path:
    """The operator's file, compiled and tried where this node has none yet. Raises CompileError."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise CompileError(f"there is no C++ compiler {compiler}")
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",  # the operator is the same on a node with GPUs, which the child leaves alone
        "CUDA_VISIBLE_DEVICES": "",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # ninja
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # with its compilers
        child.communicate()
        raise CompileError(f"it was not compiled within {limit_s:.0f} s") from None
    lines = output.splitlines()
    if child.returncode or not lines or not lines[-1].startswith(DONE):
        raise CompileError(_cause(lines, child.returncode))
    return Path(lines[-1].removeprefix(DONE))


def _cause(lines: list[str], status: int) -> str:
    """Why a child failed: what the compiler calls an error, or else its last line."""
    if status < 0:
        return f"it ended with signal {-status}"
    errors = [line for line in lines if re.search(r"\berror:", line)] or lines[-1:]
    return " ".join(errors[0].split())[:300] if status and errors else f"it ended with exit code {status}"


def folder() -> Path:
    """Where this node's operator is compiled."""
    import deepspeed
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    cpu = import_module("cpuinfo").get_cpu_info()
    parts = [sys.version, torch.__version__, deepspeed.__version__, deepspeed.__file__]
    parts += [cpu.get("brand_raw", ""), *cpu.get("flags", ())]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / f"rft-ray-{name}"


def compile_here(at: Path) -> Path:
    """Compile the operator in the folder `at` and try it; the child's work. Only one process at a time is in it.

    The file named `lock` is that of PyTorch's compilation: whoever left it has ended, or this would still wait.
    """
    from deepspeed.ops.op_builder import CPUAdamBuilder

    at.mkdir(parents=True, exist_ok=True)
    with (at / "in-use").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (at / CPUAdamBuilder.NAME / "lock").unlink(missing_ok=True)
        os.environ["TORCH_EXTENSIONS_DIR"] = str(at)
        operator = CPUAdamBuilder().load()
    _try_out()
    return Path(operator.__file__)


def _try_out() -> None:
    """Raises ValueError where two steps of the operator are not those of PyTorch's AdamW."""
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    start, gradient = torch.linspace(-1, 1, 1001), torch.linspace(2, -1, 1001)
    weights: list[Any] = []
    for adam in (torch.optim.AdamW, DeepSpeedCPUAdam):
        weights.append(torch.nn.Parameter(start.clone()))
        optimizer = adam([weights[-1]], lr=1e-2, weight_decay=0.1)
        for _ in range(2):
            weights[-1].grad = gradient.clone()
            optimizer.step()
    if not torch.allclose(weights[0], weights[1], atol=1e-5):
        raise ValueError("error: its steps are not those of PyTorch's AdamW on this CPU")


if __name__ == "__main__":
    print(f"\n{DONE}{compile_here(folder())}", flush=True)
