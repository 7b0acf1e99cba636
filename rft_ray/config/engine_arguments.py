"""vLLM's engine arguments (0.29): which of them other keys set, which change samples, and which only say how to run.

`engine.extra` takes any argument that no other key sets. `NEUTRAL` lists those that leave the distribution of the
samples as it is, up to floating-point rounding; they enter no name. Every other argument enters the names of the
samples: of two recipes that may differ, neither takes the other's results. Pure: a test compares the tables with the
installed vLLM.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from rft_ray.config.errors import ConfigError


def _words(text: str) -> list[str]:
    return text.split()


_ONE_NODE = (
    "an engine is on one node: use engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.max_actors"
)
_TEXT = "this project samples text from a language model"
SET_ELSEWHERE = {
    "model": "models.*.source",
    "tokenizer": "models.*.source",
    "served_model_name": "models.*.name",
    "hf_config_path": "models.*.source",
    "revision": "models.*.source: hub:<id>@<revision>",
    "tokenizer_revision": "models.*.source: hub:<id>@<revision>",
    "code_revision": "models.*.source: hub:<id>@<revision>",
    "hf_token": "the environment variable HF_TOKEN, since a config is saved with its run",
    "seed": "run.seed",
    "dtype": "engine.dtype",
    "max_model_len": "sampling.max_model_len",
    "max_num_seqs": "engine.max_num_seqs",
    "max_num_batched_tokens": "engine.max_num_batched_tokens",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "pipeline_parallel_size": "engine.pipeline_parallel_size",
    "enforce_eager": "engine.enforce_eager",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "kv_cache_memory_bytes": "engine.kv_cache_gib and engine.gpu_memory_utilization",
    "quantization": "engine.quantization",
    "kv_cache_dtype": "engine.kv_cache_dtype",
    "speculative_config": "engine.speculative",
    "spec_method": "engine.speculative",
    "spec_model": "engine.speculative",
    "spec_tokens": "engine.speculative",
    "override_generation_config": "sampling.max_new_tokens and sampling.top_k",
    "enable_prefix_caching": "it is always on: the samples of a block share their prompt",
    "disable_log_stats": "vLLM's statistics are always on",
    "use_tqdm_on_load": "it is always off",
    "skip_tokenizer_init": "prompts are encoded by the engine's tokenizer",
    "runner": _TEXT,
    "convert": _TEXT,
    "pooler_config": _TEXT,
    "tokens_only": _TEXT,
    "diffusion_config": _TEXT,
    **dict.fromkeys(
        (
            "master_addr",
            "master_port",
            "nnodes",
            "node_rank",
            "device_ids",
            "prefill_context_parallel_size",
            "data_parallel_size",
            "data_parallel_rank",
            "data_parallel_start_rank",
            "data_parallel_size_local",
            "data_parallel_address",
            "data_parallel_rpc_port",
            "data_parallel_hybrid_lb",
            "data_parallel_external_lb",
            "data_parallel_multi_port_external_lb",
            "data_parallel_backend",
            "_api_process_count",
            "_api_process_rank",
        ),
        _ONE_NODE,
    ),
}
"""Argument -> the key that sets it, or why it cannot be set."""
NEUTRAL = frozenset(
    _words(
        """
        all2all_backend aggregate_engine_logging allowed_local_media_path allowed_media_domains async_scheduling
        attention_backend block_size collect_detailed_traces compilation_config cp_kv_cache_interleave_size
        cpu_distributed_timeout_seconds cpu_offload_gb cpu_offload_params cudagraph_capture_sizes cudagraph_metrics
        dbo_decode_token_threshold dbo_prefill_token_threshold dcp_comm_backend dcp_kv_cache_interleave_size
        dcp_q_replicate decode_context_parallel_size disable_cascade_attn disable_chunked_mm_input
        disable_custom_all_reduce disable_hybrid_kv_cache_manager disable_nccl_for_dp_synchronization
        distributed_executor_backend distributed_timeout_seconds download_dir enable_batch_sharded_sampling
        enable_chunked_prefill enable_cumem_allocator enable_dbo enable_ep_weight_filter enable_eplb
        enable_expert_parallel enable_flashinfer_autotune enable_layerwise_nvtx_tracing
        enable_logging_iteration_details enable_mfu_metrics enable_mm_processor_stats enable_sleep_mode eplb_config
        expert_placement_strategy fail_on_environ_validation jit_monitor_mode jit_monitor_verbose kv_cache_metrics
        kv_cache_metrics_sample kv_offloading_backend kv_offloading_size linear_backend long_prefill_token_threshold
        max_cudagraph_capture_size max_logprobs max_num_queued_reqs max_num_queued_tokens max_num_scheduled_tokens
        max_parallel_loading_workers num_gpu_blocks_override numa_bind numa_bind_cpus numa_bind_nodes offload_backend
        offload_group_size offload_num_in_group offload_params offload_prefetch_step optimization_level
        otlp_traces_endpoint per_request_spec_decode_metrics performance_mode prefill_schedule_interval
        prefix_cache_retention_interval prefix_caching_hash_algo profiler_config pt_load_map_location
        ray_workers_use_nsight renderer_num_workers safetensors_load_strategy safetensors_prefetch_block_size
        safetensors_prefetch_num_threads scheduler_reserve_full_isl scheduling_policy show_hidden_metrics_for_version
        shutdown_timeout stream_interval ubatch_size watermark
        """
    )
)
"""Arguments that change no distribution: placement, memory, kernels of the same arithmetic, loading, statistics."""
DECIDING = frozenset(
    _words(
        """
        additional_config allow_deprecated_quantization attention_config config_format default_mm_loras
        disable_sliding_window ec_manager_config ec_transfer_config enable_bf16x3_router_gemm enable_elastic_ep
        enable_fault_tolerance enable_lora enable_mamba_cache_stochastic_rounding enable_mixed_moe_lora_format
        enable_mm_embeds enable_moe_shared_loras enable_prompt_embeds enable_return_routed_experts
        enable_tower_connector_lora enable_trace_replay fault_tolerance_config fully_sharded_loras gdn_prefill_backend
        generation_config hf_overrides ignore_patterns interleave_mm_strings io_processor_plugin ir_op_priority
        kda_prefill_backend kernel_config kv_cache_dtype_skip_layers kv_events_config kv_sharing_fast_prefill
        kv_transfer_config language_model_only limit_mm_per_prompt load_format logits_processors logprobs_mode
        lora_dtype lora_target_modules mamba_backend mamba_block_size mamba_cache_dtype mamba_cache_mode
        mamba_cache_philox_rounds mamba_config mamba_ssm_cache_dtype mamba_ssu_algorithm max_cpu_loras max_lora_rank
        max_loras media_io_kwargs mm_device_do_normalize mm_encoder_attn_backend mm_encoder_attn_dtype
        mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_margin mm_encoder_fp8_scale_save_path mm_encoder_only
        mm_encoder_tp_mode mm_hasher_algorithm mm_ipc_gpu_memory_gb mm_processor_cache_gb mm_processor_cache_type
        mm_processor_device mm_processor_kwargs mm_shm_cache_max_object_size_mb mm_tensor_ipc model_class_overrides
        model_impl model_loader_extra_config model_weights moe_backend prefix_match_unit quantization_config
        reasoning_config reasoning_parser reasoning_parser_plugin replayssm_buffer_len return_sampling_mask
        scheduler_cls skip_mm_profiling specialize_active_lora structured_outputs_config tokenizer_mode
        trust_remote_code use_fp64_gumbel use_replayssm video_pruning_method video_pruning_rate weight_transfer_config
        worker_cls worker_extension_cls
        """
    )
)
"""Arguments that change samples, or that may."""
QUANTIZATIONS = tuple(
    _words(
        """
        awq auto_awq fp8 fbgemm_fp8 fp_quant modelopt modelopt_fp4 modelopt_mxfp8 modelopt_mixed auto_gptq gptq
        gptq_marlin awq_marlin humming compressed-tensors experts_int8 quark moe_wna16 torchao inc mxfp4 gpt_oss_mxfp4
        deepseek_v4_fp8 online fp8_per_tensor fp8_per_block fp8_per_channel int8_per_channel_weight_only
        nvfp4_per_token mxfp8
        """
    )
)
CACHE_DTYPES = tuple(
    _words(
        """
        auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla turboquant_k8v4 turboquant_4bit_nc
        turboquant_k3v4_nc turboquant_3bit_nc int4_per_token_head int8_per_token_head fp8_per_token_head nvfp4
        nvfp4_4over6
        """
    )
)
CPU_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")
"""Those of vLLM's attention on CPUs. vLLM opens an engine there with any other too, and its samples are noise."""
CPU_BLOCK_SIZE = 32
"""Tokens of a block of the key-value cache on CPUs: the least that vLLM's kernels there take.

Samples of one problem share full blocks of their prompt, and vLLM's own 128 are longer than most prompts; attention
over partly filled blocks is wasted too. SmolLM2-135M makes 1.26 times the tokens of blocks of 128 (LOG.md).
"""
SPECULATIVE = frozenset(
    _words(
        """
        enforce_eager num_speculative_tokens model method draft_tensor_parallel_size quantization moe_backend
        attention_backend kv_cache_dtype max_model_len revision code_revision index_share_for_mtp_iteration
        disable_padded_drafter_batch use_local_argmax_reduction use_heterogeneous_vocab prompt_lookup_max
        prompt_lookup_min parallel_drafting num_speculative_tokens_per_batch_size suffix_decoding_max_tree_depth
        suffix_decoding_max_cached_requests suffix_decoding_max_spec_factor suffix_decoding_min_token_prob
        draft_load_config rejection_sample_method enable_adaptive_verification draft_sample_method dspark_draft_topk
        """
    )
)
"""Fields of vLLM's SpeculativeConfig that a user can give and that leave the samples' distribution as it is."""
LOSSLESS = ("standard", "block")
"""Values of `rejection_sample_method` by which drafted tokens have the distribution of the model's own."""


