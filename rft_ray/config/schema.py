"""The sections and fields of a run's configuration, with their defaults and bounds.

Defaults of the method follow the paper (arXiv 2308.01825). `identity.py` lists, for every field, the stages whose
fingerprints it enters.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from rft_ray.config import engine_arguments
from rft_ray.config.endpoint import Endpoint, check_patience
from rft_ray.config.engine_script import parse
from rft_ray.config.errors import ConfigError
from rft_ray.config.grading import FUNCTION, Grading
from rft_ray.config.hardware import Cost, Hardware
from rft_ray.config.models import BaseModelSpec, Prompt, Recipe, RftRecipe
from rft_ray.config.moved_keys import with_new_keys
from rft_ray.config.problems import Problems
from rft_ray.config.section import LONGEST_MINUTES, LONGEST_SECONDS, Name, Place, Section
from rft_ray.config.study import Study
from rft_ray.config.training import Training

MOST_PER_REQUEST = 16_384
"""Samples of one request at most, by vLLM."""


def _check_whole_blocks(k: int, per: int) -> None:
    if k % per:
        nearest = " or ".join(str(n) for n in (k - k % per, k - k % per + per) if n)
        divisor = next(block for block in range(min(k, per), 0, -1) if not k % block)
        raise ValueError(
            f"samples_per_problem={k} must be a multiple of samples_per_block={per}: use {nearest}, or "
            f"samples_per_block={divisor}"
        )


class Run(Section):
    """Where the run lives: `<store>/<name>`."""

    name: Name = "rft"
    """The run's folder in the store."""
    store: Place = "runs"
    """A local folder or `s3://bucket/prefix`."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the sampling."""
    base_weights: Literal["hub", "store"] = "hub"
    """Where nodes take the weights of models of the hub from. `hub`: each node downloads them once, into its HF_HOME,
    or one for all that share it. `store`: one node downloads them and commits them to the run, which the others read.
    """


class Sampling(Section):
    """What decides the samples of the corpus. Paper: T=0.7, 100 samples, 256 new tokens.

    `max_new_tokens`, `engine` and `max_model_len` decide the samples of the evaluation too; `top_k`, `min_p` and
    `repetition_penalty` those that are not greedy.
    """

    temperature: float = Field(0.7, gt=0, le=10)
    """Sampling temperature; vLLM takes 0.01 for any below."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: draw from the most likely tokens of this total probability."""
    top_k: int | None = Field(None, ge=1)
    """Draw from so many of the most likely tokens; null: from all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw from the tokens of at least this share of the most likely one's probability; 0: from all."""
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    """Above 1, tokens of the prompt and of the text so far are less likely; 1: none."""
    samples_per_problem: int = Field(100, ge=1)
    """Samples of each training problem and sampling model (k), a multiple of `samples_per_block`."""
    samples_per_block: int = Field(20, ge=1, le=MOST_PER_REQUEST)
    """Samples per request and shard (n). Raising samples_per_problem samples only the new blocks."""
    max_new_tokens: int = Field(256, ge=1)
    """Tokens of one completion at most; a completion that is cut off counts as truncated."""
    engine: Literal["vllm", "scripted"] = "vllm"
    """`scripted` writes right and wrong answers from the gold solutions, without a model: to test the rest of a run."""
    max_model_len: int | None = Field(None, ge=32)
    """Tokens of prompt and completion together; null: the model's own context. A longer prompt is skipped, counted."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Sampling:
        _check_whole_blocks(self.samples_per_problem, self.samples_per_block)
        return self

    @property
    def beyond_openai(self) -> dict[str, float]:
        """The fields with an effect that OpenAI's API has not."""
        values: dict[str, float] = {} if self.top_k is None else {"top_k": self.top_k}
        if self.min_p:
            values["min_p"] = self.min_p
        return values | ({} if self.repetition_penalty == 1 else {"repetition_penalty": self.repetition_penalty})


