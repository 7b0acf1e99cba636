"""Config and data -> what would go wrong in a run, before anything runs.

In: a config and its two problem sets. Out: notes for the user, on settings that are valid and doubtful; ConfigError
where the run could only fail. Numbers of tokens in notes are estimates, from characters.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator, Sequence

from rft_ray.config import BaseModelSpec, Config, ConfigError, Endpoint, Recipe
from rft_ray.config.engine_arguments import check_on_cpus
from rft_ray.config.hardware import BY_NAME, CARDS, card_of_type
from rft_ray.data import base_models, prompts
from rft_ray.data.model_checks import RunTexts, check_model
from rft_ray.data.problems import ProblemSet
from rft_ray.grading import extract_answer, judging
from rft_ray.grading.answers import Answer
from rft_ray.grading.reasoning import Reasoning
from rft_ray.grading.spec import distinct_by
from rft_ray.plan.cost import CHARACTERS_PER_TOKEN
from rft_ray.plan.model_shape import shape_of
from rft_ray.plan.samplers import learns_gold, prompt_of
from rft_ray.store.models.folder import read_json

MOST_CHARACTERS_PER_TOKEN = 12
"""No tokenizer packs a whole text of words and numbers more densely."""
DOUBTFUL_SHARE = 0.25
"""A limit that cuts more than this share of the gold solutions is worth a note."""
CHECKED_PROBLEMS = 50
"""Problems whose texts each model's tokenizer is tried on."""


def notes(config: Config, train: ProblemSet, test: ProblemSet) -> Iterator[str]:
    """One line for each doubtful setting. Raises ConfigError where no example would fit a recipe's `max_tokens`."""
    for name, problems in (("train", train), ("test", test)):
        limit = getattr(config.problems, name).limit
        if limit is not None and problems.count > limit:
            yield (
                f"problems.{name}: limit {limit:,} is rounded up to {problems.count:,}, whole blocks of problems "
                f"(problems.per_block={config.problems.per_block})"
            )
        if config.grading.mode == "paper" and config.grading.verifier == "gsm8k":
            yield from _misread(name, problems)
    yield from _accelerator(config.engine.accelerator_type)
    yield from _endpoints(config)
    yield from _starts(config)
    yield from _without_effect(config)
    yield from _shots(config, train)
    yield from _inside_reasoning(config, train)
    template = len(prompts.stored(config.prompt))
    used = train.problems[: train.count]
    examples = [template + len(row.question) + len(row.solution) for row in used]
    for section, recipe in (("sft", config.sft), ("rft", config.rft)):
        if recipe:
            yield from _max_tokens(section, recipe, examples)
    solutions = [len(row.solution) for row in used]
    limit = config.sampling.max_new_tokens
    if (share := _longer(solutions, limit)) > DOUBTFUL_SHARE:
        yield (
            f"sampling.max_new_tokens={limit}: about {share:.0%} of the gold solutions are longer; as long a sample is "
            "cut and counts as truncated: raise it"
        )


