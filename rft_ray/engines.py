"""The one seam between sampling and whatever generates text.

`Engine.generate` blocks until its requests are answered and may be called from many threads at once: vLLM
then batches the requests of all callers continuously. An engine holds one model at a time and can go over to
another one (`swap`, `close`), because starting a process, importing vLLM and opening an engine take far longer than
reading weights. `VllmEngine` is the real one; `ScriptedEngine` answers from the gold solutions, deterministically, so
that everything around an engine can be tested in seconds.
"""

from __future__ import annotations

import gc
import hashlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rft_ray import config
from rft_ray.config import engine_script
from rft_ray.data import prompts
from rft_ray.layouts import layout
from rft_ray.plan.jobs import SamplingSettings
from rft_ray.records import Problem

LONGEST_TOKEN = 1024
"""Characters; no vocabulary in use comes near it."""
MEMORY_SIGNS = ("outofmemory", "freememoryondevice", "noavailablememory")
"""What torch and vLLM say when memory is short, without spaces."""


@dataclass(frozen=True, slots=True)
class Request:
    """n samples of one problem, the first of which has index `sample_start`."""

    problem: Problem
    prompt: str
    sample_start: int
    n: int


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled text. finish_reason: `stop` or `length`; token counts exclude the prompt, include EOS."""

    text: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What an engine returns for one request; `samples` is empty where the prompt exceeds the context."""

    prompt_tokens: int
    samples: tuple[Generated, ...]


class EngineDied(RuntimeError):
    """The engine can answer no more, or not be trusted any more; its process must be replaced."""


class Misbehaved(EngineDied):
    """The engine failed on the very requests that it was given, or answered what cannot be an answer to them."""


class Engine(Protocol):
    """Generates samples. `seed` is what its randomness derives from, recorded with every shard."""

    seed: int
    answered: int
    """Requests answered so far: an engine that is at work and does not get on is taken to hang."""

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        """Answers in the order of the requests. Raises EngineDied when the engine is beyond use."""
        ...

    def swap(self, folder: Path | None) -> bool:
        """Go over to another model, its randomness going on; called while nobody generates.

        False: that model needs an engine of its own. After an error this engine may only be closed.
        """
        ...

    def close(self) -> None:
        """Give back all that the engine holds; called while nobody generates, and last."""
        ...


