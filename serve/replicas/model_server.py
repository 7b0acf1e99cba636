"""One model behind ray.serve.llm: a model of a run -> a Serve deployment that holds its vLLM engine.

Each replica fetches the model to its node's disk, so that the node that builds the application needs no weights. A base
model uses the chat template of a model that was trained from it. Training merges LoRA adapters into the model, so such
a model needs nothing special here.
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
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ray.serve.deployment import Application
from transformers import AutoTokenizer, GenerationConfig

from rft_ray import config
from rft_ray.data import chat_rendering, prompts
from rft_ray.data.base_weights import fetch_recorded
from rft_ray.grading.reasoning import Reasoning, opens_draft
from rft_ray.grading.spec import VerifierSpec
from rft_ray.sampling.vllm_arguments import engine_arguments, token_kernels
from rft_ray.store import Store, open_store
from rft_ray.store.models.committed import committed_model, fetch_model
from serve import ray_private, vllm_private
from serve.api.schemas import EngineRefusal, Event, SolveRequest
from serve.llm import ChatCompletionRequest, ErrorResponse, LLMConfig, LLMServer, build_llm_deployment
from serve.replicas.liveness import OTHER_REPLICA_S
from serve.run_models import Resources, RunModel
from serve.runner import DRAIN_S, ENGINE_PREFIX
from serve.solving.answers import AnswerReader
from serve.solving.events import Piece, Pieces, solve_events
from serve.vllm_private import ERROR_EVENT, EngineDeadError, VLLMClientError

T = TypeVar("T")

UNBATCHED = 2
"""The first messages of a stream, the role and the first text, are sent at once."""
BATCH_S = 0.25
"""Between two later messages of a stream. On two cores each one costs as much as half a token (benchmarks/serve.py)."""
IN_PROCESS_BATCH_S = 0.1
"""The same for an ingress in the engine's process."""


