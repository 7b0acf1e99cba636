"""Which field of the config enters the identity of which stage: a table of every field, and the plan agrees with it.

A field that decides the content of a stage's files must change the fingerprints that name them, or a run would reuse
results of other settings. A field that only says how to run must change none, or a run would repeat work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from rft_ray.config import Config, load
from rft_ray.config.identity import COLUMNS, IDENTITY
from rft_ray.config.loading import known_keys
from rft_ray.corpus.builder import build_corpus
from rft_ray.corpus.selector import Selector
from rft_ray.corpus.verifier import Verifier
from rft_ray.data.problems import commit_problems, prepare_sets
from rft_ray.data.prompts import stored
from rft_ray.judging.asking import ask_about_rejects
from rft_ray.judging.opinions import OpinionReader
from rft_ray.plan.run_plan import Plan, make_plan
from rft_ray.plan.samplers import sources
from rft_ray.sampling.sampler import Sampler
from rft_ray.store import Store, mark_run, open_store, read_table
from rft_ray.store.names import fingerprint_of
from rft_ray.store.shards import Shard

MADE_FROM: dict[str, tuple[str, ...]] = {
    "train problems": (),
    "test problems": (),
    "gold corpus": ("train problems",),
    "gold corpus file": ("gold corpus",),
    "sft": ("gold corpus",),
    "completions": ("sft",),
    "verdicts": ("completions",),
    "judge answers": ("verdicts",),
    "judgements": ("judge answers",),
    "paths": ("verdicts", "judgements"),
    "corpus": ("paths",),
    "rft": ("corpus",),
    "controls": ("corpus",),
    "icl completions": ("train problems", "test problems"),
    "icl verdicts": ("icl completions",),
    "icl evaluation": ("icl verdicts",),
    "sft completions": ("sft", "test problems"),
    "sft verdicts": ("sft completions",),
    "sft evaluation": ("sft verdicts",),
    "rft completions": ("rft", "controls", "test problems"),
    "rft verdicts": ("rft completions",),
    "rft evaluation": ("rft verdicts",),
}
"""Stage -> the stages it is made from; paths from judgements with `corpus.judge=accept` only.