def engine_seed(run_seed: int, incarnation: str) -> int:
    """Seed of one engine, 0 <= seed < 2**31, from the run's seed and a name that no other engine has.

    Two engines of one run, or one engine restarted, must not repeat each other's samples.
    """
    digest = hashlib.sha256(f"engine:{run_seed}:{incarnation}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def open_engine(settings: config.Engine, folder: Path | None, *, gpu: bool, seed: int) -> Engine:
    """The engine that a config asks for. `folder`: a local HF model directory (None for `scripted`)."""
    if settings.kind == "scripted":
        return ScriptedEngine(seed, settings.script)
    if folder is None:
        raise ValueError("the vllm engine needs a model folder")
    return VllmEngine(settings, folder, gpu=gpu, seed=seed)


def check_answers(requests: Sequence[Request], answers: Sequence[Answered], settings: SamplingSettings) -> None:
    """Refuse what no sound engine says: other than n samples, one without a token, one beyond its bound.

    A sound engine's shortest answer is one token, its end. Raises Misbehaved.
    """
    if len(answers) != len(requests):
        raise Misbehaved(f"the engine gave {len(answers)} answers to {len(requests)} requests")
    for request, answer in zip(requests, answers, strict=True):
        said = f"of problem {request.problem.problem_id} the engine gave "
        if answer.samples and len(answer.samples) != request.n:
            raise Misbehaved(f"{said}{len(answer.samples)} samples instead of {request.n}")
        for sample in answer.samples:
            if sample.tokens == 0:
                raise Misbehaved(f"{said}an empty sample, without a single token")
            most = settings.max_new_tokens
            if sample.tokens > most or len(sample.text) > most * LONGEST_TOKEN:
                raise Misbehaved(
                    f"{said}an endless sample: {sample.tokens} tokens, {len(sample.text)} characters, where "
                    f"max_new_tokens is {most}"
                )


def out_of_memory(error: BaseException) -> bool:
    """Whether an engine failed for want of memory, which another process may find."""
    told = f"{type(error).__name__} {error}".lower().replace(" ", "")
    return isinstance(error, MemoryError) or any(sign in told for sign in MEMORY_SIGNS)


class VllmEngine:
    """vLLM in this process, stepped by a thread of its own.

    All requests of all callers are in one scheduler: the next shard's requests fill the batch while the last
    ones of the previous shard finish. Limits: `swap` and `close` have been seen right on CPUs only; on a GPU they take
    the same calls of vLLM. Source: vllm/v1/engine/llm_engine.py, vllm/v1/worker/gpu_model_runner.py (0.29).
    """

    def __init__(self, settings: config.Engine, folder: Path, *, gpu: bool, seed: int) -> None:
        from vllm import EngineArgs, LLMEngine

        self.seed, self.answered = seed, 0
        self._gpu = gpu
        self._layout = layout(folder)
        where = (
            {"gpu_memory_utilization": settings.gpu_memory_utilization}
            if gpu
            else {"kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30)}
        )
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(folder),
                seed=seed,
                dtype=settings.dtype,
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                tensor_parallel_size=settings.tensor_parallel_size,
                enforce_eager=settings.enforce_eager,
                enable_prefix_caching=True,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **where,
            )
        )
        self._tokenizer = self._engine.get_tokenizer()
        self._context_tokens = int(self._engine.model_config.max_model_len)
        self._inbox: queue.SimpleQueue[tuple[list[int], Any, Future[Any]] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="vllm-step", daemon=True)
        self._thread.start()

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        pending = [self._submit(request, settings) for request in requests]
        wait([answer for _, answer in pending if answer is not None])  # all, though one fail: nothing is left running
        return [
            Answered(
                prompt_tokens, () if answer is None else tuple(map(_generated, _in_order(answer.result().outputs)))
            )
            for prompt_tokens, answer in pending
        ]

    def swap(self, folder: Path | None) -> bool:
        if self._failure is not None:
            raise EngineDied(str(self._failure))
        if folder is None or self._layout is None or layout(folder) != self._layout:
            return False
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self._gpu:
            self._engine.collective_rpc(_pack_output_layer)
        if not self._engine.reset_prefix_cache():  # it holds keys and values of the last model
            raise RuntimeError("vLLM did not empty its prefix cache after the weights were swapped")
        return True

    def close(self) -> None:
        """On a GPU vLLM runs in a process of its own, which ends here, and with it what it holds of the device."""
        self._inbox.put(None)
        self._thread.join()
        self._engine.engine_core.shutdown()
        del self._engine
        gc.collect()

    def _submit(self, request: Request, settings: SamplingSettings) -> tuple[int, Future[Any] | None]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        ids = prompts.encode_prompt(self._tokenizer, request.prompt)
        if len(ids) >= self._context_tokens:
            return len(ids), None
        params = SamplingParams(
            n=request.n,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=min(settings.max_new_tokens, self._context_tokens - len(ids)),
            stop=list(prompts.stop_strings(settings.shots)) or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        answer: Future[Any] = Future()
        self._inbox.put((ids, params, answer))
        if self._failure is not None:  # the stepping thread is gone and will read no inbox
            raise EngineDied(str(self._failure))
        return len(ids), answer

    def _serve(self) -> None:
        """Step the engine until it is closed; on a failure, fail every request and stop."""
        waiting: dict[str, Future[Any]] = {}
        counter = 0
        try:
            while True:
                while not waiting or not self._inbox.empty():
                    if (asked := self._inbox.get()) is None:
                        return
                    ids, params, answer = asked
                    counter += 1
                    try:
                        self._engine.add_request(str(counter), {"prompt_token_ids": ids}, params)
                    except ValueError as refusal:  # this request only; the engine lives on
                        answer.set_exception(refusal)
                        continue
                    waiting[str(counter)] = answer
                for output in self._engine.step():
                    if output.finished:
                        self.answered += 1
                        waiting.pop(output.request_id).set_result(output)
        except BaseException as failure:
            self._failure = failure
            died = EngineDied(f"vLLM stopped: {type(failure).__name__}: {failure}")
            while not self._inbox.empty():
                if (asked := self._inbox.get()) is not None:
                    asked[2].set_exception(died)
            for answer in waiting.values():
                answer.set_exception(died)


def _pack_output_layer(worker: Any) -> None:
    """On CPUs vLLM multiplies by a packed copy of the weights, which its `reload_weights` (0.29) makes anew for every
    layer that the files have weights of. An output layer that is tied to the embedding is none of these, and would go
    on with the last model's."""
    for layer in worker.get_model().modules():
        if type(layer).__name__ == "ParallelLMHead":
            layer.quant_method.process_weights_after_loading(layer)


def _in_order(outputs: Sequence[Any]) -> list[Any]:
    return sorted(outputs, key=lambda output: output.index)


def _generated(output: Any) -> Generated:
    reason = "stop" if output.finish_reason == "stop" else "length"
    return Generated(output.text, reason, len(output.token_ids))


class ScriptedEngine:
    """Answers from the gold solution: right, differently right, wrong, answerless, malformed or cut, by turns.

    What it says of sample i of a problem depends on the two alone, so that shards are equal byte for byte however
    often and wherever they are made. `script`: how it misbehaves (`engine_faults.py`).
    """

    def __init__(self, seed: int, script: str = "") -> None:
        self.seed, self.answered = seed, 0
        self._faults = engine_script.parse(script)
        engine_script.opening(self._faults)

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        return [self._answer(request, settings) for request in requests]

    def _answer(self, request: Request, settings: SamplingSettings) -> Answered:
        spoiled = engine_script.answering(self._faults, request.problem.question)
        samples = [
            self._sample(request.problem, request.sample_start + i, settings.temperature) for i in range(request.n)
        ]
        samples = [replace(one, tokens=min(one.tokens, settings.max_new_tokens)) for one in samples]
        if spoiled == "empty":
            samples = [Generated("", "stop", 0) for _ in samples]
        elif spoiled == "few":
            samples = samples[1:]
        elif spoiled == "endless":
            samples[0] = Generated("1+1=2\n" * 10**6, "length", 4 * 10**6)
        self.answered += 1
        return Answered(len(request.prompt.split()), tuple(samples))

    def swap(self, folder: Path | None) -> bool:
        return True  # it holds no model

    def close(self) -> None:
        pass

    @staticmethod
    def _sample(problem: Problem, index: int, temperature: float) -> Generated:
        turn = int(hashlib.sha256(f"{problem.problem_id}:{index}:{temperature}".encode()).hexdigest()[:8], 16) % 8
        gold = problem.solution
        text, reason = {
            0: (f"Let us see: 1+1 = <<1+1=2>>2.\n{gold}", "stop"),
            1: (f"Let us see: 2*1 = <<2*1=2>>2.\n{gold}", "stop"),
            2: (gold.rpartition("#### ")[0] + "#### 987654321", "stop"),
            3: (gold.rpartition("#### ")[0], "stop"),
            4: (f"1+1 = <<1+1=3>>3\n{gold}", "stop"),
            5: (gold[: len(gold) // 2], "length"),
        }.get(turn, (gold, "stop"))
        return Generated(text, reason, len(text.split()) + (reason == "stop"))
