"""Which field of the config enters the identity (the fingerprints) of which stage.

In: nothing. Out: a table of every field, which `reference.py` shows and a test holds against the plan. A field that
decides the content of a stage's files enters its identity; a field that only says how to run enters none.
"""

from __future__ import annotations

PROBLEMS = ("train problems", "test problems")
COMPLETIONS = ("completions", "icl completions", "sft completions")
"""The stages that are not made from other completions. `icl`, `sft`, `rft`: answers of these models to the
test problems."""
NONE: tuple[str, ...] = ()
RECIPE = (
    "epochs",
    "learning_rate",
    "batch_size",
    "warmup_ratio",
    "weight_decay",
    "max_tokens",
    "dtype",
    "lora_rank",
    "lora_alpha",
    "grad_accum_dtype",
    "master_weights",
)
PROMPT = ("kind", "template", "system", "chat_kwargs")
ENDPOINT = (
    "base_url",
    "server",
    "key_env",
    "max_concurrency",
    "token_budget",
    "timeout_seconds",
    "retry_seconds",
    "price_per_million_tokens.prompt",
    "price_per_million_tokens.completion",
)
COLUMNS = ("question", "answer", "solution")

IDENTITY: dict[str, tuple[str, ...]] = {
    "run.name": NONE,
    "run.store": NONE,
    "run.base_weights": NONE,
    "run.seed": COMPLETIONS,
    "problems.train.source": ("train problems",),
    # A subset is a prefix of one order: names of problems and shards stay, names of files made from the whole change.
    "problems.train.limit": ("gold corpus",),
    "problems.train.fraction": ("gold corpus",),
    "problems.test.source": ("test problems",),
    "problems.test.limit": ("icl evaluation", "sft evaluation", "rft evaluation"),
    "problems.test.fraction": ("icl evaluation", "sft evaluation", "rft evaluation"),
    # Which column holds what, and what is dropped, enters through the problems that are read.
    **{f"problems.train.{column}": NONE for column in COLUMNS},
    **{f"problems.test.{column}": NONE for column in COLUMNS},
    "problems.duplicates": NONE,
    "problems.decontaminate": NONE,
    "problems.overlap_threshold": NONE,
    "problems.order_seed": PROBLEMS,
    "problems.per_block": PROBLEMS,
    "models.*.name": ("paths",),
    "models.*.source": ("sft", "icl completions"),
    "models.*.seed": ("sft",),
    "models.*.samples": ("completions",),
    "models.*.sample_from": ("sft",),
    "models.*.shots": ("completions",),
    **{f"models.*.prompt.{name}": ("sft", "icl completions") for name in PROMPT},
    "models.*.rft": ("rft", "controls"),
    **{f"prompt.{name}": ("sft", "icl completions") for name in PROMPT},
    # The name of a model behind an endpoint identifies it, whoever serves it.
    **{f"models.*.endpoint.{name}": NONE for name in ENDPOINT},
    **{f"sft.{name}": ("sft",) for name in RECIPE},
    **{f"rft.{name}": ("rft", "controls") for name in (*RECIPE, "from")},
    "sampling.temperature": ("completions",),
    "sampling.top_p": ("completions",),
    # Of the evaluation, the samples that are not greedy.
    "sampling.top_k": ("completions", "sft completions"),
    "sampling.min_p": ("completions", "sft completions"),
    "sampling.repetition_penalty": ("completions", "sft completions"),
    # More samples add shards under the same names; files made from all samples change their name.
    "sampling.samples_per_problem": ("paths",),
    "sampling.samples_per_block": ("completions",),
    "sampling.max_new_tokens": COMPLETIONS,
    "sampling.engine": COMPLETIONS,
    "sampling.max_model_len": COMPLETIONS,
    "grading.mode": ("gold corpus file", "verdicts", "icl verdicts", "sft verdicts"),
    # Equations are read to collect paths, not to evaluate.
    "grading.unread": ("verdicts",),
    # Also the hash of the user's module, where it is module:function.
    "grading.verifier": ("verdicts", "icl verdicts", "sft verdicts"),
    # These three only with a verifier that reads them.
    "grading.pattern": ("verdicts", "icl verdicts", "sft verdicts"),
    "grading.timeout_s": ("verdicts", "icl verdicts", "sft verdicts"),
    "grading.memory_gib": ("verdicts", "icl verdicts", "sft verdicts"),
    "grading.actors": NONE,
    # The judge's answers are completions; with corpus.judge=accept, paths are made from them.
    "grading.judge.source": ("judge answers",),
    "grading.judge.statuses": ("judge answers",),
    **{f"grading.judge.prompt.{name}": ("judge answers",) for name in PROMPT},
    "grading.judge.temperature": ("judge answers",),
    "grading.judge.max_new_tokens": ("judge answers",),
    **{f"grading.judge.endpoint.{name}": NONE for name in ENDPOINT},
    "corpus.gold": ("corpus",),
    "corpus.dedup": ("paths",),
    "corpus.normal_form": ("paths",),
    "corpus.max_paths_per_problem": ("corpus",),
    "corpus.reasoning": ("paths",),
    "corpus.distinct_by": ("paths",),
    "corpus.near_duplicate_threshold": ("paths",),
    "corpus.judge": ("paths",),
    "corpus.reasoning_tags": ("verdicts", "icl verdicts", "sft verdicts"),
    "evaluation.samples_per_problem": ("sft evaluation", "rft evaluation"),
    "evaluation.samples_per_block": ("sft completions", "rft completions"),
    "evaluation.temperature": ("sft completions", "rft completions"),
    "evaluation.icl_shots": ("icl completions",),
    "training.workers": NONE,
    "training.zero_stage": NONE,
    "training.micro_batch_size": NONE,
    # The examples and the loss of a step stay: it changes weights only through floating-point rounding.
    "training.packing": NONE,
    # The same loss up to rounding.
    "training.liger": NONE,
    "training.threads_per_worker": NONE,
    "training.device": NONE,
    "training.checkpoint_minutes": NONE,
    "training.checkpoint_every_steps": NONE,
    "training.max_attempts": NONE,
    "training.wait_minutes": NONE,
    "training.parallel_jobs": NONE,
    "training.scratch_folder": NONE,
    "training.offload_optimizer": NONE,
    "training.activation_checkpointing": NONE,
    "engine.device": NONE,
    "engine.min_actors": NONE,
    "engine.max_actors": NONE,
    "engine.tensor_parallel_size": NONE,
    "engine.pipeline_parallel_size": NONE,
    "engine.gpus_per_engine": NONE,
    "engine.accelerator_type": NONE,
    "engine.threads_per_actor": NONE,
    "engine.max_num_seqs": NONE,
    "engine.max_num_batched_tokens": NONE,
    "engine.shards_in_flight": NONE,
    "engine.kv_cache_gib": NONE,
    "engine.gpu_memory_utilization": NONE,
    # These two change samples only through floating-point rounding, which enters no name.
    "engine.dtype": NONE,
    "engine.quantization": COMPLETIONS,
    "engine.kv_cache_dtype": COMPLETIONS,
    # Drafted tokens have the distribution of the model's own.
    "engine.speculative": NONE,
    # Each argument on its own: `engine_arguments.py`.
    "engine.extra": COMPLETIONS,
    "engine.enforce_eager": NONE,
    "engine.max_restarts": NONE,
    "engine.stall_seconds": NONE,
    "engine.lost_node_minutes": NONE,
    "engine.max_failures": NONE,
    "engine.max_quarantined": NONE,
    # Which shards are left out enters through the plan's `without`.
    "engine.on_failed_shard": NONE,
    "engine.retry_quarantined": NONE,
    "engine.drain_seconds": NONE,
    "engine.script": NONE,
    "hardware.gpu": NONE,
    "hardware.on_misfit": NONE,
    "cost.usd_per_gpu_hour": NONE,
    "controls": ("controls",),
    # The scaling study has a plan of its own, whose points have names of their own.
    "study.questions": NONE,
    "study.headline": NONE,
    "study.k": NONE,
    "study.halvings": NONE,
    "study.equal_steps": NONE,
    "study.seeds": NONE,
    "study.full_grid": NONE,
    "study.pretraining_losses": NONE,
}
"""Field -> the first stages whose identity it enters: all that is made from them changes its identity too."""
