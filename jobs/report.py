"""Rebuild the report of a run, or of a scaling study, from what it has committed.

    python jobs/report.py --run runs/demo

Starts no Ray and needs no network, except for a run on S3. Replaces `report.html` in the run, or `study.html` in
the study. Exit codes: 0 done, 2 the
run cannot be read or has no summary yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rft_ray.data.row_files import DataError
from rft_ray.report.write import write_report, write_study_report
from rft_ray.store import StoreError, open_store
from rft_ray.store.models.folder import ModelError
from rft_ray.study.result import KEY

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout as well as installed


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="RUN", help="local folder or s3://bucket/prefix of a run")
    options = parser.parse_args(argv)
    try:
        store = open_store(options.run)
        print(write_study_report(store) if store.exists(KEY) else write_report(store))
    except (DataError, ModelError, StoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
