"""Estimated cost of what is left of a plan, before anything runs: shards, tokens and time.

In: a plan, and what of it is not committed. The time is right to an order of magnitude: 2 FLOPs per parameter and
sampled token, 6 per parameter and trained token, at the rates below. The ledger of a finished run has the measured
times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rft_ray.config import Config, Corpus
from rft_ray.config.endpoint import TokenPrice
from rft_ray.config.hardware import BY_NAME, Card
from rft_ray.data import prompts
from rft_ray.data.problems import ProblemSet
from rft_ray.plan.jobs import SamplingJob, TrainingJob
from rft_ray.plan.memory import engine_card, planned_card
from rft_ray.plan.run_plan import Plan, verdicts_of
from rft_ray.plan.samplers import sources
from rft_ray.store import Store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.shards import Shard, missing_shards

CPU_FLOPS = 6.5e10
"""Useful FLOP/s of two CPU cores in sampling and training of small models (LOG.md)."""
GPU_SAMPLE_FLOPS, GPU_TRAIN_FLOPS = 4e13, 9e13
"""Useful FLOP/s of an A100-80GB, from the paper's GPU hours for 7B (10 h for 7,473 x 100 samples)."""
CPU_SAMPLE_TOKENS_PER_S, CPU_TRAIN_TOKENS_PER_S = 6_000.0, 10_000.0
"""Bounds on two CPU cores for models that are too small to be limited by arithmetic. The demo's stages make 3,900 and
7,100 on a loaded machine, 8,900 and 15,000 on an idle one."""
GPU_SAMPLE_TOKENS_PER_S, GPU_TRAIN_TOKENS_PER_S = 30_000.0, 100_000.0
ENGINE_START_S, WORKERS_START_S = 20, 15
ACCEPTED = 0.4
"""Assumed share of samples that are correct."""
CHARACTERS_PER_TOKEN = 3.5
SOLUTION_CHARACTERS_PER_TOKEN = 2.3
"""Solutions are mostly digits and signs: 2.0 for the tiny models' tokenizer, 2.5 for Llama's on GSM8K."""


@dataclass(frozen=True, slots=True)
class Left:
    """What of a plan is not committed.

    Example: Left(frozenset({"completions/41…/p000000/9c….s00000"}), frozenset({"5f…"}))
    """

    shards: frozenset[str]
    """Stems of the shards of completions."""
    models: frozenset[str]
    """Fingerprints of the models that are not trained."""

    def samples(self, job: SamplingJob) -> int:
        """How many samples of a job are missing."""
        missing = (shard for shard in job.shards() if shard.stem in self.shards)
        return sum(shard.problem_stop - shard.problem_start for shard in missing) * job.settings.samples_per_block


