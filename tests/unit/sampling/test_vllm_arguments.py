"""The engine settings of a config as vLLM's arguments."""

from __future__ import annotations

import ast
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rft_ray import config
from rft_ray.config.engine_arguments import CACHE_DTYPES, CPU_CACHE_DTYPES
from rft_ray.plan.sampling_settings import SamplingSettings
from rft_ray.sampling.vllm_arguments import (
    BATCHED_TOKENS,
    alone_on_gpu,
    engine_arguments,
    process_environment,
    sampling_arguments,
)
from tests.unit.config.test_engine_arguments import fields, source


def test_the_default_engine_on_cpus_has_short_blocks() -> None:
    assert engine_arguments(config.Engine(), gpu=False) == {
        "dtype": "auto",
        "max_num_seqs": 256,
        "tensor_parallel_size": 1,
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "kv_cache_memory_bytes": 2**30,
        "block_size": 32,
    }


def test_blocks_are_vllms_own_on_gpus_and_the_users_where_given() -> None:
    assert "block_size" not in engine_arguments(config.Engine(), gpu=True)
    assert engine_arguments(config.Engine(extra={"block_size": 64}), gpu=False)["block_size"] == 64


def test_a_step_has_a_token_of_each_sequence() -> None:
    """vLLM refuses more sequences than the tokens of a step, which are 2,048 unless told."""
    own = f"DEFAULT_MAX_NUM_BATCHED_TOKENS: ClassVar[int] = {BATCHED_TOKENS}\n"
    assert own in ast.unparse(source("config/scheduler.py"))
    for sequences, tokens in ((256, None), (BATCHED_TOKENS, None), (4096, 4096)):
        arguments = engine_arguments(config.Engine(max_num_seqs=sequences), gpu=False)
        assert arguments.get("max_num_batched_tokens") == tokens
    given = config.Engine(max_num_seqs=4096, max_num_batched_tokens=8192)
    assert engine_arguments(given, gpu=True)["max_num_batched_tokens"] == 8192


@pytest.mark.parametrize("size", [16, 48, 0, "32"])
def test_blocks_that_the_kernels_of_cpus_have_not_are_refused_there(size: object) -> None:
    engine = config.Engine(extra={"block_size": size})
    with pytest.raises(config.ConfigError, match=rf"^engine\.extra\.block_size={size}: on CPUs vLLM takes multiples"):
        engine_arguments(engine, gpu=False)
    assert engine_arguments(engine, gpu=True)["block_size"] == size


def test_engines_on_cpus_do_without_speculative_decoding() -> None:
    engine = config.Engine(speculative={"method": "ngram", "num_speculative_tokens": 2})
    assert "speculative_config" not in engine_arguments(engine, gpu=False)


@pytest.mark.parametrize("dtype", sorted({*CACHE_DTYPES} - {*CPU_CACHE_DTYPES}))
def test_a_data_type_of_the_cache_with_which_vllm_samples_noise_on_cpus_is_refused_there(dtype: str) -> None:
    engine = config.Engine(kv_cache_dtype=dtype)
    with pytest.raises(config.ConfigError, match=rf"^engine\.kv_cache_dtype={dtype}: on CPUs .* use one of auto, fp8"):
        engine_arguments(engine, gpu=False)
    assert engine_arguments(engine, gpu=True)["kv_cache_dtype"] == dtype


def test_every_setting_reaches_vllm_under_a_name_that_it_has() -> None:
    speculative = {"method": "ngram", "num_speculative_tokens": 2}
    engine = config.Engine(
        quantization="fp8",
        kv_cache_dtype="fp8",
        max_num_batched_tokens=4096,
        pipeline_parallel_size=2,
        speculative=speculative,
        extra={"block_size": 32},
    )
    arguments = engine_arguments(engine, gpu=True)
    expected = {
        "quantization": "fp8",
        "kv_cache_dtype": "fp8",
        "max_num_batched_tokens": 4096,
        "pipeline_parallel_size": 2,
        "speculative_config": speculative,
        "block_size": 32,
        "gpu_memory_utilization": 0.9,
    }
    assert arguments | expected == arguments
    assert set(arguments) <= set(fields("engine/arg_utils.py", "EngineArgs"))