`icl`, `sft`, `rft`: answers of these models to the test problems."""

RECIPE: dict[str, object] = {
    "epochs": 5,
    "learning_rate": 0.5,
    "batch_size": 64,
    "warmup_ratio": 0.5,
    "weight_decay": 0.5,
    "max_tokens": 99,
    "dtype": "float32",
    "lora_rank": 4,
    "lora_alpha": 4,
    "grad_accum_dtype": "float32",
    "master_weights": "base",
}

OTHER: dict[str, object] = {
    "run.name": "other",
    "run.store": "other",
    "run.base_weights": "store",
    "run.seed": 1,
    "problems.train.source": "tiny:train:50",
    "problems.train.limit": 10,
    "problems.train.fraction": 0.5,
    "problems.test.source": "tiny:test:30",
    "problems.test.limit": 10,
    "problems.test.fraction": 0.5,
    **{f"problems.train.{column}": "other" for column in COLUMNS},
    **{f"problems.test.{column}": "other" for column in COLUMNS},
    "problems.duplicates": "drop",
    "problems.decontaminate": "drop",
    "problems.overlap_threshold": 0.5,
    "problems.order_seed": 1,
    "problems.per_block": 5,
    "models.*.name": "other",
    "models.*.source": "z",
    "models.*.seed": 7,
    "models.*.samples": False,
    "models.*.sample_from": "base",
    "models.*.shots": 2,
    "models.*.prompt.kind": "chat",
    "models.*.prompt.template": "Q: {query}",
    "models.*.prompt.system": "Be brief.",
    "models.*.prompt.chat_kwargs": {"enable_thinking": False},
    "models.*.rft": False,
    "models.*.endpoint.base_url": "http://127.0.0.1:1/v1",
    "models.*.endpoint.server": "vllm",
    "models.*.endpoint.key_env": "OTHER",
    "models.*.endpoint.max_concurrency": 2,
    "models.*.endpoint.token_budget": 1000,
    "models.*.endpoint.timeout_seconds": 5,
    "models.*.endpoint.retry_seconds": 5,
    "models.*.endpoint.price_per_million_tokens.prompt": 0.5,
    "models.*.endpoint.price_per_million_tokens.completion": 0.5,
    "prompt.kind": "chat",
    "prompt.template": "Q: {query}",
    "prompt.system": "Be brief.",
    "prompt.chat_kwargs": {"enable_thinking": False},
    **{f"sft.{name}": value for name, value in RECIPE.items()},
    **{f"rft.{name}": value for name, value in RECIPE.items()},
    "rft.from": "sampler",
    "sampling.temperature": 0.5,
    "sampling.top_p": 0.5,
    "sampling.top_k": 50,
    "sampling.min_p": 0.1,
    "sampling.repetition_penalty": 1.1,
    "sampling.samples_per_problem": 16,
    "sampling.samples_per_block": 4,
    "sampling.max_new_tokens": 99,
    "sampling.engine": "vllm",
    "sampling.max_model_len": 512,
    "grading.mode": "paper",
    "grading.verifier": "exact",
    "grading.unread": "reject",
    "grading.pattern": "#### *(.*)",
    "grading.timeout_s": 3,
    "grading.memory_gib": 3,
    "grading.actors": 2,
    "grading.judge.source": "openai:other",
    "grading.judge.statuses": ["wrong_answer"],
    "grading.judge.prompt.kind": "chat",
    "grading.judge.prompt.template": "Judge: {query}",
    "grading.judge.prompt.system": "Be strict.",
    "grading.judge.prompt.chat_kwargs": {"enable_thinking": False},
    "grading.judge.temperature": 1,
    "grading.judge.max_new_tokens": 99,
    "grading.judge.endpoint.base_url": "http://127.0.0.1:1/v1",
    "grading.judge.endpoint.server": "vllm",
    "grading.judge.endpoint.key_env": "OTHER",
    "grading.judge.endpoint.max_concurrency": 2,
    "grading.judge.endpoint.token_budget": 1000,
    "grading.judge.endpoint.timeout_seconds": 5,
    "grading.judge.endpoint.retry_seconds": 5,
    "grading.judge.endpoint.price_per_million_tokens.prompt": 0.5,
    "grading.judge.endpoint.price_per_million_tokens.completion": 0.5,
    "corpus.gold": False,
    "corpus.dedup": "none",
    "corpus.normal_form": "multiset",
    "corpus.max_paths_per_problem": 2,
    "corpus.distinct_by": "answer_and_length",
    "corpus.near_duplicate_threshold": 0.5,
    "corpus.reasoning": "drop",
    "corpus.judge": "accept",
    "corpus.reasoning_tags": ["plan"],
    "evaluation.samples_per_problem": 4,
    "evaluation.samples_per_block": 2,
    "evaluation.temperature": 0.5,
    "evaluation.icl_shots": 2,
    "training.workers": 2,
    "training.zero_stage": 3,
    "training.micro_batch_size": 2,
    "training.packing": "on",
    "training.liger": "on",
    "training.threads_per_worker": 1,
    "training.device": "cpu",
    "training.checkpoint_minutes": 5,
    "training.checkpoint_every_steps": 5,
    "training.max_attempts": 5,
    "training.wait_minutes": 5.5,
    "training.parallel_jobs": 2,
    "training.scratch_folder": "/other",
    "training.offload_optimizer": True,
    "training.activation_checkpointing": "on",
    "engine.device": "cpu",
    "engine.min_actors": 2,
    "engine.max_actors": 3,
    "engine.tensor_parallel_size": 2,
    "engine.pipeline_parallel_size": 2,
    "engine.gpus_per_engine": 0.5,
    "engine.accelerator_type": "A100",
    "engine.threads_per_actor": 1,
    "engine.max_num_seqs": 8,
    "engine.max_num_batched_tokens": 4096,
    "engine.quantization": "fp8",
    "engine.kv_cache_dtype": "fp8",
    "engine.speculative": {"method": "ngram", "num_speculative_tokens": 2},
    "engine.extra": {"hf_overrides": {"rope_theta": 5000}},
    "engine.shards_in_flight": 1,
    "engine.kv_cache_gib": 0.5,
    "engine.gpu_memory_utilization": 0.5,
    "engine.dtype": "float16",
    "engine.enforce_eager": False,
    "engine.max_restarts": 1,
    "engine.stall_seconds": 5,
    "engine.lost_node_minutes": 5.5,
    "engine.max_failures": 1,
    "engine.max_quarantined": 1,
    "engine.on_failed_shard": "continue",
    "engine.retry_quarantined": True,
    "engine.drain_seconds": 5,
    "engine.script": "slow=0.001:",
    "hardware.gpu": "L4",
    "hardware.on_misfit": "continue",
    "cost.usd_per_gpu_hour": 2.5,
    "controls": False,
    "study.questions": [1],
    "study.headline": ["a"],
    "study.k": [1],
    "study.halvings": 1,
    "study.equal_steps": False,
    "study.seeds": 1,
    "study.full_grid": True,
    "study.pretraining_losses": {"a": 2.5},
}
"""Field -> another value than in BASE."""

JUDGED = "--grading={judge: {source: q, statuses: [no_answer, bad_equation]}}"
JUDGE_CHAT = "--grading={judge: {source: q, prompt: {kind: chat}}}"
REGEX = ("pattern", "timeout_s", "memory_gib")
WITH: dict[str, tuple[str, ...]] = {
    **{key: (JUDGED, "--corpus.judge=accept") for key in IDENTITY if key.startswith("grading.judge.")},
    **{f"grading.judge.prompt.{name}": (JUDGE_CHAT, "--corpus.judge=accept") for name in ("system", "chat_kwargs")},
    "corpus.judge": (JUDGED,),
    **{f"grading.{name}": ("--grading={verifier: regex, pattern: '#### (.*)'}",) for name in REGEX},
    **{f"prompt.{name}": ("--prompt.kind=chat",) for name in ("system", "chat_kwargs")},
    **{f"models.*.prompt.{name}": ("--models.0.prompt={kind: chat}",) for name in ("system", "chat_kwargs")},
}
"""Field -> the settings, in both configs, without which it has no effect."""

BASE = (
    "--problems={train: {source: 'tiny:train:20'}, test: {source: 'tiny:test:20'}, per_block: 10}",
    "--models=[{name: a, source: x}, {name: b, source: y}]",
    "--sampling={samples_per_problem: 8, samples_per_block: 8, engine: scripted}",
    "--engine={max_actors: 2}",
    "--evaluation.icl_shots=1",
    "--controls=true",
)


def fields() -> list[str]:
    """Every key of the config that is not a section."""
    keys = list(known_keys())
    return [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]


def plan_of(config: Config) -> Plan:
    train, test = prepare_sets(config.problems)
    bases = {name: fingerprint_of("model", files=source) for name, source in sources(config).items()}
    return make_plan(config, train, test, bases)


@cache
def base(*settings: str) -> tuple[Config, Plan]:
    config = load(None, [*BASE, *settings])
    return config, plan_of(config)


def identities(plan: Plan) -> dict[str, set[str]]:
    """Stage -> the fingerprints of its jobs."""
    stages = {
        "train problems": {plan.train.fingerprint},
        "test problems": {plan.test.fingerprint},
        "gold corpus": {plan.gold.fingerprint},
        "gold corpus file": {plan.gold.key},
        "sft": {job.fingerprint for job in plan.sft},
        "completions": {job.sampling.fingerprint for job in plan.collected},
        "verdicts": {job.fingerprint for job in plan.collected},
        "judge answers": {job.sampling.fingerprint for job in plan.judged},
        "judgements": {job.fingerprint for job in plan.judged},
        "paths": {plan.paths.fingerprint},
        "corpus": {plan.corpus.fingerprint},
        "rft": {job.fingerprint for job in plan.rft},
        "controls": {job.fingerprint for job in (*plan.own, *plan.controls)},
    }
    for name, settings in {"icl": ("icl",), "sft": ("sft",), "rft": ("rft", "rft_self", "sft_same_steps")}.items():
        verdicts = plan.evaluation_verdicts(*settings)
        stages[f"{name} completions"] = {job.sampling.fingerprint for job in verdicts}
        stages[f"{name} verdicts"] = {job.fingerprint for job in verdicts}
        stages[f"{name} evaluation"] = {job.key for job in plan.evaluations_of(*settings)}
    return stages


def test_the_tables_name_only_fields_of_the_config() -> None:
    assert sorted((set(OTHER) | set(IDENTITY)) - set(fields())) == []


@pytest.mark.parametrize("field", fields())
def test_a_field_enters_the_identity_of_the_stages_that_the_table_names(field: str) -> None:
    assert field in IDENTITY, f"{field}: write into config/identity.py which stages' identity it enters"
    value, stages = OTHER[field], IDENTITY[field]
    given = WITH.get(field, ())
    config, plan = base(*given)
    other_config = load(None, [*BASE, *given, f"--{field.replace('*', '0')}={json.dumps(value)}"])
    assert other_config != config
    other_plan = plan_of(other_config)
    before, after = identities(plan), identities(other_plan)
    changed = {stage for stage in MADE_FROM if before[stage] != after[stage]}
    planned = {stage for stage in MADE_FROM if before[stage] | after[stage]}
    downstream = {stage for stage in planned if changed & set(MADE_FROM[stage])}
    assert downstream <= changed
    assert changed - downstream == set(stages)
    assert (other_plan.fingerprint != plan.fingerprint) == bool(changed)


def test_an_extra_argument_that_leaves_samples_as_they_are_enters_no_name() -> None:
    neutral = load(None, [*BASE, "--engine.extra={block_size: 32, async_scheduling: true}"])
    both = load(None, [*BASE, "--engine.extra={block_size: 32, load_format: dummy}"])
    deciding = load(None, [*BASE, "--engine.extra={load_format: dummy}"])
    assert plan_of(neutral).fingerprint == base()[1].fingerprint
    assert plan_of(both).fingerprint == plan_of(deciding).fingerprint != base()[1].fingerprint


@pytest.mark.parametrize("setting", ["top_k=50", "min_p=0.1", "repetition_penalty=1.1"])
def test_greedy_answers_are_the_same_however_samples_are_drawn(setting: str) -> None:
    def names(plan: Plan) -> tuple[set[str], set[str]]:
        jobs = plan.evaluations_of("icl", "sft")
        sampled = {job.samples.sampling.fingerprint for job in jobs if job.samples}
        return {job.greedy.sampling.fingerprint for job in jobs}, sampled

    (greedy, sampled), (same, others) = names(base()[1]), names(plan_of(load(None, [*BASE, f"--sampling.{setting}"])))
    assert greedy == same
    assert sampled
    assert not sampled & others


def test_settings_without_an_effect_leave_old_names_as_they_were() -> None:
    [job, *_] = base()[1].collected
    names = "temperature top_p max_new_tokens samples_per_block prompt shots shots_from max_model_len engine"
    assert set(job.sampling.settings.identity()) == set(names.split())


def contents(plan: Plan, folder: Path) -> dict[str, object]:
    """Key -> rows or bytes of every file that the plan's stages up to the corpora write, with scripted samples."""
    store, config = open_store(str(folder)), plan.config
    mark_run(store)
    for problems in (plan.train, plan.test):
        commit_problems(store, problems)
    build_corpus(plan.gold, store, plan.train, stored(config.prompt))
    verdicts = [*plan.collected, *plan.evaluation_verdicts("icl", "base", "sft", "rft")]
    if config.sampling.engine == "scripted":
        sample = Sampler(store, [job.sampling for job in verdicts], config.engine, False, 0)
        work(sample, (job.sampling.shards() for job in verdicts))
        work(Verifier(store, verdicts), (job.shards() for job in verdicts))
        answers = [job.sampling for job in plan.judged]
        if answers and answers[0].settings.engine == "scripted":
            judge = Sampler(store, answers, config.engine, False, 0, ask=ask_about_rejects)
            work(judge, (sampling.shards() for sampling in answers))
            work(OpinionReader(store, plan.judged), (job.shards() for job in plan.judged))
        elif answers:
            return _rows(store)
        work(Selector(store, plan.path_jobs), (job.shards() for job in plan.path_jobs))
        for corpus in plan.corpora:
            build_corpus(corpus, store, plan.train, stored(config.prompt))
    return _rows(store)


def _rows(store: Store) -> dict[str, object]:
    keys = [key for key in store.list() if "/" in key]
    return {key: read_table(store, key)[0].to_pylist() if key.endswith(".parquet") else store.read(key) for key in keys}


def work(worker: Callable[[Shard], object], jobs: Iterable[Iterable[Shard]]) -> None:
    for shard in chain.from_iterable(jobs):
        worker(shard)


@pytest.fixture(scope="module")
def base_contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return contents(base()[1], tmp_path_factory.mktemp("base"))


WRITTEN = ("run.seed", "problems.", "models.", "prompt.", "sampling.", "grading.", "corpus.", "evaluation.")
"""The fields that can decide what `contents` writes; the others enter training, or say how to run."""


@pytest.mark.parametrize("field", [field for field in fields() if field.startswith(WRITTEN)])
def test_two_configs_never_write_different_content_under_one_name(
    field: str, base_contents: dict[str, object], tmp_path: Path
) -> None:
    own = [*BASE, *WITH.get(field, ())]
    config = load(None, [*own, f"--{field.replace('*', '0')}={json.dumps(OTHER[field])}"])
    written = contents(plan_of(config), tmp_path)
    assert [key for key in written if key in base_contents and written[key] != base_contents[key]] == []