def work_left(store: Store, shards: Iterable[Shard], models: Iterable[str]) -> Left:
    """Those of a plan's shards of completions and of its models, by fingerprint, that are not in its store."""
    return Left(
        frozenset(shard.stem for shard in missing_shards(store, shards)),
        frozenset(name for name in models if committed_model(store, name) is None),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """A line of the table: samples or a training, and what is left of them."""

    model: str
    what: str
    shards: int
    missing: int
    """Of the shards."""
    examples: int
    tokens: float
    seconds: float
    """For what is missing."""

    def line(self) -> str:
        return (
            f"{self.model:<16} {self.what:<22} {self.shards:>7,} {self.missing:>8,} {self.examples:>10,} "
            f"{int(self.tokens):>13,} {duration(self.seconds):>9}"
        )


HEAD = f"{'model':<16} {'work':<22} {'shards':>7} {'missing':>8} {'examples':>10} {'tokens':>13} {'about':>9}"


def describe(plan: Plan, sizes: dict[str, int], left: Left, *, gpu: bool) -> str:
    """The plan and the cost of what is left of it, as a table.

    `sizes`: names of `samplers.sources` -> parameters, 0 where unknown; of the models at least.
    The time of models behind endpoints is not estimated.
    """
    config, card = plan.config, planned_card(plan.config)
    sampling_card = card and engine_card(config, card)
    engines = math.ceil(config.engine.max_actors * config.engine.gpus) * (gpu and config.engine.device != "cpu")
    workers = config.training.workers * (gpu and config.training.device != "cpu")
    prompt, response = map(int, mean_tokens(config, plan.train))
    sampled = [*_sampled(plan, sizes, left, response, lambda flops: sampling_rate(flops, engines, sampling_card))]
    trained = [*_trained(plan, sizes, left, prompt + response, lambda flops: training_rate(flops, workers, card))]
    lines = [HEAD, *(work.line() for work in (*sampled, *trained)), *_charges(plan, left, prompt, response)]
    if (judge := config.grading.judge) and plan.judged:
        lines.append(
            f"the judge {judge.source} is asked once for each sample that is graded as {', '.join(judge.statuses)}: "
            "how many these are is not known, so they are not in the estimate"
        )
    sampling_s, training_s = (sum(work.seconds for work in part) for part in (sampled, trained))
    where = "two CPU cores"
    if engines or workers:
        hours = (sampling_s * engines + training_s * workers) / 3600
        usd = config.cost.usd_per_gpu_hour
        money = "" if usd is None else f", {hours * usd:,.2f} US dollars by cost.usd_per_gpu_hour"
        used = dict.fromkeys(kind.name if kind else "A100-80GB" for kind in (card, sampling_card))
        lines.append(f"about {hours:,.1f} GPU-hours of {' and '.join(used)}{money}, without start-up")
        places = [f"{gpus} GPUs" if gpus else where for gpus in (engines, workers)]
        where = f"{places[0]} to sample and {places[1]} to train"
    starts = _starts(plan, left)
    total = duration(sampling_s + training_s + starts)
    lines.append(f"left: about {total} on {where}, {duration(starts)} of it start-up")
    return "\n".join(lines)


def _sampled(
    plan: Plan, sizes: Mapping[str, int], left: Left, response: int, rate: Callable[[float], float]
) -> Iterator[_Work]:
    """`response`: tokens of one sample; `rate`: FLOPs per token -> tokens a second."""
    of_source = {source: sizes[name] for name, source in sources(plan.config).items() if name in sizes}
    for job in [*plan.collected, *verdicts_of(plan.evaluations)]:
        sampling, model = job.sampling, job.sampling.model
        stems = [shard.stem for shard in sampling.shards()]
        missing = 0 if sampling.settings.engine == "openai" else left.samples(sampling)
        seconds = missing * response / rate(2 * of_source.get(model.source, sizes[model.name]))
        what, tokens = f"sample ({model.stage}, {job.purpose})", sampling.planned * response
        undone = len(left.shards.intersection(stems))
        yield _Work(model.name, what, len(stems), undone, sampling.planned, tokens, seconds)


def _trained(
    plan: Plan, sizes: Mapping[str, int], left: Left, tokens_each: int, rate: Callable[[float], float]
) -> Iterator[_Work]:
    """`tokens_each`: of one example; `rate`: as in `_sampled`."""
    for job in plan.trainings:
        count, missing = _examples(plan, job), int(job.fingerprint in left.models)
        tokens = count * tokens_each
        seconds = missing * tokens / rate(6 * sizes[job.model])
        yield _Work(job.model, f"train {job.stage}", 1, missing, count, tokens, seconds)


def _examples(plan: Plan, training: TrainingJob) -> int:
    """The number of examples of a training, over its epochs."""
    samplers, k, corpus = len(plan.collected), plan.config.sampling.samples_per_problem, plan.config.corpus
    if training.stage == "sft":
        return plan.train.solved * training.recipe.epochs
    gold = plan.train.solved if corpus.gold else 0
    found = expected_paths(corpus, k, 1 if training.stage == "rft_self" else samplers, every=corpus.dedup == "none")
    paths = plan.train.count * found
    return int(gold + paths) * training.recipe.epochs


def _starts(plan: Plan, left: Left) -> int:
    """Seconds to start engines, one for each model that still samples, and workers, for both stages of training."""
    engines = len({job.model for job in plan.samplings if left.samples(job)})
    groups = len({job.stage == "sft" for job in plan.trainings if job.fingerprint in left.models})
    return ENGINE_START_S * engines + WORKERS_START_S * groups


def _charges(plan: Plan, left: Left, prompt: int, response: int) -> list[str]:
    """A line for each model behind an endpoint: the tokens that what is left costs, and their price where known."""
    lines = []
    endpoints = plan.config.endpoints
    for sampling in (job.sampling for job in plan.collected if job.sampling.model.name in endpoints):
        endpoint = endpoints[sampling.model.name]
        missing = left.samples(sampling)
        prompts, completions = missing // sampling.settings.samples_per_block * prompt, missing * response
        charged = price(endpoint.price_per_million_tokens, prompts, completions)
        cost = "" if charged is None else f", about {charged:,.2f} by its price_per_million_tokens"
        lines.append(
            f"{sampling.model.name} charges for about {prompts:,} prompt tokens and {completions:,} completion tokens"
            f"{cost} (reasoning not counted)"
        )
    return lines


def price(per_million: TokenPrice, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What these tokens cost; None where no price is known."""
    if not (per_million.prompt or per_million.completion):
        return None
    return (prompt_tokens * per_million.prompt + completion_tokens * per_million.completion) / 1e6


def mean_tokens(config: Config, problems: ProblemSet) -> tuple[float, float]:
    """Mean tokens of prompt and response, from the characters of the gold solutions.

    Without any solution, a response is taken to be as long as `sampling.max_new_tokens` allows.
    """
    rows = problems.problems[: min(problems.count, 1000)]
    question = sum(len(row.question) for row in rows) / len(rows) + len(prompts.stored(config.prompt))
    solutions = [len(row.solution) for row in rows if row.solution]
    response = most = float(config.sampling.max_new_tokens)
    if solutions:
        response = min(sum(solutions) / len(solutions) / SOLUTION_CHARACTERS_PER_TOKEN + 1, most)
    return question / CHARACTERS_PER_TOKEN, response


def expected_paths(corpus: Corpus, k: int, samplers: int, *, every: bool) -> float:
    """Expected paths of a problem in a corpus, of k samples of each of several models.

    `every`: whether it has every correct path, not the distinct ones alone.
    """
    found = ACCEPTED * k * samplers if every else paths_guess(k, samplers)
    return found if corpus.max_paths_per_problem is None else min(found, corpus.max_paths_per_problem)


def paths_guess(k: int, samplers: int) -> float:
    """Expected distinct paths per problem, of k samples of each of several models.

    0.85 k^(1/3) is between the paper's 7B (1.17 at k=1, 5.25 at k=100) and the demo's models (2.0 at k=32). Several
    models find some paths twice: in the paper and in the demo, m of them find m^0.65 times as many as one.
    """
    return min(k, 0.85 * math.pow(k, 1 / 3)) * math.pow(samplers, 0.65)


def sampling_rate(flops_per_token: float, gpus: int, card: Card | None = None) -> float:
    """Tokens per second that are sampled on GPUs, or with none on two CPU cores. `card`: None for an A100-80GB."""
    return _rate(flops_per_token, gpus, card, GPU_SAMPLE_FLOPS, GPU_SAMPLE_TOKENS_PER_S, CPU_SAMPLE_TOKENS_PER_S)


def training_rate(flops_per_token: float, gpus: int, card: Card | None = None) -> float:
    """Tokens per second that are trained on GPUs, or with none on two CPU cores. `card`: None for an A100-80GB."""
    return _rate(flops_per_token, gpus, card, GPU_TRAIN_FLOPS, GPU_TRAIN_TOKENS_PER_S, CPU_TRAIN_TOKENS_PER_S)


def _rate(
    flops_per_token: float, gpus: int, card: Card | None, gpu_flops: float, gpu_tokens: float, cpu_tokens: float
) -> float:
    """Tokens per second, by arithmetic; of small models no more than so many, of each GPU or of two CPU cores."""
    flops = max(flops_per_token, 1)
    if not gpus:
        return min(cpu_tokens, CPU_FLOPS / flops)
    speed = card.tflops / BY_NAME["A100-80GB"].tflops if card else 1.0
    return min(gpu_tokens * gpus, gpus * (gpu_flops * speed) / flops)


def duration(seconds: float) -> str:
    """A duration in its largest fitting unit. Example: `41 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