@pytest.mark.parametrize(
    ("given", "gpu", "eager"),
    [("auto", False, True), ("auto", True, False), (True, True, True), (False, False, False)],
)
def test_an_engine_is_eager_on_cpus_and_takes_graphs_on_gpus_unless_told(given: bool, gpu: bool, eager: bool) -> None:
    arguments = engine_arguments(config.Engine.model_validate({"enforce_eager": given}), gpu=gpu)
    assert arguments["enforce_eager"] is eager


def test_engines_that_share_a_gpu_share_its_memory() -> None:
    engine = config.Engine(gpus_per_engine=0.25, gpu_memory_utilization=0.8)
    assert engine_arguments(engine, gpu=True, share=engine.gpus)["gpu_memory_utilization"] == pytest.approx(0.2)


@pytest.mark.parametrize("gib", [22, 40, 79])
@pytest.mark.parametrize("engines", [2, 4, 8, 16])
def test_engines_that_share_a_gpu_fit_it_with_their_contexts(gib: int, engines: int) -> None:
    """vLLM takes its share of the whole memory beside the context, and does not open where less is free."""
    engine = config.Engine(gpus_per_engine=1 / engines)
    arguments = engine_arguments(engine, gpu=True, share=engine.gpus, gpu_bytes=gib * 2**30)
    share = arguments["gpu_memory_utilization"]
    assert engines * (share * gib + 0.5) <= gib * 1.0001
    assert share == 0.9 / engines or engines * 0.5 > 0.1 * gib


def test_the_sampling_settings_are_fields_of_vllms_sampling_params() -> None:
    settings = SamplingSettings(0.7, 0.9, 64, 2, "{query}", top_k=50, min_p=0.1, repetition_penalty=1.1)
    arguments = sampling_arguments(settings)
    assert arguments == {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1}
    assert set(arguments) <= set(fields("sampling_params.py", "SamplingParams"))


def test_no_top_k_is_the_default_of_vllm() -> None:
    [default] = [
        node.value
        for owner in source("sampling_params.py").body
        if isinstance(owner, ast.ClassDef) and owner.name == "SamplingParams"
        for node in owner.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "top_k"
    ]
    assert isinstance(default, ast.Constant)
    assert sampling_arguments(SamplingSettings(0.7, 1.0, 64, 2, "{query}"))["top_k"] == default.value


def test_engines_on_one_gpu_open_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unit-test-7")
    opened = threading.Event()

    def open_second() -> None:
        with alone_on_gpu(0.5):
            opened.set()

    with alone_on_gpu(0.5):
        second = threading.Thread(target=open_second, daemon=True)
        second.start()
        assert not opened.wait(0.3)
    assert opened.wait(10)


def test_an_engine_on_a_gpu_of_its_own_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unit-test-8")
    with alone_on_gpu(0.5), alone_on_gpu(1.0):
        pass


@pytest.mark.parametrize("gpu", [False, True])
def test_vllm_leaves_it_to_the_watchdog_how_long_a_model_may_load(gpu: bool) -> None:
    """vLLM itself ends after ten minutes, whether or not bytes move."""
    variable = "VLLM_ENGINE_READY_TIMEOUT_S"
    assert int(process_environment(config.Engine(), gpu=gpu)[variable]) >= 12 * 3600
    assert variable in {node.id for node in ast.walk(source("v1/engine/core_client.py")) if isinstance(node, ast.Name)}


SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"


def test_engines_on_gpus_open_without_a_compiler_for_kernels_that_draw_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SAMPLER, raising=False)
    assert process_environment(config.Engine(), gpu=True)[SAMPLER] == "0"
    assert SAMPLER not in process_environment(config.Engine(), gpu=False)
    monkeypatch.setenv(SAMPLER, "1")
    assert process_environment(config.Engine(), gpu=True)[SAMPLER] == "1"


def test_by_that_variable_vllm_leaves_flashinfers_kernels_alone() -> None:
    """Its own function, with a card: otherwise it does not ask whether there is a compiler."""
    name = "flashinfer_sampler_supported"
    sampler = source("v1/sample/ops/topk_topp_sampler.py")
    [function] = [node for node in sampler.body if isinstance(node, ast.FunctionDef) and node.name == name]
    switched = SimpleNamespace(**{SAMPLER: False})
    scope: dict[str, Any] = {
        "current_platform": SimpleNamespace(is_cuda=lambda: True),
        "envs": switched,
        "logger": SimpleNamespace(info_once=lambda *_, **__: None),
    }
    exec(compile(ast.Module([function], []), name, "exec"), scope)
    assert scope[name]() is False
    assert "nvcc" not in ast.unparse(function)
