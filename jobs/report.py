"""Rebuild the report of a run, or of a scaling study: the same as `rft-ray report`.

    python jobs/report.py runs/demo

Runs `rft_ray/cli/report.py` from a checkout, which need not be installed. `--help` lists the options.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("report", sys.argv[1:], "python jobs/report.py"))
