"""What vLLM's engine must do on a GPU and can only be seen there: swaps, memory that comes back, neighbours, speed.

In: a place. Out: figures of one engine, as the sampling stage uses it (`sampling/vllm_engine.py`). On CPUs the engine
is given a process of its own, as it has on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_shapes
from benchmarks.gpu_steps import Note, Place, Skipped, timed, used_gib

PROMPTS, TOKENS = 64, 128
SAME_TEXTS = 0.9
"""Share of greedy texts that a swapped and a fresh engine have in common at least: rounding may part some of them."""
FORM = "Question: {query}\nAnswer:"
AS_ON_GPUS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
"""Variables of an engine in a process of its own."""
V1_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
MEMORY_BACK_GIB = 0.5
"""How much more of a GPU's memory than before may be in use once an engine is closed."""
SAMPLES, LONG = 16, 256
"""Samples of a prompt, and tokens of each, where speed is measured."""


def swap(place: Place, note: Note, *, eager: bool) -> None:
    """One engine takes over a second model and goes back to the first; a fresh engine holds the second one."""
    if not eager and not place.gpus:
        raise Skipped("compilation takes minutes on CPUs")
    from rft_ray.data import base_models

    first, second = (base_models.resolve(f"tiny:{name}") for name in ("tiny-s", "tiny-s-50"))
    before = used_gib(place)
    engine, seconds = timed(lambda: _opened(place, first, enforce_eager=eager))
    note(used_gib_before=before, open_s=seconds, runner=_runner(engine))
    one = _texts(engine)
    swapped, seconds = timed(lambda: engine.swap(second))
    if not swapped:
        raise RuntimeError("the engine did not take over a model of the same layout")
    note(swap_s=seconds)
    two = _texts(engine)
    engine.swap(first)
    same_after_return = _common(one, _texts(engine))
    note(same_after_return=same_after_return, used_gib_open=used_gib(place))
    _, seconds = timed(engine.close)
    closed = used_gib(place)
    note(close_s=seconds, used_gib_closed=closed)
    fresh, seconds = timed(lambda: _opened(place, second, enforce_eager=eager))
    same_as_fresh = _common(two, _texts(fresh))
    note(reopen_s=seconds, same_as_fresh=same_as_fresh)
    fresh.close()
    if one == two:
        raise RuntimeError("both models give the same texts: the swap changed nothing")
    if min(same_as_fresh, same_after_return) < SAME_TEXTS:
        raise RuntimeError(f"a swapped engine writes other texts than a fresh one: less than {SAME_TEXTS:.0%} agree")
    if before is not None and closed is not None and closed > before + MEMORY_BACK_GIB:
        raise RuntimeError(f"a closed engine keeps memory: {before} GiB in use before it, {closed} after")


def beside(place: Place, note: Note) -> None:
    """A second engine beside an open one: the exact exception where it asks for too much, texts where it does not."""
    from rft_ray.data import base_models

    folder = base_models.resolve("tiny:tiny-s")
    before = used_gib(place)
    first = _opened(place, folder, gpu_memory_utilization=0.5)
    note(used_gib_before=before, used_gib_open=used_gib(place))
    too_much = {"gpu_memory_utilization": 0.9} if place.gpus else {"kv_cache_gib": 100_000.0}
    try:
        second, seconds = timed(lambda: _opened(place, folder, **too_much))
    except Exception as failure:
        note(exception=f"{type(failure).__name__}: {failure}", used_gib_after_it=used_gib(place))
    else:
        note(opened_beside_s=seconds, exception="none: it opened")
        second.close()
    second, seconds = timed(lambda: _opened(place, folder, gpu_memory_utilization=0.3))
    note(second_open_s=seconds, used_gib_both=used_gib(place))
    one, two = _texts(first), _texts(second)
    note(same_texts=_common(one, two))
    second.close()
    if _common(one, _texts(first)) < SAME_TEXTS:
        raise RuntimeError("the first engine writes other texts once the second one is closed")
    first.close()
    note(used_gib_closed=used_gib(place))
    if _common(one, two) < SAME_TEXTS:
        raise RuntimeError("two engines of one model, side by side, write different texts")


def speed(place: Place, note: Note, *, sequences: int, eager: bool) -> None:
    """Start and tokens/s of a model of 7B with random weights, which are not read from a disk."""
    from rft_ray.data.tiny.generator import generate
    from rft_ray.plan.sampling_settings import SamplingSettings
    from rft_ray.sampling.in_flight import least_in_flight
    from rft_ray.sampling.tuning_child import Task, measure

    shape = gpu_shapes.SEVEN if place.gpus else gpu_shapes.SMALL
    sequences, tokens = (sequences, LONG) if place.gpus else (sequences // 16, LONG // 16)
    folder = gpu_shapes.folder(place, shape)
    settings = {"dtype": "auto", "max_num_seqs": sequences, "enforce_eager": eager or not place.gpus}
    engine = place.engine(**settings, gpu_memory_utilization=0.9, extra={"load_format": "dummy"})
    problems = generate(3 * sequences // SAMPLES, split="train", seed=3)
    task = Task(
        engine=engine,
        folder=folder,
        settings=SamplingSettings(0.7, 1.0, tokens, SAMPLES, FORM, max_model_len=1024),
        gpu=bool(place.gpus),
        problems=tuple(problems),
        shots=(),
        per_block=math.ceil(2 * sequences / SAMPLES / least_in_flight(engine)),  # twice what runs at once
    )
    note(parameters=shape.parameters, sequences=sequences, prompts=len(problems), tokens_each=tokens)
    measured = measure(task, lambda event: note(progress=event))
    note(
        start_s=round(measured.start_s, 1),
        tokens_per_s=round(measured.tokens_per_s),
        preemptions=measured.preemptions,
        peak_kv=measured.kv_cache,
        at_once=measured.running,
        memory_gib=round(measured.memory_gib, 1),
        mfu=gpu_shapes.mfu(place, 2 * shape.parameters * measured.tokens_per_s),
        progress=None,
    )


def _opened(place: Place, folder: Path, **settings: Any) -> Any:
    from rft_ray.sampling.vllm_engine import VllmEngine

    engine = place.engine(**{"enforce_eager": True, **settings})
    return VllmEngine(engine, folder, max_model_len=None, gpu=bool(place.gpus), seed=0)


def _texts(engine: Any) -> list[str]:
    """Greedy texts of the same prompts."""
    from rft_ray.data.tiny.generator import generate
    from rft_ray.plan.sampling_settings import SamplingSettings
    from rft_ray.sampling.engine import Request

    greedy = SamplingSettings(0.0, 1.0, TOKENS, 1, FORM)
    problems = generate(PROMPTS, split="test", seed=2, steps=(1, 2))
    requests = [Request(problem, FORM.replace("{query}", problem.question), 0, 1) for problem in problems]
    return [sample.text for answer in engine.generate(requests, greedy) for sample in answer.samples]


def _runner(engine: Any) -> str:
    """Which of vLLM's model runners an engine has."""
    return "V2" if engine._engine.vllm_config.use_v2_model_runner else "V1"


def _common(one: Sequence[str], other: Sequence[str]) -> float:
    return round(sum(a == b for a, b in zip(one, other, strict=True)) / len(one), 3)
