"""The paper's scaling questions as one job: `python jobs/scaling_study.py --config jobs/configs/study.yaml`.

Trains, samples and evaluates what is missing, then writes `<store>/<name>/study.json`; the same command goes on after a
kill, and a wider grid adds to what is there. `--dry-run` says how much there is to do, `--markdown FILE` writes the
tables and findings of the last study.json. It takes hours: `nohup … &`, or `ray job submit --no-wait -- …`.
Exit codes: 0 done, 1 a stage failed (run it again), 2 the config, the data or a model cannot be used, 143 stopped by
SIGTERM (docs/reliability.md).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.running import carry_out
from rft_ray.config import Config, load
from rft_ray.runtime.ray_cluster import prepare_environment

if TYPE_CHECKING:
    from rft_ray.store import Store
    from rft_ray.study.result import Study


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parsed options, and the `--section.key=value` overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, e.g. jobs/configs/study.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print points, trainings and time; start nothing")
    parser.add_argument("--gpu", action="store_true", help="with --dry-run: estimate for a GPU")
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="write the last study.json as a page; run nothing"
    )
    options, rest = parser.parse_known_args(argv)
    for extra in rest:
        if not extra.startswith("--") or "=" not in extra:
            parser.error(f"unknown argument {extra!r}; settings are written --section.key=value")
    return options, rest


def dry_run(config: Config, *, gpu: bool) -> None:
    """Print every point, and an estimate. Starts neither Ray nor an engine."""
    from rft_ray.study import cost
    from rft_ray.study import run as study_run

    plan, store = study_run.prepare(config)
    missing = {late: study_run.missing(plan, store, late=late) for late in (False, True)}
    for point in plan.points:
        print(f"  {point.spec.name}")
    for skip in plan.skipped:
        print(f"not answered: question {skip.question}: {skip.reason}")
    print(cost.describe(plan, gpu=gpu, missing=missing))
    print(f"store: {store.url}")


def write_markdown(config: Config, file: Path) -> None:
    """The last study.json of this config's store as a Markdown page."""
    from rft_ray.store import open_store
    from rft_ray.study.result import read_study
    from rft_ray.study.tables import markdown

    file.write_text(markdown(read_study(open_store(f"{config.run.store}/{config.run.name}"))), encoding="utf-8")
    print(f"written: {file}")


def command_of(argv: Sequence[str]) -> str:
    """The command line that makes the study again."""
    return shlex.join(["python", "jobs/scaling_study.py", *argv])


def main(argv: Sequence[str]) -> int:
    options, overrides = arguments(argv)
    prepare_environment()
    return carry_out(lambda: prepare(options, overrides, command_of(argv)))


def prepare(options: argparse.Namespace, overrides: Sequence[str], command: str) -> Callable[[], None] | None:
    """Read and check everything. Returns the study, to be started; None where nothing is left that needs Ray."""
    config = load(options.config, overrides)
    if options.markdown:
        return write_markdown(config, options.markdown)
    if options.dry_run:
        return dry_run(config, gpu=options.gpu)

    from rft_ray.runtime.ray_cluster import check_shared
    from rft_ray.study import run as study_run

    plan, store = study_run.prepare(config)
    store.check()
    if study_run.complete(plan, store):
        print("nothing to do: every point is trained and evaluated", flush=True)
        return tell(study_run.answer(plan, store, study_run.stopwatch(plan, store), command, write_page), store)

    def work() -> None:
        check_shared(store)
        tell(study_run.run(plan, store, command, write_page), store)

    return work


def write_page(store: Store) -> None:
    """Write the study's page, and print where it is."""
    from rft_ray.report.write import try_study_report

    print(try_study_report(store), flush=True)


def tell(study: Study, store: Store) -> None:
    """The findings, and where they are."""
    for finding in study.findings:
        print(f"  {finding.holds:<8} {finding.paper}\n{'':11}{finding.here}")
    print(f"finished: {store.url}/study.json ({len(study.points)} of {study.planned} points)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
