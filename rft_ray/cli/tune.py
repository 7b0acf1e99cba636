"""Find the engine settings that sample a config's own prompts fastest, on this machine.

    rft-ray tune --config mine.yaml
    rft-ray tune mine.yaml --model llama-7b --minutes 40 --engine.gpu_memory_utilization=0.95
    rft-ray tune mine.yaml --try max_num_seqs=256,512 --try extra.block_size=16,32
    ray job submit --entrypoint-num-gpus 1 --working-dir . -- rft-ray tune mine.yaml      # on a node of a cluster

CONFIG is a YAML file, or the name of a shipped config: {configs}.
An engine with the config's own settings, and then others with one setting changed, each sample the same prompts of its
training problems, as a run does: with its prompt format, samples per block and context. Each engine is in a process of
its own: one that does not open or runs out of memory is a row of the table, and the search goes on. Varied are
max_num_seqs and max_num_batched_tokens, and on GPUs also enforce_eager and kv_cache_dtype; --try varies other keys
instead. Of the model that samples its fine-tuned weights are used where the run has made them, else its base's: a base
may write longer completions.

Prints a table (tokens/s, sequences that vLLM preempted, peak use of the key-value cache, memory, which settings fit),
by the engine's own statistics, and the lines of YAML to put into the config. Writes nothing. Ctrl-C ends the search and
prints what is known.

Exit codes: 0 done, 1 no settings could be measured, 2 the config, the data or a model cannot be used, 130 stopped by
Ctrl-C, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rft_ray.cli.job import config_file, parse, shipped_configs
from rft_ray.config import Config, ConfigError, Engine, load
from rft_ray.config.errors import RftError
from rft_ray.runtime.gpus import usable_gpus

if TYPE_CHECKING:
    from rft_ray.plan.jobs import ModelRef, SamplingJob
    from rft_ray.plan.run_plan import Plan
    from rft_ray.sampling.tuning import Axis, Outcome
    from rft_ray.sampling.tuning_child import Task
    from rft_ray.store import Store


@dataclass(frozen=True)
class Tuning:
    """What is tried, and on what."""

    task: Task
    """With the config's own engine settings."""
    varied: Sequence[Axis]
    model: str
    """The model's name, and which weights it has."""


