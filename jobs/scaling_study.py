"""Run the study of the paper's scaling questions as one job: the same as `rft-ray study`.

    python jobs/scaling_study.py --config jobs/configs/study.yaml

Runs `rft_ray/cli/study.py` from a checkout, which need not be installed. `--help` lists the options.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before rft_ray, which need not be installed

from rft_ray.cli.main import call

if __name__ == "__main__":
    sys.exit(call("study", sys.argv[1:], "python jobs/scaling_study.py"))
