"""One model behind ray.serve.llm: a trained model of a run -> a Serve deployment that holds its vLLM engine.

The replica itself fetches the model to its node's disk, so that the node that builds the application needs no weights.
A base model is asked with the chat template of a model that was trained from it. Adapters are merged when training
ends, so a LoRA-trained model is one like the others here.
Sources: ray/llm/_internal/serve/core/server/llm_server.py and engines/vllm/vllm_models.py (Ray 2.60).
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from transformers import AutoTokenizer
from vllm.v1.engine.exceptions import EngineDeadError

from rft_ray import config
from rft_ray.data import prompts
from rft_ray.data.base_models import resolve
from rft_ray.store import Store, open_store
from rft_ray.store.models.committed import committed_model, fetch_model
from serve.api.schemas import Event, Refused, SolveRequest
from serve.replicas.liveness import SURVIVOR_S
from serve.run_models import Entry, Resources
from serve.runner import DRAIN_S
from serve.solving.events import Piece, Pieces, solve_events

T = TypeVar("T")

AT_ONCE = 2
"""The first messages of a stream, the role and the first text, which wait for nothing."""
EVERY_S = 0.25
"""Between two later messages of a stream: on two cores each costs as much as half a token (benchmarks/serve.py)."""
EVERY_S_BESIDE = 0.1
"""The same where the ingress is in the same process."""


class ModelServer(LLMServer):  # type: ignore[misc]
    """An LLMServer that fetches its model from the run, seeds its engine, and is up once it has answered."""

    every_s = EVERY_S

    async def __init__(self, llm_config: LLMConfig, *, run: str, entry: Entry) -> None:  # type: ignore[misc]
        folder = await asyncio.to_thread(_fetch, open_store(run), entry)
        llm_config.get_engine_config().hf_model_id = str(folder)
        # vLLM seeds every engine with 0: two replicas, or one restarted, would sample the same paths
        llm_config.update_engine_kwargs(seed=secrets.randbelow(2**31))
        await super().__init__(llm_config)
        await self._answer_once()

    async def _answer_once(self) -> None:
        """The first answer takes seconds, and fails where the model has no chat template: let no caller meet that."""
        probe = ChatCompletionRequest(
            model=self._llm_config.model_id,
            messages=[{"role": "user", "content": "1+1?"}],
            n=2,
            max_completion_tokens=2,
        )
        answer = await anext(self.engine.chat(probe))
        if hasattr(answer, "error"):
            raise RuntimeError(f"the model cannot answer: {answer.error.message}")

    async def check_health(self) -> None:
        """Raises where the engine does not answer. Where it is dead the replica is of no use: its process ends.

        Serve would send it requests until its own third check, for half a minute, and more of them than to any other:
        it refuses all at once, and so seems idle.
        """
        try:
            await super().check_health()
        except EngineDeadError:
            self._end()

    def _end(self) -> None:
        logging.getLogger("ray.serve").error("the engine of %s is dead: this replica ends", self._llm_config.model_id)
        os._exit(1)

    def _batch_output_stream(self, generator: AsyncGenerator[T, None]) -> AsyncGenerator[list[T], None]:
        return in_batches(generator, every_s=self.every_s)

    async def solve(self, asked: SolveRequest) -> AsyncGenerator[Event, None]:
        """The events of one question: k samples of one request, so that the prompt is read once.

        The engine is asked below its OpenAI layer, which would write and read JSON for every token of every sample.
        """
        from vllm.exceptions import VLLMClientError

        chat = self.engine._oai_serving_chat
        request = ChatCompletionRequest(
            model=self._llm_config.model_id,
            messages=[{"role": "user", "content": asked.question}],
            n=asked.k,
            temperature=asked.temperature,
            top_p=1.0,
            max_completion_tokens=asked.max_tokens,
            stream=True,
        )
        try:
            rendered = await chat.render_chat_request(request)
            if hasattr(rendered, "error"):
                yield Refused(status=int(rendered.error.code), message=rendered.error.message)
                return
            prompt = rendered[1][0]
            params = _sampling(chat, request, prompt)
        except (ValueError, VLLMClientError):
            context = chat.model_config.max_model_len
            message = f"the question does not fit the model's context of {context} tokens"
            yield Refused(status=400, message=message, param="question", code="context_length_exceeded")
            return
        pieces = _pieces(self.engine._engine_client.generate(prompt, params, f"solve-{secrets.token_hex(8)}"))
        async with aclosing(solve_events(pieces, asked, self._llm_config.model_id, params.max_tokens)) as events:
            async for event in events:
                yield event


class ModelBeside(ModelServer):
    """The same in the process of its ingress, which tells its clients of a dead engine before that process ends."""

    every_s = EVERY_S_BESIDE

    async def check_health(self) -> None:
        """As the ingress asks: raises where the engine does not answer."""
        await LLMServer.check_health(self)

    async def check_replica(self) -> None:
        """As Serve asks: the process ends where the engine is dead, once those are told who wait for another one."""
        try:
            await self.check_health()
        except EngineDeadError:
            await asyncio.sleep(SURVIVOR_S + 1)
            self._end()


def _fetch(store: Store, entry: Entry) -> Path:
    """The folder of a model on this node's disk, its tokenizer with the chat template of training."""
    if not entry.prompted_as:
        return fetch_model(store, entry.fingerprint)
    trained, base = committed_model(store, entry.prompted_as), resolve(entry.base)
    if trained is None:
        raise RuntimeError(f"{entry.served_as}: the run has lost the model {entry.prompted_as}")
    folder = Path(tempfile.mkdtemp(prefix="rft-base-"))  # for as long as the replica
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in base.iterdir():
        if not path.name.startswith("chat_template"):
            (folder / path.name).symlink_to(path.absolute())
    template = prompts.chat_template(AutoTokenizer.from_pretrained(base), str(trained.metadata["template"]))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def _sampling(chat: Any, request: ChatCompletionRequest, prompt: Any) -> Any:
    """vLLM's parameters of a chat request, as its own server makes them. Raises ValueError where no token fits."""
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

    max_tokens = get_max_tokens(
        chat.model_config.max_model_len,
        request.max_completion_tokens,
        chat._extract_prompt_len(prompt),
        chat.default_sampling_params,
        chat.override_max_tokens,
    )
    return request.to_sampling_params(max_tokens, chat.default_sampling_params)