def main(argv: Sequence[str], prog: str = "rft-ray tune") -> int:
    """Run the search and return its exit code."""
    options, settings = arguments(argv, prog)
    try:
        tuning = prepare(options, settings)
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(tuning, options), flush=True)
    return 0 if options.dry_run else carry_out(tuning, options.minutes * 60)


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """Parsed options, and the `--section.key=value` settings."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG [--section.key=value …] [--model NAME] [--prompts N] [--minutes M] [--try KEY=V,V …]",
        description=(__doc__ or "").format(configs=", ".join(shipped_configs())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help="the config's model to sample (default: the first that samples here)")
    add("--prompts", type=int, default=200, metavar="N", help="training problems to sample (default: %(default)s)")
    add("--minutes", type=float, default=20, metavar="M", help="end the search after so long (default: %(default)s)")
    add("--try", action="append", default=[], dest="tried", metavar="KEY=V,V", help="vary this key of engine instead")
    add("--dry-run", action="store_true", help="print what would be tried; start no engine")
    options, settings = parse(parser, argv)
    if options.prompts < 1 or not 0 < options.minutes < math.inf:
        parser.error("--prompts must be at least 1, and --minutes a number above 0")
    return options, settings


def prepare(options: argparse.Namespace, settings: Sequence[str]) -> Tuning:
    """Read and check everything, and find the model's files. Starts nothing. Raises an InputError."""
    config = load(config_file(options.config), settings)
    gpu = on_gpus(config)

    from rft_ray import pipeline
    from rft_ray.data.prompts import shots_of
    from rft_ray.plan import checks
    from rft_ray.sampling import tuning
    from rft_ray.sampling.tuning_child import Task

    asked = [tuning.asked_axis(text) for text in options.tried]
    for axis in asked:
        if axis.key.startswith("speculative") and not gpu:
            raise ConfigError(f"--try {axis.key}: engines on CPUs do without speculative decoding")
        for value in axis.values:
            tuning.with_value(config.engine, axis.key, value)
    plan, store = pipeline.prepare(config)
    job = sampling_of(plan, options.model)
    checks.check_models(plan.config, plan.train)
    folder, weights = files_of(job.model, plan, store)
    problems = plan.train.problems[: plan.train.count]
    step = max(1, len(problems) // options.prompts)  # not the first ones: a file may be sorted by length
    task = Task(
        engine=config.engine,
        folder=folder,
        settings=job.settings,
        gpu=gpu,
        problems=tuple(problems[::step][: options.prompts]),
        shots=tuple(shots_of(problems, job.settings.shots)),
        per_block=job.problems_per_block,
    )
    sequences = len(task.problems) * job.settings.samples_per_block
    varied = asked or tuning.axes(config.engine, sequences, gpu=gpu)
    return Tuning(task, varied, f"{job.model.name} ({weights})")


def on_gpus(config: Config) -> bool:
    """Whether engines get GPUs here. Raises ConfigError where there are too few."""
    engine, here = config.engine, usable_gpus()
    if engine.device == "cpu" or (engine.device == "auto" and not here):
        return False
    if here < engine.gpus:
        raise ConfigError(
            f"an engine takes {engine.gpus:g} GPUs (engine.tensor_parallel_size x engine.pipeline_parallel_size) and "
            f"this machine has {here}: tune on a machine like those that will sample, or set --engine.device=cpu"
        )
    return True


def sampling_of(plan: Plan, name: str | None) -> SamplingJob:
    """The sampling of the training problems by a model of the config. Raises ConfigError."""
    jobs = {job.sampling.model.name: job.sampling for job in plan.collected}
    if name is not None and name not in jobs:
        raise ConfigError(f"--model: no model {name!r} samples in this config: use {', '.join(jobs)}")
    here = [job for job in jobs.values() if job.settings.engine == "vllm"]
    job = jobs[name] if name is not None else next(iter(here), None)
    if job is None or job.settings.engine != "vllm":
        what = f"model {name!r} is" if name is not None else "the models that sample are"
        raise ConfigError(
            f"{what} not sampled by vLLM on this machine, but scripted or behind an endpoint: no settings"
        )
    return job


def files_of(model: ModelRef, plan: Plan, store: Store) -> tuple[Path, str]:
    """Local folder of the model's files, and which weights these are: fine-tuned, or its base's. Raises ModelError."""
    from rft_ray.data.base_weights import fetch_base
    from rft_ray.sampling.engine_host import model_folder
    from rft_ray.store.models.committed import committed_model

    if model.stage == "base":
        return model_folder(store, model)[0], "as it is"
    if committed_model(store, model.fingerprint):
        return model_folder(store, model)[0], f"fine-tuned, from {store.url}"
    [source] = [spec.source for spec in plan.config.models if spec.name == model.name]
    return fetch_base(store, source, plan.bases[model.name]), "its base's weights: the run has not fine-tuned it yet"


def describe(tuning: Tuning, options: argparse.Namespace) -> str:
    """What will be tried."""
    from rft_ray.sampling.tuning import as_yaml, value_of

    task = tuning.task
    lines = [
        f"{len(task.problems)} prompts x {task.settings.samples_per_block} samples of {tuning.model}, on "
        f"{'GPUs' if task.gpu else 'CPU'}, for {options.minutes:g} minutes at most",
        "first the config's own settings, then from the fastest:",
    ]
    for axis in tuning.varied:
        values = ", ".join(map(as_yaml, axis.values))
        lines.append(f"  {axis.key}: {values} (own: {as_yaml(value_of(task.engine, axis.key))})")
    return "\n".join(lines)


def carry_out(tuning: Tuning, seconds: float) -> int:
    """Search, showing each trial, and print the table and the advice. Returns the exit code."""
    from rft_ray.sampling.tuning import Measured, OutOfTime, Search, advice, label, table
    from rft_ray.sampling.tuning_trials import run_trial

    deadline = time.monotonic() + seconds

    def left() -> float:
        return deadline - time.monotonic()

    def measure(engine: Engine, sampling_s: float) -> Outcome:
        if left() <= 0:
            raise OutOfTime
        print(f"{len(search.trials) + 1}: {label(engine, search.own)}", flush=True)
        outcome = run_trial(replace(tuning.task, engine=engine), sampling_s, left(), _show)
        _show(f"{outcome.tokens_per_s:,.0f} tokens/s" if isinstance(outcome, Measured) else outcome.reason)
        return outcome

    search = Search(tuning.task.engine, measure, left)
    stopped = 0
    signal.signal(signal.SIGTERM, _raise_sigterm)
    try:
        search.run(tuning.varied)
    except KeyboardInterrupt as notice:
        stopped = 143 if notice.args else 130
    if search.trials:
        print(f"\n{table(search)}\n\n{advice(search)}", flush=True)
    if stopped:
        print("stopped: settings that were not tried may be faster", file=sys.stderr)
        return stopped
    if search.winner is None:
        print(
            "error: no settings could be measured: see above, or give more --minutes or fewer --prompts",
            file=sys.stderr,
        )
        return 1
    if left() <= 0:
        print(f"note: the search ended after {seconds / 60:g} minutes; more --minutes would try more", file=sys.stderr)
    return 0


def _show(text: str) -> None:
    print(f"   {text}", flush=True)


def _raise_sigterm(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")