class ModelServer(LLMServer):  # type: ignore[misc]
    """An LLMServer that fetches its model from the run, seeds its engine, and is ready after a first answer."""

    batch_s = BATCH_S

    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, *, run: str, entry: RunModel, sampled: Mapping[str, float], verifier: VerifierSpec
    ) -> None:
        """`sampled`: what the paths of /solve are sampled with, as the run's samples were, unless they are greedy.

        `verifier`: the run's, which reads the answers of these paths.
        """
        self._sampled = sampled
        ray_private.listen_on_node_address()
        folder, self._prompt = await asyncio.to_thread(_fetch, open_store(run), entry)
        self._reader = AnswerReader(verifier, self._prompt)
        self._opened = await asyncio.to_thread(opens_reasoning, folder, self._prompt, verifier.reasoning_tags)
        llm_config.get_engine_config().hf_model_id = str(folder)
        # vLLM seeds each engine with 0: two replicas, or a restarted one, would sample the same paths
        llm_config.update_engine_kwargs(seed=secrets.randbelow(2**31))
        await super().__init__(llm_config)
        await self._warm_up()

    async def _warm_up(self) -> None:
        """Answer one request before clients can: it takes seconds, and fails where the model has no chat template, or
        the verifier cannot start.
        """
        probe = ChatCompletionRequest(
            model=self._llm_config.model_id,
            messages=[{"role": "user", "content": "1+1?"}],
            n=2,
            max_completion_tokens=2,
        )
        answer = await anext(self.engine.chat(probe))
        if hasattr(answer, "error"):
            raise RuntimeError(f"the model cannot answer: {answer.error.message}")
        await self._reader.start()

    async def check_health(self) -> None:
        """Raises where the engine does not answer. Ends the process where the engine is dead.

        Serve replaces a replica only after three failed checks, half a minute later. Until then a replica with a dead
        engine would get most requests, because it fails each one at once and so seems idle.
        """
        try:
            await super().check_health()
        except EngineDeadError:
            self._exit_process()

    def _exit_process(self) -> None:
        logging.getLogger("ray.serve").error("the engine of %s is dead: this replica exits", self._llm_config.model_id)
        os._exit(1)

    def _batch_output_stream(self, generator: AsyncGenerator[Any, None]) -> AsyncGenerator[list[Any], None]:
        return in_batches(self._with_failures(generator), batch_s=self.batch_s)

    async def _with_failures(self, events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """An OpenAI stream that fails as a plain answer does, where vLLM would send an error event and `[DONE]`.

        Raises EngineDeadError where the engine is dead. Another error before the first event is an ErrorResponse, which
        the ingress answers with its status; a later one stays an event.
        """
        first = True
        async with aclosing(events):
            async for event in events:
                if isinstance(event, str) and event.startswith(ERROR_EVENT):
                    if ray_private.engine_client(self.engine).errored:
                        raise EngineDeadError
                    if first:
                        yield ErrorResponse.model_validate_json(event.removeprefix("data: "))
                        return
                first = False
                yield event

    async def solve(self, asked: SolveRequest) -> AsyncGenerator[Event, None]:
        """The events of one question: k samples in one engine request, so that the prompt is computed once.

        The request goes below vLLM's OpenAI layer, which would write and parse JSON for each token of each sample.
        """
        if not self._reader.has_votes:
            message = f"paths cannot vote: {self._reader.name}, the run's verifier, compares them with a gold answer"
            yield EngineRefusal(status=400, message=f"{message}; ask /v1/chat/completions")
            return
        chat = ray_private.chat_layer(self.engine)
        request = ChatCompletionRequest(
            model=self._llm_config.model_id,
            n=asked.k,
            temperature=asked.temperature,
            top_p=1.0,
            max_completion_tokens=asked.max_tokens,
            stream=True,
            **(self._sampled if asked.temperature else {}),
            **_chat(self._prompt, asked.question),
        )
        try:
            rendered = await chat.render_chat_request(request)
            if hasattr(rendered, "error"):
                yield EngineRefusal(status=int(rendered.error.code), message=rendered.error.message)
                return
            prompt = rendered[1][0]
            params = vllm_private.sampling_params(chat, request, prompt)
        except (ValueError, VLLMClientError):
            context = chat.model_config.max_model_len
            message = f"the question does not fit into the model's context of {context} tokens: shorten it"
            yield EngineRefusal(status=400, message=message, param="question", code="context_length_exceeded")
            return
        pieces = _pieces(
            ray_private.engine_client(self.engine).generate(prompt, params, f"solve-{secrets.token_hex(8)}")
        )
        events = solve_events(
            pieces, asked, self._llm_config.model_id, params.max_tokens, opened=self._opened, reader=self._reader
        )
        async with aclosing(events):
            async for event in events:
                yield event


class InProcessModelServer(ModelServer):
    """A ModelServer in the process of its ingress, which reports a dead engine to its clients before it exits."""

    batch_s = IN_PROCESS_BATCH_S

    async def check_health(self) -> None:
        """The ingress's check: raises where the engine does not answer."""
        await LLMServer.check_health(self)

    async def check_replica(self) -> None:
        """Serve's check: ends the process where the engine is dead, after waiting requests have been answered."""
        try:
            await self.check_health()
        except EngineDeadError:
            await asyncio.sleep(OTHER_REPLICA_S + 1)
            self._exit_process()


def _chat(form: str, question: str) -> dict[str, Any]:
    """The fields of a chat request that render a question as the run did. `form`: the run's prompt, as stored."""
    prompt = prompts.build(form, question)
    if isinstance(prompt, prompts.Chat):
        return {"messages": prompt.as_data(), "chat_template_kwargs": dict(prompt.kwargs)}
    return {"messages": [{"role": "user", "content": question}]}  # the model's chat template holds the run's template


def opens_reasoning(folder: Path, form: str, tags: Sequence[str] = ()) -> bool:
    """Whether the prompt of a question ends in an opening tag of reasoning: one of `tags`, or a usual one.

    `form`: the run's prompt, as stored.
    """
    prompt = prompts.build(form, "1+1?")
    if not isinstance(prompt, str):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = chat_rendering.render(tokenizer, prompt.as_data(), add_generation_prompt=True, **prompt.kwargs)
    return opens_draft(prompt) or Reasoning.after(prompt, tags).begins_inside


def _fetch(store: Store, entry: RunModel) -> tuple[Path, str]:
    """The folder of a model on this node's disk, and its prompt in the run, in its stored form.

    The folder's chat template renders that prompt: the model's own one for a chat, otherwise one made from the run's
    template.
    """
    trained = committed_model(store, entry.template_model or entry.fingerprint)
    if trained is None:
        raise RuntimeError(
            f"{entry.served_as}: the model {entry.template_model or entry.fingerprint} is not in the run"
        )
    form = str(trained.metadata["template"])
    if not entry.template_model:
        return fetch_model(store, entry.fingerprint), form
    folder = Path(tempfile.mkdtemp(prefix="rft-base-"))  # removed when the replica exits
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _link_base(fetch_recorded(store, entry.base), folder, form)
    return folder, form


def _link_base(base: Path, folder: Path, form: str) -> None:
    """Link the files of a base model into a folder, with the run's chat template and no sampling defaults of its own.

    Its generation_config.json may hold a temperature or a repetition penalty, which the run's samples did not have.
    """
    own = not prompts.is_chat(form)
    for path in base.iterdir():
        if path.name != "generation_config.json" and not (own and path.name.startswith("chat_template")):
            (folder / path.name).symlink_to(path.absolute())
    tokenizer = AutoTokenizer.from_pretrained(base)
    if own:
        (folder / "chat_template.jinja").write_text(prompts.chat_template(tokenizer, form), encoding="utf-8")
    ends = set(prompts.ends_of_response(tokenizer, form))
    with suppress(OSError):  # a base without the file
        declared = GenerationConfig.from_pretrained(base).eos_token_id
        ends |= {declared} if isinstance(declared, int) else set(declared or ())
    GenerationConfig(eos_token_id=sorted(ends)).save_pretrained(folder)


async def in_batches(
    items: AsyncGenerator[T, None], unbatched: int = UNBATCHED, batch_s: float = BATCH_S
) -> AsyncGenerator[list[T], None]:
    """Batches of items: each of the first `unbatched` items at once, later ones collected over `batch_s`.

    Raises an exception of `items` after all items before it. Closing this generator closes `items`.
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
            if unbatched > 0:
                unbatched -= 1
            else:
                await asyncio.wait((reading,), timeout=batch_s)
            batch += [waiting.get_nowait() for _ in range(waiting.qsize())]
            ended = batch[-1] is end
            if kept := [item for item in batch if item is not end]:
                yield kept
        await reading
    finally:
        reading.cancel()
        await asyncio.wait((reading,))


async def _pieces(outputs: AsyncGenerator[Any, None]) -> Pieces:
    """vLLM's outputs as pieces. Closing this generator aborts the request in the engine."""
    async with aclosing(outputs):
        async for output in outputs:
            yield [
                Piece(one.index, one.text, len(one.token_ids), _finish_reason(one.finish_reason))
                for one in output.outputs
            ]


def _finish_reason(finish_reason: str | None) -> str | None:
    if finish_reason in (None, "stop", "length"):
        return finish_reason
    raise RuntimeError(f"the engine ended a sample with finish reason {finish_reason!r}")


def deploy(entry: RunModel, run: str, engine: config.Engine, resources: Resources) -> Application:
    """The deployment of one model. `run`: the absolute address of its store."""
    return build_llm_deployment(
        llm_config_of(entry, engine, resources),
        name_prefix=ENGINE_PREFIX,
        bind_kwargs={"run": run, "entry": entry, **_answering(resources)},
        deployment_cls=ModelServer,
    )


def in_process(
    entry: RunModel, run: str, engine: config.Engine, resources: Resources
) -> tuple[Callable[[], Awaitable[InProcessModelServer]], dict[str, Any]]:
    """A function that starts a model's engine in the ingress's replica, and the options of the replica's deployment."""
    llm_config = llm_config_of(entry, engine, resources)
    start = partial(_start, llm_config, run=run, entry=entry, **_answering(resources))
    return start, InProcessModelServer.get_deployment_options(llm_config)


async def _start(llm_config: LLMConfig, **settings: Any) -> InProcessModelServer:
    server = InProcessModelServer.__new__(InProcessModelServer)
    await server.__init__(llm_config, **settings)  # type: ignore[misc]
    return server


def _answering(resources: Resources) -> dict[str, Any]:
    """The arguments of a ModelServer that say how paths of /solve are sampled and read."""
    return {"sampled": dict(resources.sampled), "verifier": resources.verifier}


def llm_config_of(entry: RunModel, engine: config.Engine, resources: Resources) -> LLMConfig:
    """The LLMConfig of one model: the run's own engine settings, on GPUs or CPUs."""
    deployment: dict[str, Any] = {"num_replicas": resources.replicas, "graceful_shutdown_timeout_s": DRAIN_S}
    if resources.gpu:
        placement: dict[str, Any] = {
            "accelerator_config": {"kind": "gpu"},
            # on one node: the others have no files of the model
            "placement_group_config": {"bundle_per_worker": {"GPU": 1}, "strategy": "STRICT_PACK"},
            "runtime_env": {"env_vars": token_kernels()},
        }
    else:
        environment = {
            "OMP_NUM_THREADS": str(engine.threads_per_actor),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_HOST_IP": "127.0.0.1",  # the engine's processes are on one node: they listen on loopback only
        }
        deployment["ray_actor_options"] = {"num_cpus": 0}  # the placement group's bundle has them
        placement = {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": resources.cpus}]},
            "runtime_env": {"env_vars": environment},
        }
    return LLMConfig(
        model_loading_config={"model_id": entry.served_as, "model_source": entry.fingerprint or entry.base},
        engine_kwargs=_engine_kwargs(engine, resources),
        deployment_config=deployment,
        **placement,
    )


def _engine_kwargs(engine: config.Engine, resources: Resources) -> dict[str, Any]:
    """vLLM's engine arguments, as in sampling: the served engine is the evaluated one.

    `top_k` and `min_p` of the run are defaults of every route: they leave greedy answers as they are, and a repetition
    penalty would not.
    """
    defaults = {name: value for name, value in resources.sampled.items() if name != "repetition_penalty"}
    context = {} if resources.max_model_len is None else {"max_model_len": resources.max_model_len}
    return {
        **engine_arguments(engine, gpu=resources.gpu),
        **context,
        "override_generation_config": {"max_new_tokens": resources.max_tokens, **defaults},
    }
