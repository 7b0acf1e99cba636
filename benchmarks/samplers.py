"""The ways to sample that `benchmarks/sampling.py` compares, each run once in a process of its own.

    python -m benchmarks.samplers NAME '{"problems": [50, 250], …}' RESULT

In: a name and a `Task` as JSON. Out: a `Turn` as JSON in the file RESULT. Every one of them samples the same problems
with the same model, prompt and settings, first the small part of the problems, then the large one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

TEMPLATE = "Question: {query}\nAnswer:"
TEMPERATURE, MAX_NEW_TOKENS, N = 0.7, 256, 16
WARM_UP = 5
"""Problems of the first start of `ray.data.llm`, which does not count."""


@dataclass(frozen=True)
class Model:
    """What is sampled from, the same for all. Example: Model("tiny:tiny-m", "float32", 0.5)"""

    source: str
    dtype: str
    kv_cache_gib: float


@dataclass(frozen=True)
class Task:
    """What one process samples, and the settings that are tuned.

    Example: Task(Model("tiny:tiny-m", "float32", 0.5), (50, 250), 50, {"max_num_seqs": 512, "threads": 1})
    """

    model: Model
    problems: tuple[int, int]
    """Problems of the small and of the large part."""
    per_shard: int
    """Problems of a shard of the stage; the others' first output is for as many problems."""
    settings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part: tokens sampled, seconds, and CPU seconds of the process and all of its children.

    Example: Part(254582, 19.4, 21.0)
    """

    tokens: int
    seconds: float
    cpu_s: float


@dataclass(frozen=True)
class Turn:
    """What one process measured. The two parts differ in nothing but the number of problems."""

    first_s: float
    """From the call, before vLLM is imported for it, to the first output of use: one shard's problems, or a row."""
    small: Part
    large: Part

    @property
    def rate(self) -> float:
        """Tokens a second: the slope between the two parts."""
        return (self.large.tokens - self.small.tokens) / (self.large.seconds - self.small.seconds)

    @property
    def cpu_rate(self) -> float:
        """Tokens a CPU second of everything that the process started: the slope between the two parts."""
        return (self.large.tokens - self.small.tokens) / (self.large.cpu_s - self.small.cpu_s)


def problems_of(task: Task) -> list[Any]:
    """The problems of the small part and of the large one, all different."""
    from rft_ray.data.tiny.generator import generate

    return list(generate(sum(task.problems), split="train"))


def texts_of(task: Task) -> tuple[list[str], list[str]]:
    """The prompts of both parts."""
    from rft_ray.data.prompts import render

    texts = [render(TEMPLATE, problem.question) for problem in problems_of(task)]
    return texts[: task.problems[0]], texts[task.problems[0] :]


