"""vLLM behind the `Engine` protocol: n samples of a prompt in one request, many prompts in flight."""

from __future__ import annotations

import gc
import itertools
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rft_ray import config
from rft_ray.data import prompts
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.runtime.collector import heavy_imports
from rft_ray.sampling import vllm_arguments, vllm_private
from rft_ray.sampling.child_errors import child_errors, later_cause
from rft_ray.sampling.engine import BROKEN_OFF, Answered, EngineDied, Generated, Misbehaved, Request
from rft_ray.sampling.engine_load import EngineLoads
from rft_ray.sampling.weight_layout import layout


@dataclass(frozen=True, slots=True)
class Submission:
    """One request on its way to the stepping thread."""

    ids: list[int]
    """Token ids of the prompt."""
    params: Any
    """vLLM's SamplingParams."""
    answer: Future[Any] = field(default_factory=Future)
    """vLLM's RequestOutput."""


class VllmEngine:
    """A vLLM engine in this process, stepped by its own thread.

    One scheduler holds the requests of all callers: the next shard's requests fill the batch while the last ones of the
    previous shard finish. The requests of one call enter it together, so that the shard that came first is answered
    first, not all shards at once. Limits: `swap` and `close` have been verified on CPUs only; on a GPU they make the
    same calls of vLLM. Source: vllm/v1/engine/llm_engine.py, vllm/v1/worker/gpu_model_runner.py (0.29).
    """

    def __init__(
        self,
        settings: config.Engine,
        folder: Path,
        *,
        max_model_len: int | None,
        gpu: bool,
        seed: int,
        loads: EngineLoads | None = None,
    ) -> None:
        """`loads`: gets the statistics of every step; None: they are off."""
        with heavy_imports():
            from vllm import EngineArgs, LLMEngine

        self.seed, self.progress = seed, 0
        self._gpu = gpu
        # a swap has been compared with a fresh engine for models and caches as they are in the files only
        self._layout = None if settings.deciding_arguments else layout(folder)
        self._share = min(settings.gpus, 1.0) if gpu else 1.0
        gpu_bytes = vllm_private.gpu_bytes() if self._share < 1 else 0
        arguments = EngineArgs(
            model=str(folder),
            seed=seed,
            max_model_len=max_model_len,
            disable_log_stats=loads is None,
            use_tqdm_on_load=False,
            **vllm_arguments.engine_arguments(settings, gpu=gpu, share=self._share, gpu_bytes=gpu_bytes),
        )
        with vllm_arguments.alone_on_gpu(self._share), child_errors() as self._written:
            self._engine = LLMEngine.from_engine_args(arguments)
        vllm_private.notice_death(self._engine)
        if loads:
            vllm_private.report_load(self._engine, loads.record)
        self._tokenizer = self._engine.get_tokenizer()
        self._ends_of: dict[str, list[int]] = {}
        self._context_tokens = int(self._engine.model_config.max_model_len)
        self._inbox: queue.SimpleQueue[list[Submission] | None] = queue.SimpleQueue()
        self._failure: EngineDied | None = None
        self._thread = threading.Thread(target=self._step_until_closed, name="vllm-step", daemon=True)
        self._thread.start()

    def generate(self, requests: Sequence[Request], settings: SamplingSettings) -> list[Answered]:
        prepared = [self._prepare(request, settings) for request in requests]
        sent = [submission for _, submission in prepared if submission is not None]
        self._inbox.put(sent)
        if self._failure is not None:  # the stepping thread has ended and no longer reads the inbox
            raise EngineDied(str(self._failure))
        wait([submission.answer for submission in sent])  # all, even if one fails: none is left running
        return [
            Answered(
                prompt_tokens,
                tuple(map(_generated, _in_order(submission.answer.result().outputs))) if submission else (),
            )
            for prompt_tokens, submission in prepared
        ]

    def swap(self, folder: Path | None) -> bool:
        if self._failure is not None:
            raise EngineDied(str(self._failure))
        if folder is None or self._layout is None or layout(folder) != self._layout:
            return False
        vllm_private.reload_weights(self._engine, folder, gpu=self._gpu)
        if not self._engine.reset_prefix_cache():  # it holds keys and values of the previous model
            raise RuntimeError("vLLM did not empty its prefix cache after the weights were swapped")
        return True

    def close(self) -> None:
        """Shut vLLM down. On a GPU it runs in its own process, which ends here and frees the device's memory."""
        self._inbox.put(None)
        self._thread.join()
        with vllm_arguments.alone_on_gpu(self._share):
            vllm_private.shut_down(self._engine)
        del self._engine
        gc.collect()

    def _ends(self, form: str) -> list[int] | None:
        """Tokens that end a sample of a chat, apart from those of vLLM itself; None for other prompts."""
        if not prompts.is_chat(form):
            return None
        if form not in self._ends_of:  # it renders a chat: once per prompt, not once per request
            self._ends_of[form] = prompts.ends_of_response(self._tokenizer, form)
        return self._ends_of[form]

    def _prepare(self, request: Request, settings: SamplingSettings) -> tuple[int, Submission | None]:
        """The prompt's tokens, and what to submit; None where the prompt fills the context."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        ids = prompts.encode_prompt(self._tokenizer, request.prompt)
        if len(ids) >= self._context_tokens:
            return len(ids), None
        params = SamplingParams(
            n=request.n,
            **vllm_arguments.sampling_arguments(settings),
            max_tokens=min(settings.max_new_tokens, self._context_tokens - len(ids)),
            stop=list(prompts.stop_strings(settings.prompt, settings.shots)) or None,
            stop_token_ids=self._ends(settings.prompt),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return len(ids), Submission(ids, params)

    def _step_until_closed(self) -> None:
        """Step the engine until it is closed; after a failure, fail every request and return."""
        waiting: dict[str, Future[Any]] = {}
        names = map(str, itertools.count(1))
        try:
            while True:
                while not waiting or not self._inbox.empty():
                    if (submitted := self._inbox.get()) is None:
                        return
                    named = {next(names): submission for submission in submitted}
                    waiting |= {name: submission.answer for name, submission in named.items()}
                    for name, submission in named.items():
                        try:
                            self._engine.add_request(name, {"prompt_token_ids": submission.ids}, submission.params)
                        except ValueError as refusal:  # this request only: the engine still works
                            waiting.pop(name).set_exception(refusal)
                outputs = self._engine.step()
                self.progress += 1
                for output in outputs:
                    if output.finished:
                        waiting.pop(output.request_id).set_result(output)
        except BaseException as failure:
            cause = later_cause(self._written) if type(failure).__name__ == vllm_private.DEATH else ""
            self._failure = died = EngineDied(f"vLLM stopped: {type(failure).__name__}: {failure}{cause}")
            while not self._inbox.empty():
                for submission in self._inbox.get() or ():
                    submission.answer.set_exception(died)
            for answer in waiting.values():
                answer.set_exception(died)


def _in_order(outputs: Sequence[Any]) -> list[Any]:
    return sorted(outputs, key=lambda output: output.index)


def _generated(output: Any) -> Generated:
    if output.finish_reason in BROKEN_OFF:
        raise Misbehaved(f"vLLM broke a sample off (finish_reason {output.finish_reason})")
    reason = "stop" if output.finish_reason == "stop" else "length"
    return Generated(output.text, reason, len(output.token_ids))
