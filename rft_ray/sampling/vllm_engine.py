"""vLLM behind the `Engine` protocol: n samples of a prompt in one request, many prompts in flight."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.data import prompts
from rft_ray.plan.jobs import SamplingSettings
from rft_ray.sampling.engine import Answered, EngineDied, Generated, Request
from rft_ray.sampling.weight_layout import layout


class VllmEngine:
    """vLLM in this process, stepped by a thread of its own.

    All requests of all callers are in one scheduler: the next shard's requests fill the batch while the last
    ones of the previous shard finish. Limits: `swap` and `close` have been seen right on CPUs only; on a GPU they take
    the same calls of vLLM. Source: vllm/v1/engine/llm_engine.py, vllm/v1/worker/gpu_model_runner.py (0.29).
    """

    def __init__(
        self, settings: config.Engine, folder: Path, *, max_model_len: int | None, gpu: bool, seed: int
    ) -> None:
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
                max_model_len=max_model_len,
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
