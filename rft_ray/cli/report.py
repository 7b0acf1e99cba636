"""Rebuild the report of a run or of a scaling study from its committed files.

    rft-ray report runs/demo

Does not start Ray, and needs no network unless the run is on S3. Replaces the run's `report.html`, or the study's
`study.html`. Exit codes: 0 done, 2 the run cannot be read or has no summary yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rft_ray.cli.named_run import add_run, run_of
from rft_ray.config.errors import RftError


def main(argv: Sequence[str], prog: str = "rft-ray report") -> int:
    """Write the report and return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run(parser, "a run or of a study")
    options = parser.parse_args(argv)
    try:
        print(_write(run_of(parser, options, "summary.json", "study.json")))
    except (RftError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(run: str) -> str:
    """Write the report of a run or of a study. Returns a line that says where it is."""
    from rft_ray.report.write import write_report, write_study_report
    from rft_ray.store import open_run
    from rft_ray.study.result import KEY

    store = open_run(run)
    return write_study_report(store) if store.exists(KEY) else write_report(store)
