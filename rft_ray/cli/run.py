"""Run the whole of RFT as one job: fine-tune, sample, verify, merge, fine-tune again, evaluate.

    rft-ray run demo
    rft-ray run mine.yaml --dry-run
    rft-ray run mine.yaml --run.name=second --sampling.samples_per_problem=40

CONFIG is a YAML file, or the name of a shipped config: {configs}.
Every value of the config can be set by `--section.key=value`; `--dry-run` prints all keys with their values, and
notes what would go wrong; docs/configuration.md explains every key. Sections:
    {sections}

A file of problems is .jsonl, .json, .csv, .tsv, .parquet or .arrow. Its columns (question, answer, solution) are found
by name, or named in the config: docs/your-data.md.

Running it again resumes the run; a finished run does nothing. Exit codes: 0 done, 1 a stage failed or samples are
missing, 2 the config, the data or a model cannot be used, 130 stopped by Ctrl-C, 143 stopped by SIGTERM
(docs/run.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rft_ray.cli.job import (
    carry_out,
    check_before,
    check_engines_here,
    check_memory_here,
    check_writable,
    config_file,
    for_gpus,
    parse,
    shipped_configs,
    show_memory,
    start,
)
from rft_ray.config import ENDPOINT, Config, load

if TYPE_CHECKING:
    from rft_ray.plan.memory_plan import Needs
    from rft_ray.plan.run_plan import Plan


def main(argv: Sequence[str], prog: str = "rft-ray run") -> int:
    """Run the job and return its exit code."""
    options, settings = arguments(argv, prog)
    return carry_out(lambda: prepare(options, settings))


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """Parsed options, and the `--section.key=value` settings."""
    configs, sections = ", ".join(shipped_configs()), ", ".join(Config.model_fields)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG [--section.key=value …] [--limit N] [--dry-run [--gpu]]",
        description=(__doc__ or "").format(configs=configs, sections=sections),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="print config, plan and estimate; start nothing")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N training problems, whole blocks")
    parser.add_argument("--gpu", action="store_true", help="with --dry-run: estimate for GPUs")
    options, settings = parse(parser, argv)
    if options.gpu and not options.dry_run:
        parser.error("--gpu belongs to --dry-run: a run uses GPUs by --training.device and --engine.device")
    if options.limit is not None:
        settings += [f"--problems.train.limit={options.limit}", "--problems.train.fraction=null"]
    return options, settings


def prepare(options: argparse.Namespace, settings: Sequence[str]) -> Callable[[], None] | None:
    """Read and check everything. Returns the run as a function, or None after a dry run."""
    config = load(config_file(options.config), settings)
    if options.dry_run:
        dry_run(config, gpu=options.gpu)
        return None

    from rft_ray import pipeline
    from rft_ray.plan import memory, memory_plan
    from rft_ray.store import mark_run

    plan, store = pipeline.prepare(config)
    finished = pipeline.finished(plan, store)
    if not finished:  # before anything is written
        check_before(plan.config, plan.train, plan.test, plan.sources)
        if card := memory.planned_card(config):
            memory_plan.check(memory_needs(plan), card)
    store.check()
    mark_run(store)

    def work() -> None:
        if not finished:  # else there is nothing to start Ray for
            start(store)
            check_engines_here(config)
            check_memory_here(config, lambda: memory_needs(plan))
        summary = pipeline.run(plan, store)
        print(f"finished: {store.url}/summary.json ({summary.seconds:.0f} s of work)")

    return work


def memory_needs(plan: Plan) -> Needs:
    """What decides the memory of the run's trainings and engines."""
    from rft_ray.plan import cost, memory_plan, samplers

    shapes = memory_plan.shapes_of(samplers.sources(plan.config).values())
    prompt, _ = cost.mean_tokens(plan.config, plan.train)
    return memory_plan.needs(plan.config, plan.trainings, plan.samplings, shapes, prompt)


def dry_run(config: Config, *, gpu: bool) -> None:
    """Print the resolved config, the plan of shards, and an estimate. Starts neither Ray nor an engine."""
    from rft_ray import pipeline
    from rft_ray.data import base_models
    from rft_ray.plan import cost, samplers

    gpu = for_gpus(config, asked=gpu)
    plan, store = pipeline.prepare(config)
    check_writable(store)
    plan = pipeline.to_run(plan, store)
    shards = list(plan.completion_shards())
    left = cost.work_left(store, shards, [job.fingerprint for job in plan.trainings])  # an error is the first line
    sources = samplers.sources(plan.config)
    sizes = {name: 0 if source.startswith(ENDPOINT) else base_models.size(source) for name, source in sources.items()}
    estimate = cost.describe(plan, sizes, left, gpu=gpu)
    print(config.to_yaml())
    if pipeline.finished(plan, store):
        print(pipeline.NOTHING_TO_DO)
    else:
        check_before(plan.config, plan.train, plan.test, plan.sources)
    print(estimate)
    if not pipeline.finished(plan, store):
        show_memory(memory_needs(plan), gpu=gpu)
    print(f"store: {store.url}\nshards of completions: {len(shards):,}, missing: {len(left.shards):,}")
