"""The paper's scaling questions as one job: `python jobs/scaling_study.py --config jobs/configs/study.yaml`.

Trains, samples and evaluates what is missing, then writes `<store>/<name>/study.json`; the same command goes on after a
kill, and a wider grid adds to what is there. `--dry-run` says how much there is to do, `--markdown FILE` writes the
tables and findings of the last study.json. It takes hours: `nohup … &`, or `ray job submit --no-wait -- …`.
Exit codes: 0 done, 1 a stage failed (run it again), 2 the config, the data or a model cannot be used.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed

from rft_ray.cluster import prepare_environment, start_ray
from rft_ray.config import Config, ConfigError, load


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
    from rft_ray.study import estimate
    from rft_ray.study import run as study_run

    plan, store = study_run.prepare(config)
    missing = {late: study_run.missing(plan, store, late=late) for late in (False, True)}
    for point in plan.points:
        print(f"  {point.spec.name}")
    for skip in plan.skipped:
        print(f"not answered: question {skip.question}: {skip.reason}")
    print(estimate.describe(plan, gpu=gpu, missing=missing))
    print(f"store: {store.url}")


def write_markdown(config: Config, file: Path) -> None:
    """The last study.json of this config's store as a Markdown page."""
    from rft_ray.store import open_store
    from rft_ray.study import read_study
    from rft_ray.study.tables import markdown

    file.write_text(markdown(read_study(open_store(f"{config.run.store}/{config.run.name}"))), encoding="utf-8")
    print(f"written: {file}")


def command_of(argv: Sequence[str]) -> str:
    """The command line that makes the study again."""
    return shlex.join(["python", "jobs/scaling_study.py", *argv])


def main(argv: Sequence[str]) -> int:
    options, overrides = arguments(argv)
    prepare_environment()
    try:
        config = load(options.config, overrides)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from ray.exceptions import RayError

    from rft_ray import stages
    from rft_ray.models import ModelError
    from rft_ray.problems import DataError
    from rft_ray.store import StoreError
    from rft_ray.study import run as study_run
    from rft_ray.training import TrainingError

    try:
        if options.markdown:
            write_markdown(config, options.markdown)
            return 0
        if options.dry_run:
            dry_run(config, gpu=options.gpu)
            return 0
        plan, store = study_run.prepare(config)
        store.check()
    except (ConfigError, DataError, ModelError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        if study_run.complete(plan, store):
            print("nothing to do: every point is trained and evaluated", flush=True)
            study = study_run.answer(plan, store, study_run.stopwatch(plan, store), command_of(argv))
        else:
            start_ray()
            stages.check_shared(store)
            study = study_run.run(plan, store, command_of(argv))
    except (stages.StageError, TrainingError, StoreError, ModelError) as error:
        print(f"error: {error}\nwhat is committed stays: run the same command again to go on", file=sys.stderr)
        return 1
    except (ConnectionError, RayError) as error:
        print(f"error: Ray: {stages.cause_of(error)}\nwhat is committed stays", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is committed stays: run the same command again to go on", file=sys.stderr)
        return 130
    for finding in study.findings:
        print(f"  {finding.holds:<8} {finding.paper}\n{'':11}{finding.here}")
    print(f"finished: {store.url}/study.json ({len(study.points)} of {study.planned} points)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
