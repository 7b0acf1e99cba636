"""Estimated cost of a plan, before anything runs: shards, tokens and time.

The time is right to an order of magnitude: 2 FLOPs per parameter and sampled token, 6 per parameter and trained token,
at the rates below. The ledger of a finished run has the measured times.
"""

from __future__ import annotations

from math import pow, prod
from pathlib import Path

from safetensors import safe_open

from rft_ray.config import Config
from rft_ray.data import prompts
from rft_ray.data.problems import ProblemSet
from rft_ray.plan.run_plan import Plan, verdicts_of

CPU_FLOPS = 6.5e10
"""Useful FLOP/s of two CPU cores in sampling and training of small models (LOG.md)."""
GPU_SAMPLE_FLOPS, GPU_TRAIN_FLOPS = 4e13, 9e13
"""Useful FLOP/s of an A100-80GB, from the paper's GPU hours for 7B (10 h for 7,473 x 100 samples)."""
MAX_TOKENS_PER_S = 5000.0
"""Bound for models that are too small to be limited by arithmetic, on CPUs."""
ENGINE_START_S, WORKERS_START_S = 20, 30
CHARACTERS_PER_TOKEN = 3.5


def parameters(folder: Path) -> int:
    """Number of weights of a local model, by the headers of its safetensors files; no tensor is loaded."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def describe(plan: Plan, sizes: dict[str, int], *, gpu: bool) -> str:
    """The plan and its cost as a table. `sizes`: model name -> parameters, 0 where unknown."""
    config = plan.config
    prompt, response = map(int, mean_tokens(config, plan.train))
    lines = [f"{'model':<16} {'work':<22} {'shards':>7} {'examples':>10} {'tokens':>13} {'about':>9}"]
    engines, workers = config.engine.max_actors * config.engine.tensor_parallel_size, config.training.workers
    seconds = 0.0
    for job in [*plan.collected, *verdicts_of(plan.evaluations)]:
        sampling = job.sampling
        count, tokens = sampling.planned, sampling.planned * response
        work = f"sample ({sampling.model.stage}, {job.purpose})"
        took = tokens / _rate(2 * sizes[sampling.model.name], engines * GPU_SAMPLE_FLOPS if gpu else CPU_FLOPS)
        shards = sum(1 for _ in sampling.shards())
        lines.append(_line(sampling.model.name, work, shards, count, tokens, took))
        seconds += took
    per_sampler = _paths_guess(plan)
    gold, paths = plan.train.solved, plan.train.count * per_sampler
    union = gold + paths * len(plan.collected)
    guess = {"sft": gold, "rft_self": gold + paths}
    guess |= dict.fromkeys(("rft", "sft_same_steps"), union)
    for training in plan.trainings:
        count = guess[training.stage] * training.recipe.epochs
        tokens = count * (prompt + response)
        took = tokens / _rate(6 * sizes[training.model], workers * GPU_TRAIN_FLOPS if gpu else CPU_FLOPS)
        lines.append(_line(training.model, f"train {training.stage}", 1, count, tokens, took))
        seconds += took
    starts = ENGINE_START_S * len({job.model for job in plan.evaluations}) + WORKERS_START_S * 2
    where = f"{engines} GPUs to sample and {workers} to train" if gpu else "two CPU cores"
    lines.append(f"total: about {duration(seconds + starts)} on {where}, {duration(starts)} of it start-up")
    return "\n".join(lines)


def mean_tokens(config: Config, problems: ProblemSet) -> tuple[float, float]:
    """Mean tokens of prompt and response, from the characters of the gold solutions.

    Without any solution, a response is taken to be as long as `sampling.max_new_tokens` allows.
    """
    rows = problems.problems[: min(problems.count, 1000)]
    question = sum(len(row.question) for row in rows) / len(rows) + len(prompts.stored(config.prompt))
    solutions = [len(row.solution) for row in rows if row.solution]
    most = float(config.sampling.max_new_tokens)
    response = min(sum(solutions) / len(solutions) / CHARACTERS_PER_TOKEN + 1, most) if solutions else most
    return question / CHARACTERS_PER_TOKEN, response


def _paths_guess(plan: Plan) -> int:
    """Distinct paths per problem and model: a power of k through the paper's 1.17 at k=1 and 5.25 at k=100."""
    k = plan.config.sampling.samples_per_problem
    return max(1, round(1.17 * pow(float(k), 0.33)))


def _rate(flops_per_token: float, flops: float) -> float:
    return min(MAX_TOKENS_PER_S if flops == CPU_FLOPS else 1e6, flops / max(flops_per_token, 1))


def _line(model: str, work: str, shards: int, count: int, tokens: float, seconds: float) -> str:
    return f"{model:<16} {work:<22} {shards:>7,} {count:>10,} {int(tokens):>13,} {duration(seconds):>9}"


def duration(seconds: float) -> str:
    """A duration in its largest fitting unit. Example: `41 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
