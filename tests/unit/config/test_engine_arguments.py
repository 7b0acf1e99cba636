"""vLLM's arguments in a config: what can be given, and the tables are those of the installed vLLM."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from rft_ray.config import ConfigError, engine_arguments, load

MODELS = "--models=[{name: a, source: x}]"
TEACHER = "--models=[{name: a, source: x}, {name: b, source: 'openai:big', rft: false}]"


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(None, [MODELS, *overrides])
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--engine.extra={seed: 1}", "seed cannot be set here: run.seed"),
        ("--engine.extra={hf_token: abc}", "HF_TOKEN"),
        ("--engine.extra={data_parallel_size: 2}", "an engine is on one node"),
        ("--engine.extra={blok_size: 16}", "did you mean block_size?"),
        ("--engine.quantization=fp9", "did you mean fp8?"),
        ("--engine.kv_cache_dtype=''", "is no value that vLLM takes"),
        ("--engine.speculative={num_speculative_tokens: 2}", "give method, such as ngram"),
        ("--engine.speculative={method: ngram, rejection_sample_method: synthetic}", "changes the samples"),
        ("--engine.speculative={method: ngram, synthetic_acceptance_length: 2}", "changes the samples"),
        ("--engine.speculative={method: ngram, prompt_lokup_max: 2}", "did you mean prompt_lookup_max?"),
        ("--engine={max_num_batched_tokens: 64, max_num_seqs: 128}", "less than max_num_seqs=128"),
        ("--engine={gpus_per_engine: 0.5, tensor_parallel_size: 2}", "gpus_per_engine=0.5 is for engines on one GPU"),
        ("--engine={gpus_per_engine: 0.5, pipeline_parallel_size: 2}", "gpus_per_engine=0.5 is for engines on one GPU"),
        ("--engine.gpus_per_engine=2", "engine.gpus_per_engine"),
        ("--engine={accelerator_type: A100, device: cpu}", "accelerator_type needs GPUs"),
        ("--engine.enforce_eager=sometimes", "engine.enforce_eager"),
        ("--sampling.top_k=0", "sampling.top_k"),
    ],
)
def test_an_impossible_engine_setting_is_refused_with_its_remedy(override: str, words: str) -> None:
    assert words in refused(override)


def test_min_p_is_refused_with_speculative_decoding_which_vllm_does_not_combine() -> None:
    assert "sampling.min_p" in refused("--sampling.min_p=0.1", "--engine.speculative={method: ngram}")


@pytest.mark.parametrize(("value", "read"), [("true", True), ("false", False), ("auto", "auto")])
def test_enforce_eager_reads_old_values_and_auto(value: str, read: bool | str) -> None:
    assert load(None, [MODELS, f"--engine.enforce_eager={value}"]).engine.enforce_eager == read


@pytest.mark.parametrize("setting", ["top_k=50", "min_p=0.1", "repetition_penalty=1.1"])
def test_a_setting_that_openais_api_lacks_needs_a_server_that_takes_it(setting: str) -> None:
    name = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"models\.1: OpenAI's API has no {name}: set models\.1\.endpoint\.server"):
        load(None, [TEACHER, f"--sampling.{setting}"])
    load(None, [TEACHER, f"--sampling.{setting}", "--models.1.endpoint.server=vllm"])


def test_the_tables_have_each_argument_of_the_installed_vllm_once() -> None:
    tables = [set(engine_arguments.SET_ELSEWHERE), engine_arguments.NEUTRAL, engine_arguments.DECIDING]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set().union(*tables) == set(fields("engine/arg_utils.py", "EngineArgs"))


def test_the_fields_of_speculative_decoding_are_among_those_of_the_installed_vllm() -> None:
    assert set(fields("config/speculative.py", "SpeculativeConfig")) >= engine_arguments.SPECULATIVE


@pytest.mark.parametrize(
    ("module", "alias", "known"),
    [
        ("config/cache.py", "CacheDType", engine_arguments.CACHE_DTYPES),
        ("model_executor/layers/quantization/__init__.py", "QuantizationMethods", engine_arguments.QUANTIZATIONS),
    ],
)
def test_the_values_are_those_of_the_installed_vllm(module: str, alias: str, known: tuple[str, ...]) -> None:
    [values] = [
        node.value
        for node in source(module).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == alias
    ]
    assert tuple(item.value for item in ast.walk(values) if isinstance(item, ast.Constant)) == known


def test_the_data_types_of_the_cache_on_cpus_are_those_of_the_installed_vllms_attention_there() -> None:
    [values] = [
        node.value
        for node in ast.walk(source("v1/attention/backends/cpu_attn.py"))
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "supported_kv_cache_dtypes"
    ]
    assert values is not None
    assert tuple(ast.literal_eval(values)) == engine_arguments.CPU_CACHE_DTYPES


def fields(module: str, name: str) -> list[str]:
    [body] = [node.body for node in source(module).body if isinstance(node, ast.ClassDef) and node.name == name]
    named = [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return [target.id for target in named if isinstance(target, ast.Name)]


def source(module: str) -> ast.Module:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse((Path(spec.origin).parent / module).read_text())