@contextmanager
def metered(*, ending: bool = False) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the CPU seconds, since the block began, of this process and all that it started.

    `ending`: whether processes end meanwhile. What an ended one has used is not to be had, so they are looked at once a
    second then.
    """
    used: dict[int, float] = {}
    lock, over = threading.Lock(), threading.Event()

    def look() -> float:
        me = psutil.Process()
        with lock:
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.Error):  # it has just ended
                    used[process.pid] = sum(process.cpu_times()[:2])
            return sum(used.values())

    def watch() -> None:
        while not over.wait(1.0):
            look()

    before = look()
    thread = threading.Thread(target=watch, daemon=True)
    if ending:
        thread.start()
    try:
        yield lambda: look() - before
    finally:
        over.set()


def timed(work: Callable[[Sequence[str]], int], texts: Sequence[str]) -> Part:
    """`work`: samples the texts and returns the tokens sampled."""
    with metered() as cpu_s:
        began = time.perf_counter()
        tokens = work(texts)
        return Part(tokens, time.perf_counter() - began, cpu_s())


def vllm(task: Task) -> Turn:
    """`LLM.generate`, all prompts of a part in one call."""
    os.environ |= engine_env(task)
    began = time.perf_counter()
    from vllm import LLM, SamplingParams

    from rft_ray.data.base_models import resolve

    llm = LLM(model=str(resolve(task.model.source)), seed=0, **engine_kwargs(task))
    params = SamplingParams(n=N, temperature=TEMPERATURE, max_tokens=MAX_NEW_TOKENS)

    def generate(texts: Sequence[str]) -> int:
        answers = llm.generate(list(texts), params, use_tqdm=False)
        return sum(len(sample.token_ids) for answer in answers for sample in answer.outputs)

    small, large = texts_of(task)
    generate(small[: task.per_shard])
    first_s = time.perf_counter() - began
    return Turn(first_s, timed(generate, small), timed(generate, large))


def engine_env(task: Task) -> dict[str, str]:
    """Environment of vLLM; only a setting `own_process` gives its engine a process of its own."""
    return {
        "OMP_NUM_THREADS": str(task.settings["threads"]),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(task.settings.get("own_process", 0)),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }


def engine_kwargs(task: Task) -> dict[str, Any]:
    block = {"block_size": task.settings["block_size"]} if "block_size" in task.settings else {}
    return {
        **block,
        "max_num_seqs": task.settings["max_num_seqs"],
        "enforce_eager": True,
        "kv_cache_memory_bytes": int(task.model.kv_cache_gib * 2**30),
        "dtype": task.model.dtype,
        "disable_log_stats": True,
    }


def stage(task: Task) -> Turn:
    """`rft_ray.sampling.stage.sample` on a Ray of its own, with one engine or several, each part a job.

    Seconds of a part: from the first request to an engine until the last shard is committed. Starts are in `first_s`.
    """
    import ray

    from rft_ray.runtime.ray_cluster import start_ray
    from rft_ray.sampling import stage as _  # noqa: F401 - what a driver has imported before it calls

    start_ray()
    try:
        small = _job(task, 0, task.problems[0])[1]
        first_s, large = _job(task, *task.problems)
    finally:
        ray.shutdown()
    return Turn(first_s, small, large)


def _job(task: Task, start: int, count: int) -> tuple[float, Part]:
    """Seconds until the first shard of a job is committed, and the whole job, in a store of its own."""
    from rft_ray.config import Engine
    from rft_ray.data.base_models import fingerprint
    from rft_ray.data.problems import ProblemSet, commit_problems
    from rft_ray.plan.jobs import ModelRef, SamplingJob
    from rft_ray.plan.sampling_settings import SamplingSettings
    from rft_ray.sampling.stage import sample
    from rft_ray.store import open_store
    from rft_ray.store.shards import shard_metadata

    chosen = tuple(problems_of(task)[start : start + count])
    problems = ProblemSet(chosen, count, f"{start:016x}")
    settings = SamplingSettings(TEMPERATURE, 1.0, MAX_NEW_TOKENS, N, TEMPLATE)
    model = ModelRef("sampled", "base", fingerprint(task.model.source), task.model.source)
    job = SamplingJob(model, problems.fingerprint, count, task.per_shard, settings, N, 0)
    engine = Engine(
        min_actors=task.settings["actors"],
        max_actors=task.settings["actors"],
        threads_per_actor=task.settings["threads"],
        max_num_seqs=task.settings["max_num_seqs"],
        kv_cache_gib=task.model.kv_cache_gib,
        dtype=task.model.dtype,
    )
    with tempfile.TemporaryDirectory() as folder, metered(ending=True) as cpu_s:
        store = open_store(folder)
        commit_problems(store, problems)
        called = time.time()
        sample([job], store, engine, run_seed=0)
        spent = cpu_s()
        metadata = list(shard_metadata(store, job.shards()))
        committed = sorted(path.stat().st_ctime for path in Path(folder, "completions").rglob("*.parquet"))
    tokens = sum(json.loads(shard["counts"])["tokens"] for shard in metadata)
    began = min(float(shard["ended_unix"]) - float(shard["seconds"]) for shard in metadata)
    return committed[0] - called, Part(tokens, committed[-1] - began, spent)


def ray_data_llm(task: Task) -> Turn:
    """`ray.data.llm`, which answers a prompt with one sample: each prompt is there N times.

    Seconds of a part include its start, which the slope takes out. The first start of a process takes some 6 s longer
    than the others, which would make the slope too steep: it is made before, for a few problems.
    """
    from rft_ray.runtime.ray_private import WORKER_NICENESS

    os.environ |= engine_env(task) | {WORKER_NICENESS: "0"}  # as the stage's
    import ray

    ray.init(num_cpus=8, num_gpus=1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    small, large = texts_of(task)
    try:
        _rows_of(task, small[:WARM_UP], time.perf_counter())
        first_s, part = _rows_of(task, small, time.perf_counter())
        return Turn(first_s, part, _rows_of(task, large, time.perf_counter())[1])
    finally:
        ray.shutdown()


def _rows_of(task: Task, texts: Sequence[str], began: float) -> tuple[float, Part]:
    """Seconds until the first row, and the whole part, of a new processor."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from rft_ray.data.base_models import resolve

    params = {"temperature": TEMPERATURE, "max_tokens": MAX_NEW_TOKENS}
    config = vLLMEngineProcessorConfig(
        model_source=str(resolve(task.model.source)),
        engine_kwargs=engine_kwargs(task),
        batch_size=task.settings["batch_size"],
        max_concurrent_batches=task.settings["batches"],
        runtime_env={"env_vars": engine_env(task)},
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {"prompt": row["text"], "sampling_params": params},
        postprocess=lambda row: {"tokens": row["num_generated_tokens"]},
    )
    rows = [{"text": text} for text in texts for _ in range(N)]
    blocks = max(1, len(rows) // task.settings["batch_size"])
    first, tokens = 0.0, 0
    with metered(ending=True) as cpu_s:
        for row in processor(ray.data.from_items(rows, override_num_blocks=blocks)).iter_rows():
            first = first or time.perf_counter() - began
            tokens += row["tokens"]
        return first, Part(tokens, time.perf_counter() - began, cpu_s())


def hugging_face(task: Task) -> Turn:
    """`generate` of Transformers over batches of prompts, padded on the left; tokens up to each sample's EOS count.

    A batch has N sequences a prompt, so that one of one prompt pads nothing. With the setting `passes` it has one
    sequence a prompt, and all prompts are gone through so many times.
    """
    import torch

    torch.set_num_threads(task.settings["threads"])
    began = time.perf_counter()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rft_ray.data.base_models import resolve

    folder = resolve(task.model.source)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, task.model.dtype))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    eos, size = model.generation_config.eos_token_id, task.settings["batch_size"]
    passes = task.settings.get("passes")

    def generate(texts: Sequence[str]) -> int:
        tokens = 0
        for start in [*range(0, len(texts), size)] * (passes or 1):
            batch = tokenizer(list(texts[start : start + size]), padding=True, return_tensors="pt")
            with torch.inference_mode():
                answers = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    do_sample=True,
                    temperature=TEMPERATURE,
                    top_k=0,
                    max_new_tokens=MAX_NEW_TOKENS,
                    num_return_sequences=1 if passes else N,
                    pad_token_id=tokenizer.pad_token_id,
                )[:, batch["input_ids"].shape[1] :]
            ended = (answers == eos).int().cumsum(1)
            tokens += int((ended - (answers == eos).int() == 0).sum())
        return tokens

    small, large = texts_of(task)
    generate(small[:size])
    first_s = time.perf_counter() - began
    return Turn(first_s, timed(generate, small), timed(generate, large))


SAMPLERS: dict[str, Callable[[Task], Turn]] = {
    "stage": stage,
    "vllm": vllm,
    "ray.data.llm": ray_data_llm,
    "transformers, paper's loop": hugging_face,
    "transformers, padded": hugging_face,
    "transformers, best": hugging_face,
}


def main() -> None:
    name, data, result = sys.argv[1:]
    read = json.loads(data)
    problems = (read["problems"][0], read["problems"][1])
    task = Task(Model(**read["model"]), problems, read["per_shard"], read["settings"])
    Path(result).write_text(json.dumps(asdict(SAMPLERS[name](task))))


if __name__ == "__main__":
    main()
