"""The engine settings of a config as arguments of vLLM, the same for sampling, evaluation and serving.

In: the section `engine`, and whether the engine has a GPU. Out: keyword arguments of vLLM's EngineArgs, without model,
seed and context, which are the caller's.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.config.engine_arguments import CPU_BLOCK_SIZE, check_on_cpus
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling import loading

BATCHED_TOKENS = 2048
"""vLLM's own tokens of a step; it opens no engine with more sequences than these."""


CONTEXT_BYTES = 2**29
"""What an engine takes of a GPU beside the share of its memory that vLLM is told: mostly CUDA's context."""


def engine_arguments(engine: config.Engine, *, gpu: bool, share: float = 1.0, gpu_bytes: int = 0) -> dict[str, Any]:
    """The arguments of one engine. `share`: the part of a GPU that it has, which bounds its share of the memory.

    `gpu_bytes`: memory of the GPU, for an engine that shares it: many contexts take more than the others leave.

    On CPUs there is no speculative decoding: vLLM 0.29 divides the logits of drafted tokens by memory that nothing has
    written there (`expand_kernel` of vllm/utils/cpu_triton_utils.py fills a copy), and samples are noise.

    Raises ConfigError for a cache that CPUs have not.
    """
    if not gpu:
        check_on_cpus(engine.kv_cache_dtype, engine.extra)
    sequences = engine.max_num_seqs
    chosen = {
        "quantization": engine.quantization,
        "kv_cache_dtype": None if engine.kv_cache_dtype == "auto" else engine.kv_cache_dtype,
        "max_num_batched_tokens": engine.max_num_batched_tokens or (sequences if sequences > BATCHED_TOKENS else None),
        "speculative_config": dict(engine.speculative) if gpu and engine.speculative else None,
        "pipeline_parallel_size": engine.pipeline_parallel_size if engine.pipeline_parallel_size > 1 else None,
    }
    beside = CONTEXT_BYTES / gpu_bytes if gpu_bytes else 0.0
    memory = (
        {"gpu_memory_utilization": min(engine.gpu_memory_utilization * share, share - beside)}
        if gpu
        else {"kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30), "block_size": CPU_BLOCK_SIZE}
    )
    return {
        "dtype": engine.dtype,
        "max_num_seqs": sequences,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enforce_eager": not gpu if engine.enforce_eager == "auto" else engine.enforce_eager,
        "enable_prefix_caching": True,
        **memory,
        **{name: value for name, value in chosen.items() if value is not None},
        **engine.extra,
    }


READY_S = 24 * 3600
"""How long vLLM waits for its own process to load a model, instead of ten minutes: ours ends one that stands still."""
FLASHINFER_SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"


def process_environment(engine: config.Engine, *, gpu: bool) -> dict[str, str]:
    """The environment variables of an engine's process, with a bounded number of threads where it has no GPU."""
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # where `child_errors` reads why an engine's process has ended
        "VLLM_ENGINE_READY_TIMEOUT_S": str(READY_S),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpu:
        variables |= token_kernels()
    else:
        variables |= {
            "OMP_NUM_THREADS": str(engine.threads_per_actor),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return variables


def token_kernels() -> dict[str, str]:
    """The variable by which vLLM draws tokens by kernels of its own on GPUs, unless it is set otherwise here.

    vLLM would take FlashInfer's for top_k and top_p. They are compiled when an engine opens, by nvcc and ninja, and
    where these are missing or too old no engine opens, whatever its settings
    (https://github.com/vllm-project/vllm/issues/49497). The distribution of samples is the same.
    """
    return {FLASHINFER_SAMPLER: os.environ.get(FLASHINFER_SAMPLER, "0")}


def sampling_arguments(settings: SamplingSettings) -> dict[str, Any]:
    """What decides the distribution of samples, as arguments of vLLM's SamplingParams. There 0 is no top_k."""
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k or 0,
        "min_p": settings.min_p,
        "repetition_penalty": settings.repetition_penalty,
    }


TURN_S = 0.2
"""Time between two looks at whether this engine may open or close."""


@contextmanager
def alone_on_gpu(share: float) -> Iterator[None]:
    """Inside the block no other engine opens or closes on this process's GPU, where engines have a share of one.

    vLLM measures how much of the GPU's memory it takes while it opens; the measure of one engine would count what
    another takes or gives back at the same time. Ray names the GPU in CUDA_VISIBLE_DEVICES. Limits: processes of one
    node and user, and not those that are killed.
    """
    if share >= 1:
        yield
        return
    gpus = "".join(c if c.isalnum() else "-" for c in os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    path = Path(tempfile.gettempdir(), f"rft-gpu-{os.getuid()}-{gpus}.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(file):
            loading.waits()
            time.sleep(TURN_S)
        yield
    finally:
        os.close(file)  # which releases the lock, as the end of the process does


def _locked(file: int) -> bool:
    """Whether this process has the lock of a file now."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