class Engine(Section):
    """How samplers run. `quantization`, `kv_cache_dtype` and some arguments of `extra` change samples, so they enter
    the identity of samples; the other keys do not."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` uses GPUs if the cluster has some now. Use `gpu` where an autoscaler adds them on demand."""
    min_actors: int = Field(1, ge=1)
    """Engines that sampling starts with."""
    max_actors: int = Field(1, ge=1)
    """Engines at most."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share each layer of one engine's model."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Groups of `tensor_parallel_size` GPUs that hold the layers of one engine's model one after another. An engine is
    on one node."""
    gpus_per_engine: float | None = Field(None, ge=0.001, le=1)
    """Share of a GPU of one engine, for small models: 0.25 starts four engines on a GPU, each with a quarter of
    `gpu_memory_utilization`. null: whole GPUs, `tensor_parallel_size` x `pipeline_parallel_size`."""
    accelerator_type: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Ray's name of the only type of GPU that engines run on, such as A100 or H100; null: any."""
    threads_per_actor: int = Field(2, ge=1)
    """CPU threads of one engine, where there is no GPU."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences that one engine generates at once."""
    max_num_batched_tokens: int | None = Field(None, ge=1)
    """Tokens that one step of an engine computes, of prompts and samples; null: vLLM's 2,048, or `max_num_seqs` where
    that is more."""
    shards_in_flight: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Shards in one engine at once: the requests of the next shard join the batch before the last shard is done.
    `auto`: 4, and more of small ones, up to 32, until the engine has twice the sequences that it generates at once
    (`max_num_seqs`, or `max_concurrency` of an endpoint), where that leaves the other engines their share."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """Key-value cache of an engine without a GPU, in GiB."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory that its engines take."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Data type of the weights in sampling; `auto`: the model's own, and by vLLM's rule bfloat16 for float32."""
    quantization: str | None = None
    """vLLM's method of quantization, such as fp8 or awq; null: as the model's files are."""
    kv_cache_dtype: str = "auto"
    """Data type of the key-value cache, such as fp8; `auto`: that of the model. On CPUs only `auto`, fp8, fp8_e4m3 and
    fp8_e5m2: vLLM samples noise there with any other."""
    speculative: dict[str, Any] = Field({})
    """Speculative decoding: vLLM's `speculative_config`, such as `{method: ngram, num_speculative_tokens: 4,
    prompt_lookup_max: 4}`. The samples' distribution stays as it is. On GPUs only: on CPUs vLLM draws wrong tokens with
    it, and engines do without."""
    extra: dict[str, Any] = Field({})
    """Any other engine argument of vLLM, such as `{block_size: 32}`; the lists at the end of this page say which of
    them enter the identity of samples."""
    enforce_eager: Literal["auto"] | bool = "auto"
    """false compiles the model and captures graphs first: a slower start and faster sampling. `auto`: true without a
    GPU, false with one."""
    max_restarts: int = Field(3, ge=0)
    """How many times the process of an engine may be lost before sampling stops, apart from the losses that
    `max_failures` and `max_quarantined` allow to shards."""
    stall_seconds: float = Field(1800, gt=0, le=LONGEST_SECONDS)
    """The process of an engine that makes no step for so long (an endpoint: no answer) is ended; while it loads a
    model, one that receives no byte and reads less than 16 MiB for so long. It need not cover a download or a slow
    disk, but compiling and capturing graphs."""
    lost_node_minutes: float = Field(5, gt=0, le=LONGEST_MINUTES)
    """How long sampling waits for the replacement of a lost node, once all other shards are sampled; then other engines
    sample its shards."""
    max_failures: int = Field(3, ge=1)
    """How many times a shard that is alone in an engine may fail before it is quarantined: docs/reliability.md."""
    max_quarantined: int = Field(10, ge=0)
    """Sampling stops when it has quarantined more shards than this: then the engine is at fault, not the shards."""
    on_failed_shard: Literal["stop", "continue"] = "stop"
    """With shards quarantined and all others sampled: end with exit code 1, or go on without their samples."""
    retry_quarantined: bool = False
    """Try shards that an earlier run has quarantined `max_failures` times more."""
    drain_seconds: float = Field(30, ge=0, le=LONGEST_SECONDS)
    """How long shards in flight may take to be committed after SIGTERM."""
    script: str = ""
    """Planned faults and times of the scripted engine, for tests: `config/engine_script.py`."""

    @model_validator(mode="after")
    def _ordered(self) -> Engine:
        if self.max_actors < self.min_actors:
            raise ValueError(f"max_actors={self.max_actors} is less than min_actors={self.min_actors}")
        parse(self.script)
        return self

    @field_validator("extra")
    @classmethod
    def _known_arguments(cls, extra: dict[str, Any]) -> dict[str, Any]:
        return engine_arguments.check_extra(extra)

    @field_validator("speculative")
    @classmethod
    def _lossless(cls, speculative: dict[str, Any]) -> dict[str, Any]:
        return engine_arguments.check_speculative(speculative)

    @field_validator("quantization", "kv_cache_dtype")
    @classmethod
    def _known_method(cls, name: str | None, field: ValidationInfo) -> str | None:
        known = {"quantization": engine_arguments.QUANTIZATIONS, "kv_cache_dtype": engine_arguments.CACHE_DTYPES}
        if name is not None:
            engine_arguments.check_known("value that vLLM takes", [name], known[str(field.field_name)])
        return name

    @model_validator(mode="after")
    def _whole_batch(self) -> Engine:
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is less than max_num_seqs={self.max_num_seqs}: "
                "a step computes at least one token of each sequence"
            )
        return self

    @model_validator(mode="after")
    def _placed(self) -> Engine:
        whole = self.tensor_parallel_size * self.pipeline_parallel_size
        if self.gpus_per_engine is not None and whole > 1:
            raise ValueError(
                f"gpus_per_engine={self.gpus_per_engine:g} is for engines on one GPU, and tensor_parallel_size x "
                f"pipeline_parallel_size is {whole}: leave it out"
            )
        if self.accelerator_type and self.device == "cpu":
            raise ValueError("accelerator_type needs GPUs: leave it out with device: cpu")
        return self

    @property
    def gpus(self) -> float:
        """GPUs of one engine: a number of whole ones, or a share of one."""
        return self.gpus_per_engine or self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def deciding_arguments(self) -> str:
        """The arguments of vLLM that change samples, as canonical JSON; empty where there are none."""
        return engine_arguments.deciding(self.quantization, self.kv_cache_dtype, self.extra)


DISTINCT_BY = ("equations", "normalised_text", "answer_and_length")


class Corpus(Section):
    """Which correct paths are in the corpus of RFT, and whether the gold solutions are."""

    gold: bool = True
    """Whether the gold solutions are in the corpus."""

    dedup: Literal["equations", "none", "random"] = "equations"
    """`equations`: one path per distinct equation list. `none`: every correct path (the paper's ablation). `random`: as
    many correct paths of each problem as it has distinct lists, drawn at random."""
    normal_form: Literal["as_written", "sorted_operands", "multiset"] = "as_written"
    """Paths are equal if their equations are: as written (paper), with sorted operands of + and *, or in any order."""
    max_paths_per_problem: int | None = Field(None, ge=1)
    """At most so many paths per problem, without gold, taken from the models in turn, the first first; null: all."""
    reasoning: Literal["keep", "drop"] = "keep"
    """Whether training texts keep the reasoning of the paths. It is never graded, nor read for equations."""
    reasoning_tags: tuple[str, ...] = ("think",)
    """Tags of reasoning: `<think>…</think>`, or a text that begins inside it and has the closing tag only."""
    distinct_by: str | None = None
    """What equal paths share: `equations`, `normalised_text`, `answer_and_length`, or the key that `module:function`
    returns. null: `equations` with `grading.verifier=gsm8k`, else `normalised_text`."""
    near_duplicate_threshold: float | None = Field(None, gt=0, le=1)
    """Leave out a path that shares this part of its word 4-grams, or more, with one kept before it; null: none."""
    judge: Literal["ignore", "accept"] = "ignore"
    """`accept`: rejected completions that `grading.judge` calls right are candidates for paths too, marked."""

    @field_validator("distinct_by")
    @classmethod
    def _known(cls, distinct_by: str | None) -> str | None:
        if distinct_by is None or distinct_by in DISTINCT_BY or FUNCTION.fullmatch(distinct_by):
            return distinct_by
        raise ValueError(f"distinct_by: use {', '.join(DISTINCT_BY)}, or module:function, not {distinct_by!r}")

    @field_validator("reasoning_tags")
    @classmethod
    def _named_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for tag in tags:
            if not re.fullmatch(r"[\w.|-]{1,64}", tag):
                raise ValueError(f"reasoning_tags: write the name of a tag without < and >, not {tag!r}")
        return tags


class Evaluation(Section):
    """maj1@1, one greedy answer, always. Over `samples_per_problem` samples, where there are any: maj@k, the answer of
    most of k samples, and pass@k, whether at least one of k is right."""

    samples_per_problem: int = Field(8, ge=0)
    """Samples of each test problem, apart from the greedy one; 0: none."""
    samples_per_block: int = Field(4, ge=1, le=MOST_PER_REQUEST)
    """Samples per request and shard, as in `sampling`."""
    temperature: float = Field(0.7, gt=0, le=10)
    """Sampling temperature of these samples, as in `sampling`."""
    icl_shots: int = Field(0, ge=0, le=32)
    """Worked examples in an in-context evaluation of each base model (paper: 8); 0: no such evaluation."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Evaluation:
        _check_whole_blocks(self.samples_per_problem, self.samples_per_block)
        return self


class Config(Section):
    """One run. What only says how to run (`training`, most of `engine`, `hardware`, `cost`) enters no fingerprint."""

    run: Run = Run()
    problems: Problems = Problems()
    models: tuple[BaseModelSpec, ...] = Field(min_length=1)
    prompt: Prompt = Prompt()
    sft: Recipe | None = Recipe()
    """Fine-tuning on the gold solutions; null: none, so that the base models sample."""
    rft: RftRecipe = RftRecipe()
    sampling: Sampling = Sampling()
    grading: Grading = Grading()
    corpus: Corpus = Corpus()
    evaluation: Evaluation = Evaluation()
    training: Training = Training()
    engine: Engine = Engine()
    hardware: Hardware = Hardware()
    cost: Cost = Cost()
    controls: bool = False
    """Train and evaluate two controls per model, to separate the causes of RFT's gain: `rft_self` (RFT on the model's
    own paths only) and `sft_same_steps` (gold only, with as many optimizer steps as its RFT on the union)."""
    study: Study = Study()

    @model_validator(mode="before")
    @classmethod
    def _old_keys(cls, tree: Any) -> Any:
        return with_new_keys(tree) if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _script_has_its_engine(self) -> Config:
        if self.engine.script and self.sampling.engine != "scripted":
            raise ValueError("engine.script needs sampling.engine: scripted")
        return self

    @model_validator(mode="after")
    def _even_batches(self) -> Config:
        for recipe in filter(None, (self.sft, self.rft)):
            check_batch(self.training, recipe)
        return self

    @model_validator(mode="after")
    def _sound_models(self) -> Config:
        names = [model.name for model in self.models]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"models: the name {sorted(repeated)[0]!r} is given twice")
        if not any(model.samples for model in self.models):
            raise ValueError("models: at least one model must have samples: true")
        asked = [model.name for model in self.models if model.sample_from == "sft"]
        if asked and self.sft is None:
            raise ValueError(
                f"models: {asked[0]!r} has sample_from: sft, and the section sft is null: write sample_from: base, or "
                "give sft a recipe"
            )
        for model in self.models:
            if model.samples_from_endpoint:
                check_patience(f"model {model.name!r}", model.endpoint, self.engine.stall_seconds)
        for name in {*self.study.headline, *self.study.pretraining_losses} - set(names):
            near = difflib.get_close_matches(name, names, 1, 0) or names
            raise ValueError(f"study: there is no model {name!r}; nearest: {near[0]!r}")
        return self

    @model_validator(mode="after")
    def _sound_sampling(self) -> Config:
        if self.engine.speculative and self.sampling.min_p:
            raise ValueError("sampling.min_p: vLLM has no min_p with engine.speculative: leave one of them out")
        for at, model in enumerate(self.models):
            asked = list(self.sampling.beyond_openai)
            if asked and model.samples_from_endpoint and model.endpoint.server != "vllm":
                raise ValueError(
                    f"models.{at}: OpenAI's API has no {' and no '.join(asked)}: set models.{at}.endpoint.server: vllm "
                    f"where its server is vLLM or takes the same fields, or leave out sampling.{asked[0]}"
                )
        return self

    @model_validator(mode="after")
    def _sound_judge(self) -> Config:
        judge = self.grading.judge
        if judge is None and self.corpus.judge == "accept":
            raise ValueError("corpus.judge: accept needs grading.judge: name a model that judges, or write ignore")
        if judge and judge.is_endpoint:
            check_patience("grading.judge", judge.endpoint, self.engine.stall_seconds)
        return self

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Model name -> endpoint, of the models that are behind one."""
        return {model.name: model.endpoint for model in self.models if model.samples_from_endpoint}

    def to_yaml(self) -> str:
        """The resolved config as YAML, with every value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_batch(settings: Training, recipe: Recipe) -> None:
    """Raises ConfigError where `workers` workers cannot share optimizer steps of `batch_size` examples evenly."""
    if recipe.batch_size % settings.workers:
        fitting = [n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0]
        nearest = min(fitting, key=lambda n: (abs(n - settings.workers), n))
        raise ConfigError(
            f"training.workers={settings.workers} cannot share batch_size={recipe.batch_size} evenly; "
            f"nearest number of workers that can: {nearest}"
        )
