"""What the service uses of ray.serve.llm, which brings vLLM: imported once, without Python's collector.

Sources: ray/llm/_internal/serve (Ray 2.60).
"""

from __future__ import annotations

from rft_ray.runtime.collector import heavy_imports

with heavy_imports():
    from ray.serve.llm import LLMConfig, build_llm_deployment
    from ray.serve.llm.deployment import LLMServer
    from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
    from ray.serve.llm.openai_api_models import (
        ChatCompletionRequest,
        ChatCompletionResponse,
        CompletionRequest,
        CompletionResponse,
        ErrorResponse,
    )

__all__ = [
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "CompletionRequest",
    "CompletionResponse",
    "ErrorResponse",
    "LLMConfig",
    "LLMServer",
    "OpenAiIngress",
    "build_llm_deployment",
    "make_fastapi_ingress",
]
