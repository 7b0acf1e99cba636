"""A process that opens one vLLM engine, samples prompts with it, and reports its speed: a trial of `rft-ray tune`.

    python -m rft_ray.sampling.tuning_child FD < task.json

In: a `Task` as a line of JSON on standard input, which stays open. Out: JSON lines on the file descriptor FD:
`{"opened": s}`, `{"answered": n, "of": n, "tokens": n, "seconds": s}` now and then, and `{"measured": {…}}` or
`{"failed": reason}`. It ends itself, and the engine's processes with it, when standard input closes: then its parent
has ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rft_ray import config
from rft_ray.data import prompts
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.records import Problem
from rft_ray.sampling.engine import Answered, Request
from rft_ray.sampling.engine_load import EngineLoads
from rft_ray.sampling.in_flight import in_flight
from rft_ray.sampling.tuning import Measured

REPORT_S = 5.0
"""Seconds between two reports of progress at least."""
WARM_UP = 2
"""Prompts that are sampled before the clock starts."""


@dataclass(frozen=True, slots=True)
class Task:
    """What an engine is to sample, and how it is opened."""

    engine: config.Engine
    folder: Path
    """A local Hugging Face model directory."""
    settings: SamplingSettings
    gpu: bool
    problems: tuple[Problem, ...]
    shots: tuple[Problem, ...]
    """What worked examples are chosen from (`prompts.shots_of`)."""
    per_block: int
    """Problems of a shard; as many shards are sampled at once as in a run with one engine."""


TASK = TypeAdapter(Task)
"""A task as JSON, and back."""


def measure(task: Task, tell: Callable[[dict[str, Any]], object]) -> Measured:
    """Open an engine and sample all prompts once. Raises whatever vLLM raises, and ValueError where no prompt fits."""
    from rft_ray.sampling.vllm_engine import VllmEngine

    began = time.monotonic()
    loads = EngineLoads(lambda load: None)
    settings = task.settings
    engine = VllmEngine(
        task.engine, task.folder, max_model_len=settings.max_model_len, gpu=task.gpu, seed=0, loads=loads
    )
    form, shots, version = settings.prompt, settings.shots, settings.shots_version
    asked = ((problem, prompts.build_few_shot(form, problem, task.shots, shots, version)) for problem in task.problems)
    requests = [Request(problem, prompt, 0, settings.samples_per_block) for problem, prompt in asked]
    engine.generate(requests[:WARM_UP], settings)
    loads.take()
    start_s = time.monotonic() - began
    tell({"opened": start_s})
    blocks = [requests[at : at + task.per_block] for at in range(0, len(requests), task.per_block)]
    began = reported = time.monotonic()
    answered = tokens = 0
    sizes = [sum(request.n for request in block) for block in blocks]
    with ThreadPoolExecutor(in_flight(task.engine, task.engine.max_num_seqs, sizes, 1).most) as pool:
        for block in as_completed([pool.submit(engine.generate, block, settings) for block in blocks]):
            answered += len(block.result())
            tokens += sum(map(tokens_of, block.result()))
            if answered < len(requests) and time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                tell({"answered": answered, "of": len(requests), "tokens": tokens, "seconds": reported - began})
    seconds = time.monotonic() - began
    load = loads.take()
    if not tokens or load is None:
        raise ValueError("no prompt fits the model's context: raise sampling.max_model_len, or use shorter prompts")
    return Measured(tokens, seconds, start_s, load.preemptions, load.kv_cache, load.running, memory_gib(task.gpu))


def tokens_of(answer: Answered) -> int:
    return sum(sample.tokens for sample in answer.samples)


def memory_gib(gpu: bool) -> float:
    """GiB in use of the fullest GPU that this process sees, by everything on it; without a GPU this process's peak."""
    if not gpu:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    import torch

    return max(torch.cuda.device_memory_used(device) for device in range(torch.cuda.device_count())) / 2**30


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    report = os.fdopen(int(sys.argv[1]), "w", buffering=1)

    def tell(event: dict[str, Any]) -> None:
        report.write(json.dumps(event) + "\n")

    task = TASK.validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        tell({"measured": asdict(measure(task, tell))})
    except BaseException as failure:
        traceback.print_exc()
        tell({"failed": " ".join(f"{type(failure).__name__}: {failure}".split())[:400]})
    report.flush()
    os._exit(0)  # the parent ends the engine's processes, without waiting for vLLM to close


if __name__ == "__main__":
    main()
