"""Every internal name of vLLM that sampling/vllm_private.py uses is in its sources; importing vLLM is slow."""

from __future__ import annotations

import ast
import importlib.util
from concurrent.futures import Future
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest

from rft_ray.sampling.engine import may_start_later
from rft_ray.sampling.vllm_private import notice_death


def source(module: str) -> ast.Module:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse((Path(spec.origin).parent / module).read_text())


def class_of(module: str, name: str) -> ast.ClassDef:
    classes = {node.name: node for node in source(module).body if isinstance(node, ast.ClassDef)}
    assert name in classes, f"vllm/{module} defines no class {name}"
    return classes[name]


@pytest.mark.parametrize(
    ("module", "owner", "method"),
    [
        ("v1/engine/llm_engine.py", "LLMEngine", "collective_rpc"),
        ("v1/engine/llm_engine.py", "LLMEngine", "reset_prefix_cache"),
        ("v1/engine/core_client.py", "InprocClient", "shutdown"),
        ("v1/engine/core_client.py", "MPClient", "shutdown"),
        ("v1/engine/core_client.py", "InprocClient", "get_output"),
        ("v1/engine/core_client.py", "SyncMPClient", "get_output"),
        ("v1/worker/gpu_worker.py", "Worker", "reload_weights"),
        ("v1/worker/gpu_worker.py", "Worker", "get_model"),
        ("platforms/cuda.py", "NvmlCudaPlatform", "get_device_total_memory"),
        ("model_executor/layers/linear.py", "UnquantizedLinearMethod", "process_weights_after_loading"),
        (
            "model_executor/layers/vocab_parallel_embedding.py",
            "UnquantizedEmbeddingMethod",
            "process_weights_after_loading",
        ),
    ],
)
def test_the_method_exists(module: str, owner: str, method: str) -> None:
    defined = {node.name for node in class_of(module, owner).body if isinstance(node, ast.FunctionDef)}
    assert method in defined, f"vllm/{module}: {owner} has no method {method}"


def test_the_weights_of_a_folder_can_be_reloaded() -> None:
    runner = class_of("v1/worker/gpu_model_runner.py", "GPUModelRunner")
    [reload] = [node for node in runner.body if isinstance(node, ast.FunctionDef) and node.name == "reload_weights"]
    assert "weights_path" in {argument.arg for argument in [*reload.args.args, *reload.args.kwonlyargs]}


def test_the_statistics_have_the_fields_of_a_load() -> None:
    scheduler = _fields(class_of("v1/metrics/stats.py", "SchedulerStats"))
    assert {"num_running_reqs", "num_waiting_reqs", "kv_cache_usage"} <= scheduler
    assert {"outputs", "scheduler_stats"} <= _fields(class_of("v1/engine/__init__.py", "EngineCoreOutputs"))
    assert "events" in _fields(class_of("v1/engine/__init__.py", "EngineCoreOutput"))
    assert "type" in _fields(class_of("v1/engine/__init__.py", "EngineCoreEvent"))
    assert "PREEMPTED" in ast.unparse(class_of("v1/engine/__init__.py", "EngineCoreEventType"))


def test_a_step_reads_the_core_and_counts_nothing_else_without_statistics() -> None:
    [step] = [
        ast.unparse(node)
        for node in class_of("v1/engine/llm_engine.py", "LLMEngine").body
        if isinstance(node, ast.FunctionDef) and node.name == "step"
    ]
    assert "outputs = self.engine_core.get_output()" in step
    assert "IterationStats() if self.log_stats and outputs.outputs else None" in step
    assert "if self.logger_manager is not None and " in step


def _fields(owner: ast.ClassDef) -> set[str]:
    named = [node.target for node in owner.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in named if isinstance(target, ast.Name)}


def test_the_engine_has_a_core_and_the_output_layer_its_name() -> None:
    engine = class_of("v1/engine/llm_engine.py", "LLMEngine")
    attributes = {node.attr for node in ast.walk(engine) if isinstance(node, ast.Attribute)}
    assert "engine_core" in attributes
    class_of("model_executor/layers/vocab_parallel_embedding.py", "ParallelLMHead")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("v1/worker/gpu_worker.py", "Error in memory profiling"),
        ("v1/worker/utils.py", "Free memory on device"),
        ("v1/core/kv_cache_utils.py", "No available memory"),
    ],
)
def test_errors_of_the_gpus_memory_have_the_words_by_which_a_start_is_tried_again(module: str, words: str) -> None:
    texts = [node.value for node in ast.walk(source(module)) if isinstance(node, ast.Constant)]
    assert any(isinstance(text, str) and words in text for text in texts)
    assert may_start_later(RuntimeError(words))


def test_who_waits_for_an_engine_is_told_that_its_process_has_ended() -> None:
    answer: Future[None] = Future()
    client = SimpleNamespace(outputs_queue=Queue(), utility_results={1: answer}, shutdown=lambda timeout: None)
    notice_death(SimpleNamespace(engine_core=client))
    client.shutdown()  # as vLLM's monitor calls it
    assert isinstance(client.outputs_queue.get(timeout=1), RuntimeError)
    assert isinstance(answer.exception(timeout=1), RuntimeError)
    notice_death(SimpleNamespace(engine_core=SimpleNamespace()))  # in this process


def test_vllm_watches_the_engines_process_and_reads_its_queue_as_expected() -> None:
    client = ast.unparse(class_of("v1/engine/core_client.py", "MPClient"))
    assert "_self.resources.engine_dead = True" in client
    assert "_self.shutdown()" in client
    reading = ast.unparse(class_of("v1/engine/core_client.py", "SyncMPClient"))
    assert "outputs = self.outputs_queue.get()" in reading
    assert "self.utility_results[call_id] = future" in reading
    assert "EngineDeadError" in {node.name for node in source("v1/engine/exceptions.py").body if hasattr(node, "name")}