async def in_batches(
    items: AsyncGenerator[T, None], at_once: int = AT_ONCE, every_s: float = EVERY_S
) -> AsyncGenerator[list[T], None]:
    """The first items each as soon as it is there, later ones together with what comes within `every_s`.

    Raises what `items` raises, after what came before. Closing it closes `items`.
    """
    waiting: asyncio.Queue[Any] = asyncio.Queue()
    end = object()

    async def read() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    waiting.put_nowait(item)
        finally:
            waiting.put_nowait(end)

    reading, ended = asyncio.ensure_future(read()), False
    try:
        while not ended:
            batch = [await waiting.get()]
            if at_once > 0:
                at_once -= 1
            else:
                await asyncio.wait((reading,), timeout=every_s)
            batch += [waiting.get_nowait() for _ in range(waiting.qsize())]
            ended = batch[-1] is end
            if told := [item for item in batch if item is not end]:
                yield told
        await reading
    finally:
        reading.cancel()
        await asyncio.wait((reading,))


async def _pieces(outputs: AsyncGenerator[Any, None]) -> Pieces:
    """What vLLM yields, in this service's terms. Closing it aborts the request in the engine."""
    async with aclosing(outputs):
        async for output in outputs:
            yield [Piece(one.index, one.text, len(one.token_ids), _reason(one.finish_reason)) for one in output.outputs]


def _reason(finish_reason: str | None) -> str | None:
    if finish_reason in (None, "stop", "length"):
        return finish_reason
    raise RuntimeError(f"the engine gave a sample up: {finish_reason}")


def deploy(entry: Entry, run: str, engine: config.Engine, resources: Resources) -> Application:
    """The deployment of one model. `run`: its store's absolute address."""
    return build_llm_deployment(
        llm_config_of(entry, engine, resources),
        name_prefix="model:",
        bind_kwargs={"run": run, "entry": entry},
        deployment_cls=ModelServer,
    )


def beside(
    entry: Entry, run: str, engine: config.Engine, resources: Resources
) -> tuple[Callable[[], Awaitable[ModelBeside]], dict[str, Any]]:
    """What starts a model's engine in a replica of the ingress, and the options which that replica then needs."""
    llm_config = llm_config_of(entry, engine, resources)
    return partial(_started, llm_config, run, entry), ModelBeside.get_deployment_options(llm_config)


async def _started(llm_config: LLMConfig, run: str, entry: Entry) -> ModelBeside:
    server = ModelBeside.__new__(ModelBeside)
    await server.__init__(llm_config, run=run, entry=entry)  # type: ignore[misc]
    return server


def llm_config_of(entry: Entry, engine: config.Engine, resources: Resources) -> LLMConfig:
    """The LLMConfig of one model: the run's own engine settings, on GPUs or CPUs."""
    deployment: dict[str, Any] = {"num_replicas": resources.replicas, "graceful_shutdown_timeout_s": DRAIN_S}
    if resources.gpu:
        where: dict[str, Any] = {"accelerator_config": {"kind": "gpu"}}
    else:
        environment = {
            "OMP_NUM_THREADS": str(engine.threads_per_actor),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_HOST_IP": "127.0.0.1",  # its processes are all on one node: let them not listen beyond it
        }
        deployment["ray_actor_options"] = {"num_cpus": 0}  # the bundle has them
        where = {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": resources.cpus}]},
            "runtime_env": {"env_vars": environment},
        }
    return LLMConfig(
        model_loading_config={"model_id": entry.served_as, "model_source": entry.fingerprint or entry.base},
        engine_kwargs=_engine_kwargs(engine, resources),
        deployment_config=deployment,
        **where,
    )


def _engine_kwargs(engine: config.Engine, resources: Resources) -> dict[str, Any]:
    """What vLLM is started with; as in `rft_ray.sampling.vllm_engine`: what is served is what was evaluated."""
    kwargs: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_num_seqs": engine.max_num_seqs,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": True,
        "override_generation_config": {"max_new_tokens": resources.max_tokens},
    }
    if resources.max_model_len is not None:
        kwargs["max_model_len"] = resources.max_model_len
    if resources.gpu:
        return kwargs | {"gpu_memory_utilization": engine.gpu_memory_utilization}
    return kwargs | {"kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30)}
