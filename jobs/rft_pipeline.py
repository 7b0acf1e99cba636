"""Run the whole RFT pipeline as one job: the same as `rft-ray run`.

    ray job submit -- python jobs/rft_pipeline.py --config FILE [--section.key=value …]

Runs `rft_ray/cli/run.py` from a checkout, which need not be installed. `--help` lists the options.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("run", sys.argv[1:], "python jobs/rft_pipeline.py"))