def check_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as plain data. Raises ValueError for one that another key sets, or that vLLM does not have."""
    for name in extra:
        if name in SET_ELSEWHERE:
            raise ValueError(f"{name} cannot be set here: {SET_ELSEWHERE[name]}")
    check_known("vLLM argument", extra, NEUTRAL | DECIDING)
    return _plain(extra)


def check_speculative(given: Mapping[str, Any]) -> dict[str, Any]:
    """The speculative decoding as plain data. Raises ValueError where vLLM has no such field, or samples would change.

    Speculative decoding draws from the model's own distribution, except with vLLM's `synthetic` acceptance.
    """
    if not given:
        return {}
    lossy = [name for name in given if name.startswith("synthetic_")]
    if lossy or given.get("rejection_sample_method", LOSSLESS[0]) not in LOSSLESS:
        raise ValueError(f"synthetic acceptance changes the samples: use rejection_sample_method {LOSSLESS[0]}")
    check_known("field of vLLM's speculative_config", given, SPECULATIVE)
    if "method" not in given and "model" not in given:
        raise ValueError("give method, such as ngram, or model, the draft model")
    return _plain(given)


def check_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError for a name that is not known, with the nearest one that is."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            raise ValueError(f"{name!r} is no {kind}" + (f": did you mean {near[0]}?" if near else ""))


def check_on_cpus(kv_cache_dtype: str, extra: Mapping[str, Any]) -> None:
    """Raises ConfigError for a data type of the cache with which engines without a GPU sample noise, and for blocks
    with which they do not open.
    """
    block = extra.get("block_size", CPU_BLOCK_SIZE)
    if not isinstance(block, int) or block % CPU_BLOCK_SIZE or not block:
        raise ConfigError(f"engine.extra.block_size={block}: on CPUs vLLM takes multiples of {CPU_BLOCK_SIZE} only")
    if kv_cache_dtype not in CPU_CACHE_DTYPES:
        raise ConfigError(
            f"engine.kv_cache_dtype={kv_cache_dtype}: on CPUs vLLM samples noise with it: use one of "
            f"{', '.join(CPU_CACHE_DTYPES)}; auto is the model's own"
        )


def deciding(quantization: str | None, kv_cache_dtype: str, extra: Mapping[str, Any]) -> str:
    """The arguments that change samples, as canonical JSON; empty where there are none.

    Example: `{"quantization": "fp8"}`
    """
    chosen = {name: value for name, value in extra.items() if name not in NEUTRAL}
    if quantization is not None:
        chosen["quantization"] = quantization
    if kv_cache_dtype != "auto":
        chosen["kv_cache_dtype"] = kv_cache_dtype
    return json.dumps(chosen, sort_keys=True) if chosen else ""


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(given, allow_nan=False)))
    except (TypeError, ValueError):
        raise ValueError("must hold texts, numbers, true, false, lists and sections only") from None
