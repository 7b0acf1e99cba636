"""Names of vLLM 0.29 that this service uses and vLLM does not promise, each with the reason.

`tests/serve/test_private_names.py` fails with the name of each one that an upgrade of vLLM removes.
"""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.exceptions import VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError

VERSION = "0.29"
CONTEXT_LENGTH = "maximum context length"
"""Words of vLLM's errors for a prompt beyond the context: such an error has no code of its own."""
ERROR_EVENT = 'data: {"error":'
"""How a stream's error event begins. vLLM sends one, then `[DONE]`, where its generator fails: also where the engine is
dead, and where it refuses a value."""
__all__ = [
    "ATTRIBUTES",
    "CONTEXT_LENGTH",
    "ERROR_EVENT",
    "VERSION",
    "EngineDeadError",
    "StreamOptions",
    "VLLMClientError",
    "sampling_params",
]
# StreamOptions: the type of a request's `stream_options`, which this service sets to read a stream's usage
# VLLMClientError: what the validators of vLLM's request types raise for a wrong value
# EngineDeadError: what a request raises whose engine process ended
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat": (
        "render_chat_request",
        "_extract_prompt_len",
        "model_config",
        "default_sampling_params",
        "override_max_tokens",
    ),
    "vllm.v1.engine.async_llm:AsyncLLM": ("errored",),
}
"""Attributes that `sampling_params` and `serve.replicas.model_server.ModelServer` read, by class."""


def sampling_params(chat: Any, request: Any, prompt: Any) -> Any:
    """The sampling parameters of a chat request, computed as vLLM's own server does.

    Raises ValueError or VLLMClientError where the prompt leaves no room for a token.
    """
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

    max_tokens = get_max_tokens(
        chat.model_config.max_model_len,
        request.max_completion_tokens,
        chat._extract_prompt_len(prompt),
        chat.default_sampling_params,
        chat.override_max_tokens,
    )
    return request.to_sampling_params(max_tokens, chat.default_sampling_params)
