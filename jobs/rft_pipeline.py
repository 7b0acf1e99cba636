"""The whole of RFT as one job: `ray job submit -- python jobs/rft_pipeline.py --config FILE [--section.key=value …]`.

Submitting the same run again resumes it; a finished run does nothing. Exit codes: 0 done, 1 a stage failed or samples
are missing, 2 the config, the data or a model cannot be used, 143 stopped by SIGTERM (docs/reliability.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.running import carry_out
from rft_ray.config import Config, load
from rft_ray.runtime.ray_cluster import prepare_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parsed options, and the `--section.key=value` overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, e.g. jobs/configs/demo.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print config, plan and estimate; start nothing")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N training problems")
    parser.add_argument("--gpu", action="store_true", help="with --dry-run: estimate for GPUs")
    options, rest = parser.parse_known_args(argv)
    for extra in rest:
        if not extra.startswith("--") or "=" not in extra:
            parser.error(f"unknown argument {extra!r}; settings are written --section.key=value")
    if options.limit is not None:
        rest += [f"--problems.train.limit={options.limit}", "--problems.train.fraction=null"]
    return options, rest


def dry_run(config: Config, *, gpu: bool) -> None:
    """Print the resolved config, the plan of shards, and an estimate. Starts neither Ray nor an engine."""
    from rft_ray import pipeline
    from rft_ray.data import base_models
    from rft_ray.plan import cost
    from rft_ray.store.shards import missing_shards

    plan, store = pipeline.prepare(config)
    sizes = {model.name: cost.parameters(base_models.resolve(model.source)) for model in config.models}
    print(config.to_yaml())
    print(cost.describe(plan, sizes, gpu=gpu))
    shards = list(plan.completion_shards())
    print(
        f"store: {store.url}\nshards of completions: {len(shards):,}, missing: {len(missing_shards(store, shards)):,}"
    )


def main(argv: Sequence[str]) -> int:
    options, overrides = arguments(argv)
    prepare_environment()
    return carry_out(lambda: prepare(options, overrides))


def prepare(options: argparse.Namespace, overrides: Sequence[str]) -> Callable[[], None] | None:
    """Read and check everything. Returns the run, to be started; None after a dry run."""
    config = load(options.config, overrides)
    if options.dry_run:
        dry_run(config, gpu=options.gpu)
        return None

    from rft_ray import pipeline
    from rft_ray.runtime.ray_cluster import check_shared

    plan, store = pipeline.prepare(config)
    store.check()
    for problem in pipeline.leaks(plan):
        print(f"warning: this test question is in the training set too: {problem.question[:100]!r}")

    def work() -> None:
        check_shared(store)
        summary = pipeline.run(plan, store)
        print(f"finished: {store.url}/summary.json ({summary['seconds']:.0f} s of work)")

    return work


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
