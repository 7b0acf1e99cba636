"""Rebuild the report of a run, or of a scaling study, as `rft-ray report` does it.

    python jobs/report.py --run runs/demo

`rft_ray/cli/report.py`, from a checkout that need not be installed. `python jobs/report.py --help` says more.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], prog="python jobs/report.py"))
