"""Answer the paper's scaling questions as one job: train, sample and evaluate every point, then compare them.

    rft-ray study study --dry-run
    rft-ray study study
    rft-ray study study --markdown study.md

CONFIG is a YAML file, or the name of a shipped config: study, study_smollm2. `--study.KEY=value` sets the points;
`--dry-run` lists them. Keys:
    {keys}
docs/configuration.md explains these and all other keys; `rft-ray run --help` names the columns of a file of problems.

Trains, samples and evaluates what is missing, then writes `<store>/<name>/study.json`; the same command resumes after
an interruption, and a wider grid trains only its new points. It takes hours: use `nohup … &` or
`ray job submit --no-wait -- …`.
Exit codes: 0 done, 1 a stage failed (run it again), 2 the config, the data or a model cannot be used, 130 stopped by
Ctrl-C, 143 stopped by SIGTERM (docs/run.md).
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rft_ray.cli.job import (
    carry_out,
    check_before,
    check_engines_here,
    check_memory_here,
    check_out,
    check_writable,
    config_file,
    for_gpus,
    parse,
    show_memory,
    start,
)
from rft_ray.config import Config, load
from rft_ray.config import Study as StudyConfig

if TYPE_CHECKING:
    from rft_ray.plan.memory_plan import Needs
    from rft_ray.store import Store
    from rft_ray.study.plan import StudyPlan
    from rft_ray.study.result import Study


def main(argv: Sequence[str], prog: str = "rft-ray study") -> int:
    """Run the job and return its exit code."""
    options, settings = arguments(argv, prog)
    return carry_out(lambda: prepare(options, settings, command=f"{prog} {shlex.join(argv)}"))


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """Parsed options, and the `--section.key=value` settings."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG [--section.key=value …] [--dry-run [--gpu] | --markdown FILE]",
        description=(__doc__ or "").format(keys=", ".join(StudyConfig.model_fields)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="print points, trainings and time; start nothing")
    parser.add_argument("--gpu", action="store_true", help="with --dry-run: estimate for a GPU")
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="write the last study.json as a Markdown page; run nothing"
    )
    options, settings = parse(parser, argv)
    if options.gpu and not options.dry_run:
        parser.error("--gpu belongs to --dry-run: a study uses GPUs by --training.device and --engine.device")
    if options.markdown and options.dry_run:
        parser.error("--markdown writes the page of a study that has run: leave out --dry-run")
    return options, settings


def prepare(options: argparse.Namespace, settings: Sequence[str], *, command: str) -> Callable[[], None] | None:
    """Read and check everything. Returns the study as a function, or None when nothing needs Ray."""
    config = load(config_file(options.config), settings)
    if options.markdown:
        write_markdown(config, check_out("--markdown", options.markdown))
        return None
    if options.dry_run:
        dry_run(config, gpu=options.gpu)
        return None

    from rft_ray.plan import memory, memory_plan
    from rft_ray.store import mark_run
    from rft_ray.study import run as study_run

    plan, store = study_run.prepare(config)
    complete = study_run.complete(plan, store)
    if not complete:  # before anything is written
        check_before(plan.config, plan.train, plan.test, plan.sources)
        if card := memory.planned_card(config):
            memory_plan.check(memory_needs(plan), card)
    store.check()
    mark_run(store)
    if complete:
        study_run.save(plan, store)
        print(study_run.NOTHING_TO_DO, flush=True)
        show(study_run.answer(plan, store, study_run.stopwatch(plan, store), command, write_page), store)
        return None

    def work() -> None:
        start(store)
        check_engines_here(config)
        check_memory_here(config, lambda: memory_needs(plan))
        show(study_run.run(plan, store, command, write_page), store)

    return work


def memory_needs(plan: StudyPlan) -> Needs:
    """What decides the memory of the study's trainings and engines."""
    from rft_ray.plan import cost, memory_plan, samplers
    from rft_ray.study.cost import sampling_jobs

    shapes = memory_plan.shapes_of(samplers.sources(plan.config).values())
    prompt, _ = cost.mean_tokens(plan.config, plan.train)
    trainings = [point.training for point in plan.points]
    return memory_plan.needs(plan.config, trainings, sampling_jobs(plan), shapes, prompt)


def dry_run(config: Config, *, gpu: bool) -> None:
    """Print every point, and an estimate. Starts neither Ray nor an engine."""
    from rft_ray.plan.cost import work_left
    from rft_ray.study import cost
    from rft_ray.study import run as study_run

    gpu = for_gpus(config, asked=gpu)
    plan, store = study_run.prepare(config)
    check_writable(store)
    points = [point for late in (False, True) for point in plan.of(late=late)]
    shards = [shard for job in cost.sampling_jobs(plan) for shard in job.shards()]
    left = work_left(store, shards, [point.training.fingerprint for point in points])
    if study_run.complete(plan, store):
        print(study_run.NOTHING_TO_DO)
    else:
        check_before(plan.config, plan.train, plan.test, plan.sources)
    for point in plan.points:
        print(f"  {point.spec.name}")
    for skip in plan.skipped:
        print(f"not answered: question {skip.question}: {skip.reason}")
    print(cost.describe(plan, gpu=gpu, left=left))
    if not study_run.complete(plan, store):
        show_memory(memory_needs(plan), gpu=gpu)
    print(f"store: {store.url}")


def write_markdown(config: Config, file: Path) -> None:
    """Write the last study.json of this config's store as a Markdown page."""
    from rft_ray.store import open_run
    from rft_ray.store.base import partial_file
    from rft_ray.study.result import read_study
    from rft_ray.study.tables import markdown

    page = markdown(read_study(open_run(f"{config.run.store}/{config.run.name}")))
    with partial_file(file) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"written: {file}")


def write_page(store: Store) -> None:
    """Write the study's page and print its address."""
    from rft_ray.report.write import try_study_report

    print(try_study_report(store), flush=True)


def show(study: Study, store: Store) -> None:
    """Print the findings and the address of study.json."""
    for finding in study.findings:
        print(f"  {finding.holds:<8} {finding.paper}\n{'':11}{finding.here}")
    print(f"finished: {store.url}/study.json ({len(study.points)} of {study.planned} points)")