def check_models(config: Config, train: ProblemSet) -> list[str]:
    """One line for each doubtful chat template. A base model's config and tokenizer are loaded, and no weights.

    Raises ModelError where a model cannot be used.
    """
    lines: list[str] = []
    checked = train.problems[: train.count : max(1, train.count // CHECKED_PROBLEMS)]
    responses = [row.solution for row in checked if row.solution]
    pairs: dict[tuple[str, str], Sequence[str]] = {}
    for model in config.models:
        for source in _read_by(model):
            learns = source == model.source and _leaves_open(config, model, train)
            pair = source, prompt_of(config, model)
            pairs[pair] = config.corpus.reasoning_tags if learns else pairs.get(pair, ())
    for (source, form), unclosed in pairs.items():
        questions = [prompts.build(form, row.question) for row in checked]
        texts = RunTexts(
            prompts=questions,
            responses=responses,
            context=config.sampling.max_model_len,
            unclosed=unclosed,
        )
        lines += check_model(source, base_models.metadata(source), texts)
    judge = config.grading.judge
    asked = [judge.source] if judge and not judge.is_endpoint else []
    sampled = sorted({*(source for source, _ in pairs), *asked})
    _check_heads(config, sampled)
    _check_context(config, sampled)
    if judge and asked:
        form = prompts.stored(judge.prompt)
        questions = [prompts.build(form, judging.question(row, row.solution, "0" * 12)) for row in checked]
        texts = RunTexts(prompts=questions, responses=(), context=config.sampling.max_model_len)
        check_model(judge.source, base_models.metadata(judge.source), texts)
    return lines


def _check_heads(config: Config, sources: Sequence[str]) -> None:
    """Raises ConfigError where vLLM cannot divide the attention heads of a model among the GPUs of an engine."""
    gpus = config.engine.tensor_parallel_size
    if gpus == 1 or config.sampling.engine != "vllm":
        return
    for source in sources:
        shape = shape_of(read_json(base_models.metadata(source) / "config.json", source), 1)
        if shape and not shape.divides_by(gpus):
            fitting = ", ".join(str(n) for n in range(1, shape.heads + 1) if shape.divides_by(n))
            raise ConfigError(
                f"engine.tensor_parallel_size={gpus} cannot divide the {shape.heads} attention heads of {source} "
                f"evenly: use {fitting}; engine.pipeline_parallel_size divides layers instead"
            )


def _check_context(config: Config, sources: Sequence[str]) -> None:
    """Raises ConfigError where vLLM opens no engine, as `sampling.max_model_len` is more than a model's context.

    Not where positions may be scaled: by the model's own config, by an argument of vLLM or by its variable.
    """
    asked, scaled = config.sampling.max_model_len, "hf_overrides" in config.engine.extra
    if asked is None or config.sampling.engine != "vllm" or scaled or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        return
    for source in sources:
        tree = read_json(base_models.metadata(source) / "config.json", source)
        tree = tree.get("text_config") or tree
        own = tree.get("max_position_embeddings")
        rope = [tree.get("rope_scaling"), tree.get("rope_parameters")]
        if own is None or asked <= own or "model_max_length" in tree or "factor" in json.dumps(rope):
            continue
        raise ConfigError(
            f"sampling.max_model_len={asked} is more than the context of {source}, {own} tokens: lower it, or leave it "
            "out for the model's own context"
        )


def _read_by(model: BaseModelSpec) -> list[str]:
    """The sources whose tokenizers read the prompts of a model of the config."""
    own = [] if model.is_endpoint else [model.source]
    return [*own, model.other_sampler] if model.other_sampler and not model.samples_from_endpoint else own


def _accelerator(name: str | None) -> Iterator[str]:
    """One line where no card of the table has this type of Ray's: engines may wait for it for ever."""
    if name is None or card_of_type(name):
        return
    types = [name for card in CARDS for name in card.ray]
    near = BY_NAME[name].ray[:1] if name in BY_NAME else difflib.get_close_matches(name.upper(), types, 1, 0.8)
    yield (
        f"engine.accelerator_type={name} is none of Ray's types of the cards in docs/cost.md"
        + (f", did you mean {near[0]}?" if near else ":")
        + " Engines wait for a node of this type, and whether models fit it is not checked"
    )


def _endpoints(config: Config) -> Iterator[str]:
    """One line for each endpoint that would not be asked, or not with a key."""
    for at, model in enumerate(config.models):
        yield from _endpoint(f"models.{at}", model.source, model.endpoint, asked=model.samples_from_endpoint)
        if model.samples_from_endpoint and "think" not in config.corpus.reasoning_tags:
            yield (
                f"models.{at}: reasoning that an endpoint gives apart is put between <think> and </think>, and would "
                "be graded: add think to corpus.reasoning_tags"
            )
    if judge := config.grading.judge:
        yield from _endpoint("grading.judge", judge.source, judge.endpoint, asked=judge.is_endpoint)


def _endpoint(key: str, source: str, endpoint: Endpoint, *, asked: bool) -> Iterator[str]:
    if not asked and endpoint != Endpoint():
        yield f"{key}.endpoint has no effect: the source {source} is not openai:<model>"
    if asked and endpoint.key_env and not os.environ.get(endpoint.key_env):
        yield (
            f"{key}: the environment variable {endpoint.key_env} is not set here: set it where the samplers run, or "
            f"set {key}.endpoint.key_env=null for an endpoint without a key"
        )


def _starts(config: Config) -> Iterator[str]:
    """One line for each model whose training cannot start from what samples for it."""
    for at, model in enumerate(config.models):
        if config.rft.from_ == "sampler" and model.rft and model.other_sampler:
            yield (
                f"models.{at}: its training starts from its base {model.source} in spite of rft.from=sampler: what "
                f"samples for it is another model, {model.other_sampler}"
            )


def _without_effect(config: Config) -> Iterator[str]:
    """One line for each setting that changes nothing beside another one."""
    for section, recipe in (("sft", config.sft), ("rft", config.rft)):
        if recipe and not recipe.lora_rank and recipe.lora_alpha != Recipe().lora_alpha:
            yield f"{section}.lora_alpha has no effect with {section}.lora_rank=0, but gives the models other names"
        offloads = config.training.offload_optimizer and not config.training.zero_stage
        if recipe and offloads and recipe.dtype == "float32":
            yield (
                f"training.offload_optimizer has no effect on {section}: with {section}.dtype=float32 it needs "
                "training.zero_stage=1 or more"
            )
    shared = distinct_by(config.corpus.distinct_by, config.grading.verifier)
    if config.corpus.normal_form != "as_written" and shared != "equations":
        yield f"corpus.normal_form has no effect where equal paths share {shared} (corpus.distinct_by), not equations"


def _shots(config: Config, train: ProblemSet) -> Iterator[str]:
    """One line for each number of worked examples that the training set has not."""
    solved = sum(bool(row.solution) for row in train.problems)
    asked = {f"models.{at}.shots": model.shots for at, model in enumerate(config.models) if model.samples}
    for key, shots in (asked | {"evaluation.icl_shots": config.evaluation.icl_shots}).items():
        if shots > solved:
            yield f"{key}={shots}: the training set has {solved:,} worked solutions, so that prompts show no more"


def _inside_reasoning(config: Config, train: ProblemSet) -> Iterator[str]:
    """One line for each template of prompts that ends inside reasoning, where training texts do not close it."""
    for model in config.models:
        opens = Reasoning.after(prompt_of(config, model), config.corpus.reasoning_tags).begins_inside
        if opens and (texts := _leaves_open(config, model, train)):
            yield (
                f"the prompt of {model.name!r} ends inside reasoning, and {texts} do not close it, so that answers of "
                "the trained model are not graded: end the template before the tag"
            )


def _leaves_open(config: Config, model: BaseModelSpec, train: ProblemSet) -> str:
    """What the model learns that has no closing tag of reasoning, in words; empty where it learns no such texts."""
    gold = learns_gold(config, model) or (model.rft and config.corpus.gold)
    used, tags = train.problems[: train.count], config.corpus.reasoning_tags
    if gold and any(row.solution and not any(f"</{tag}>" in row.solution for tag in tags) for row in used):
        return "the gold solutions that it learns"
    return (
        "with corpus.reasoning=drop the paths that it learns" if model.rft and config.corpus.reasoning == "drop" else ""
    )


def _misread(name: str, problems: ProblemSet) -> Iterator[str]:
    """A line where the paper's rules read other numbers in gold answers than strict mode does, such as 1 in `1/3`."""
    misread = []
    for problem in problems.problems[: problems.count]:
        final = f"#### {problem.answer}"
        paper, strict = extract_answer(final, "paper"), extract_answer(final)
        if strict is not None and (paper is None or not _same(paper, strict)):
            misread.append((problem.answer, paper))
    if misread:
        answer, paper = misread[0]
        yield (
            f"problems.{name}: grading.mode=paper reads {len(misread):,} gold answers wrongly, {answer!r} as "
            f"{paper.text if paper else 'nothing'!r}, and grades by that: set grading.mode=strict"
        )


def _same(paper: Answer, strict: Answer) -> bool:
    try:
        return float(paper.value) == float(strict.value)
    except OverflowError:  # of a number beyond every float, the paper's rules read infinity
        return True


def missing_gpus(config: Config, gpus: int) -> Iterator[str]:
    """One line for each section that asks for more GPUs than this machine has, or for what only GPUs do.

    Raises ConfigError where engines that are to have no GPU would sample noise, or not open.
    """
    on_cpus = config.engine.device == "cpu" or (config.engine.device == "auto" and not gpus)
    if on_cpus and config.sampling.engine == "vllm":
        try:
            check_on_cpus(config.engine.kv_cache_dtype, config.engine.extra)
        except ConfigError as error:
            if config.engine.device == "cpu":
                raise
            yield f"{error}, or run it where there are GPUs"
    if config.engine.speculative and on_cpus:
        yield "engine.speculative has no effect on CPUs, where vLLM draws wrong tokens with it: engines do without"
    sampling = math.ceil(config.engine.min_actors * config.engine.gpus)
    for section, device, needed in (
        ("engine", config.engine.device, sampling),
        ("training", config.training.device, config.training.workers),
    ):
        if device == "gpu" and needed > gpus:
            yield (
                f"{section}.device=gpu needs {needed} GPU{'s' * (needed > 1)}, and this machine has {gpus or 'none'}: "
                f"run it on a cluster that has or adds them, or set {section}.device=cpu"
            )


def _max_tokens(section: str, recipe: Recipe, examples: Sequence[int]) -> Iterator[str]:
    limit = recipe.max_tokens
    if min(examples) > limit * MOST_CHARACTERS_PER_TOKEN:
        shortest = min(examples) / CHARACTERS_PER_TOKEN
        raise ConfigError(
            f"{section}.max_tokens={limit}: no example fits, the shortest has about {shortest:.0f} tokens of "
            "prompt and solution: raise it (default: 512)"
        )
    if (share := _longer(examples, limit)) > DOUBTFUL_SHARE:
        yield (
            f"{section}.max_tokens={limit}: about {share:.0%} of the gold examples are longer (prompt and solution) "
            "and are left out of the training: raise it"
        )


def _longer(characters: Sequence[int], tokens: int) -> float:
    """The share of texts of these lengths that have more than `tokens` tokens."""
    return sum(length / CHARACTERS_PER_TOKEN > tokens for length in characters) / len(characters)
